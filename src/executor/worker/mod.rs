//! Service: one task per mission: it feeds the machine and carries out what the machine asks for.
//!
//! What it does is in a file per concern: [`launch`] starts runs, [`recovery`] finds those of an earlier process again,
//! [`resources`] leases and gives back, [`record`] writes down and reports.

mod launch;
mod record;
mod recovery;
mod resources;

use crate::domain::event::MissionEvent;
use crate::domain::id::ExecutorId;
use crate::domain::lifecycle::MissionState;
use crate::executor::claim;
use crate::executor::config::Config;
use crate::executor::digest::Digest;
use crate::executor::effect::{Effect, Event, Refusal};
use crate::executor::hitl_files;
use crate::executor::machine::Machine;
use crate::executor::mission_order::MissionOrder;
use crate::executor::outcome::Outcome;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::provision::orchestrator::{Environment, Orchestrator};
use crate::executor::reporter::Reporter;
use crate::executor::run::Run;
use crate::executor::runner_link::RunnerLink;
use crate::executor::runner_pool::RunnerPool;
use crate::executor::runner_protocol::{Ended, Exit, FromRunner, RunFiles, ToRunner};
use crate::executor::store::{MissionRecord, Store};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

/// How often the question directory is looked at.
const LOOK_FOR_QUESTIONS: Duration = Duration::from_millis(250);

/// How many orders may wait for one mission.
pub const INBOX: usize = 32;

/// What every mission of an executor shares.
#[derive(Debug)]
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// Who we are.
    pub executor: ExecutorId,
    /// Missions on disk.
    pub store: Store,
    /// Resources.
    pub orchestrator: Orchestrator,
    /// What the registry has to hear.
    pub reporter: Reporter,
    /// The processes between it and its agents.
    pub runners: RunnerPool,
    /// Missions that may run at once.
    pub slots: Arc<Semaphore>,
    /// Everything that runs.
    pub tasks: Tasks,
}

/// Something for one mission.
#[derive(Debug)]
pub enum Message {
    /// An order of an operator; the answer is the state after it.
    Order(Box<Event>, oneshot::Sender<Result<MissionState, Refusal>>),
    /// Freeze or stop watching, and end the task.
    Leave,
}

/// How a unit begins.
#[derive(Debug)]
pub enum Begin {
    /// From the start.
    Fresh,
    /// From the start, with a slot and no resources to wait for; its record says already that its first run begins.
    AtOnce(OwnedSemaphorePermit),
    /// In the middle of a run that an earlier process started.
    Resume,
    /// Its end is known, its resources are not back.
    Release(Outcome),
}

enum Internal {
    Slot(OwnedSemaphorePermit),
    Provisioned(Result<(Environment, BTreeMap<String, String>), String>),
    Released { branch: Option<String>, artifacts: Vec<String>, remark: Option<String> },
}

/// One mission at work.
pub struct Unit {
    shared: Arc<Shared>,
    record: MissionRecord,
    order: MissionOrder,
    machine: Machine,
    link: Option<RunnerLink>,
    /// The line to a runner that has told its end and keeps it until that is written down.
    told: Option<RunnerLink>,
    /// How often a runner was gone before it had begun.
    unbegun: u32,
    /// A run of it had no executor to listen.
    may_have_files: bool,
    environment: Option<Environment>,
    env: BTreeMap<String, String>,
    permit: Option<OwnedSemaphorePermit>,
    promised: Option<Run>,
    save_at: Option<Instant>,
    internal: (mpsc::Sender<Internal>, mpsc::Receiver<Internal>),
    state: watch::Sender<MissionRecord>,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit").field("mission", &self.record.mission_id).finish_non_exhaustive()
    }
}

/// Runs one mission to its end, or until it is told to leave.
pub async fn run(
    shared: Arc<Shared>,
    record: MissionRecord,
    order: MissionOrder,
    begin: Begin,
    state: watch::Sender<MissionRecord>,
    mut inbox: mpsc::Receiver<Message>,
) {
    let now = clock::now();
    let plan = order.plan.clone();
    let machine = match (&begin, &record.run) {
        (Begin::Release(outcome), _) => Machine::releasing(plan, outcome.clone(), now),
        (Begin::Resume, Some(run)) => Machine::resumed(
            plan,
            run.clone(),
            recovery::elapsed(&record, now),
            record.state != MissionState::Assigned,
            now,
        ),
        (Begin::Resume | Begin::Fresh | Begin::AtOnce(_), _) => Machine::new(plan, now),
    };
    let mut unit = Unit {
        shared,
        record,
        order,
        machine,
        link: None,
        told: None,
        unbegun: 0,
        may_have_files: matches!(begin, Begin::Resume | Begin::Release(_)),
        environment: None,
        env: BTreeMap::new(),
        permit: None,
        promised: None,
        save_at: None,
        internal: mpsc::channel(4),
        state,
    };
    unit.begin(begin).await;
    unit.work(&mut inbox).await;
}

impl Unit {
    async fn begin(&mut self, begin: Begin) {
        match begin {
            Begin::Fresh => {
                self.record.suspended = false;
                self.await_slot();
            }
            Begin::AtOnce(permit) => {
                self.permit = Some(permit);
                self.promised.clone_from(&self.record.run);
                self.feed(Event::SlotFree).await;
            }
            Begin::Release(outcome) => {
                self.find_environment();
                self.carry_out(vec![Effect::Release(outcome)]).await;
            }
            Begin::Resume => {
                self.permit = Arc::clone(&self.shared.slots).try_acquire_owned().ok();
                self.find_environment();
                self.take_up().await;
            }
        }
    }

    fn await_slot(&mut self) {
        let (slots, results) = (Arc::clone(&self.shared.slots), self.internal.0.clone());
        self.background(async move {
            if let Ok(permit) = slots.acquire_owned().await {
                drop(results.send(Internal::Slot(permit)).await);
            }
        });
    }

    async fn work(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        let mut look = tokio::time::interval(LOOK_FOR_QUESTIONS);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.machine.is_finished() {
            let wake = self.machine.next_wakeup().map(Instant::from_std);
            let save_at = self.save_at;
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Order(event, answer)) => {
                        let outcome = self.order(*event).await;
                        // Whoever asked may have stopped waiting.
                        let _heard = answer.send(outcome);
                    }
                    Some(Message::Leave) | None => {
                        if self.leave().await {
                            return;
                        }
                    }
                },
                message = next_of(&mut self.link) => match message {
                    Some(message) => self.heard(message).await,
                    None => self.lost_runner().await,
                },
                internal = self.internal.1.recv() => {
                    if let Some(internal) = internal {
                        self.finished(internal).await;
                    }
                }
                () = clock::sleep_until(wake), if wake.is_some() => self.feed(Event::Tick).await,
                () = clock::sleep_until(save_at), if save_at.is_some() => self.save(),
                _ = look.tick(), if self.link.is_some() => self.look_for_questions().await,
            }
        }
    }

    async fn order(&mut self, event: Event) -> Result<MissionState, Refusal> {
        self.machine.check(&event)?;
        self.feed(event).await;
        Ok(self.record.state)
    }

    async fn heard(&mut self, message: FromRunner) {
        match message {
            FromRunner::Started { pid } => {
                if let Some(environment) = self.environment.clone().filter(|e| !e.record().leases.is_empty())
                    && let Ok(Some(runner)) = self.runner()
                    && let Err(error) = self.shared.orchestrator.share(&environment, &runner).await
                {
                    tracing::warn!(mission.id = %self.record.mission_id, %error, "failed to share leases with a runner");
                }
                self.feed(Event::Started { pid }).await;
            }
            FromRunner::Output { digest } => self.feed(Event::Output(digest)).await,
            FromRunner::Paused => {
                if !self.record.paused {
                    // The executor that froze it was killed before it wrote that down.
                    self.tell_runner(&ToRunner::Resume).await;
                }
                self.feed(Event::Paused).await;
            }
            FromRunner::Resumed => self.feed(Event::Resumed).await,
            FromRunner::Ended { ended } => {
                self.told = self.link.take();
                self.feed(Event::Ended(ended)).await;
            }
        }
    }

    async fn finished(&mut self, internal: Internal) {
        match internal {
            Internal::Slot(permit) => {
                self.permit = Some(permit);
                self.feed(Event::SlotFree).await;
            }
            Internal::Provisioned(Ok((environment, env))) => {
                self.provisioned(environment, env);
                self.feed(Event::Provisioned(Ok(()))).await;
            }
            Internal::Provisioned(Err(error)) => self.feed(Event::Provisioned(Err(error))).await,
            Internal::Released { branch, artifacts, remark } => {
                self.feed(Event::Released { branch, artifacts, remark }).await;
            }
        }
    }

    async fn look_for_questions(&mut self) {
        let directory = self.hitl_directory();
        if let Some((id, prompt)) = hitl_files::open_question(&directory) {
            self.feed(Event::Question { id, prompt }).await;
        }
    }

    async fn feed(&mut self, event: Event) {
        let effects = self.machine.on_event(event, clock::now());
        self.carry_out(effects).await;
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut open: std::collections::VecDeque<Effect> = effects.into();
        while let Some(effect) = open.pop_front() {
            match effect {
                Effect::Provision => {
                    if let Some(event) = self.provision() {
                        open.extend(self.machine.on_event(event, clock::now()));
                    }
                }
                Effect::Start(run) => {
                    if let Err(error) = self.start(&run).await {
                        let ended = self.ended(Exit::NotStarted { error });
                        open.extend(self.machine.on_event(Event::Ended(ended), clock::now()));
                    }
                }
                Effect::Pause => {
                    self.record.paused = true;
                    self.tell_runner(&ToRunner::Pause).await;
                }
                Effect::Resume => {
                    self.record.paused = false;
                    self.tell_runner(&ToRunner::Resume).await;
                }
                Effect::Stop => {
                    let grace_ms = u64::try_from(self.shared.config.grace.as_millis()).unwrap_or(u64::MAX);
                    self.tell_runner(&ToRunner::Stop { grace_ms }).await;
                }
                Effect::Type(text) => self.tell_runner(&ToRunner::Input { text }).await,
                Effect::WriteAnswer { id, response } => {
                    if let Err(error) = hitl_files::answer(&self.hitl_directory(), &id, &response) {
                        tracing::error!(mission.id = %self.record.mission_id, %error, "failed to write an answer");
                    }
                }
                Effect::Release(outcome) => {
                    if let Some(event) = self.release(outcome).await {
                        open.extend(self.machine.on_event(event, clock::now()));
                    }
                }
                Effect::Emit(event) => self.emit(event),
                Effect::Finish(event) => self.finish(event).await,
            }
        }
    }

    /// Says of the current run what no runner said.
    fn ended(&self, exit: Exit) -> Ended {
        Ended {
            run_id: self.record.run_id.clone(),
            exit,
            at: clock::wall(),
            digest: Digest::default(),
            stopped: false,
        }
    }

    async fn tell_runner(&mut self, order: &ToRunner) {
        if let Some(link) = &mut self.link
            && let Err(error) = link.send(order).await
        {
            tracing::warn!(mission.id = %self.record.mission_id, %error, "a runner does not take an order");
        }
    }

    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn("mission resources", work);
    }

    fn run_files(&self) -> Option<RunFiles> {
        Some(self.shared.store.run_files(&self.record, self.record.run.as_ref()?))
    }

    /// Returns who has begun the current run, if anybody has; an error when that cannot be known now.
    fn runner(&self) -> std::io::Result<Option<ProcessIdentity>> {
        let Some(files) = self.run_files() else { return Ok(None) };
        claim::runner_of(self.shared.store.claims(), &files.name)
    }

    fn hitl_directory(&self) -> PathBuf {
        self.shared.store.questions_of(&self.record.mission_id)
    }

    /// Lets the runner go whose end is written down now.
    async fn let_runner_go(&mut self) {
        if let Some(link) = self.told.take() {
            self.shared.runners.give_back(link).await;
        }
    }

    /// Freezes what runs; says whether the task may end now.
    async fn leave(&mut self) -> bool {
        if self.record.outcome.is_some() {
            return false;
        }
        if let Some(link) = &mut self.link {
            if link.send(&ToRunner::Pause).await.is_ok() {
                let paused = async {
                    loop {
                        match link.next().await {
                            Some(FromRunner::Paused) | None => break,
                            Some(_other) => {}
                        }
                    }
                };
                drop(tokio::time::timeout(Duration::from_secs(5), paused).await);
            }
            self.link = None;
        }
        self.record.suspended = true;
        let event = MissionEvent::Suspended {
            checkpoint_id: Some(self.record.run_id.clone()),
            reason: Some("the executor was shut down".to_owned()),
        };
        self.emit(event);
        self.save_durably().await;
        true
    }
}

async fn next_of(link: &mut Option<RunnerLink>) -> Option<FromRunner> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}
