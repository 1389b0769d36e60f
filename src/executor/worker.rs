//! Service: one task per mission: it feeds the machine and carries out what the machine asks for.

use crate::domain::event::{Envelope, MissionEvent};
use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::{MissionState, Transition, transition};
use crate::domain::time::Timestamp;
use crate::executor::agent_runtime::COMMON_ENV;
use crate::executor::config::Config;
use crate::executor::digest::Digest;
use crate::executor::hitl_files;
use crate::executor::log_file;
use crate::executor::machine::{Effect, Event, Machine, Outcome, Refusal, Run, RunKind};
use crate::executor::mission_order::MissionOrder;
use crate::executor::process_table;
use crate::executor::process_tree;
use crate::executor::provision::git::git;
use crate::executor::provision::git_save;
use crate::executor::provision::orchestrator::{DEFAULT_DISCOVERY_FILE, Environment, Orchestrator, Order};
use crate::executor::provision::provider::{Disposal, Kept};
use crate::executor::reporter::{Reporter, Weight};
use crate::executor::runner_link::{self, RunnerLink};
use crate::executor::runner_protocol::{Ended, Exit, FromRunner, RUN_VARIABLE, RunOrder, ToRunner};
use crate::executor::store::{MissionRecord, Store};
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::MAX_RECENT_EVENTS;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    environment: Option<Environment>,
    env: BTreeMap<String, String>,
    permit: Option<OwnedSemaphorePermit>,
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
        (Begin::Resume, Some(run)) => {
            let elapsed = record.begun_at.map_or(Duration::ZERO, |begun| now.wall.since(begun));
            Machine::resumed(plan, run.clone(), elapsed, now)
        }
        (Begin::Resume | Begin::Fresh, _) => Machine::new(plan, now),
    };
    let mut unit = Unit {
        shared,
        record,
        order,
        machine,
        link: None,
        environment: None,
        env: BTreeMap::new(),
        permit: None,
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
            Begin::Release(outcome) => {
                self.find_environment();
                self.release(outcome);
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

    fn find_environment(&mut self) {
        let workspace = &self.shared.config.workspace;
        match Orchestrator::find_environment(workspace, self.record.mission_id.as_str()) {
            Ok(found) => {
                if let Some(environment) = &found {
                    self.env = environment.inject(DEFAULT_DISCOVERY_FILE).unwrap_or_default();
                }
                self.environment = found;
            }
            Err(error) => {
                tracing::warn!(mission.id = %self.record.mission_id, %error, "the leases of a mission cannot be read");
            }
        }
    }

    /// Finds the process of an earlier executor again.
    async fn take_up(&mut self) {
        let Some(run) = self.record.run.clone() else { return };
        let Ok(directory) = self.shared.store.run_directory(&self.record, &run) else { return };
        let was_suspended = std::mem::take(&mut self.record.suspended);
        if was_suspended || self.record.state == MissionState::Suspended {
            let checkpoint_id = Some(self.record.run_id.clone());
            self.emit(MissionEvent::Reconnected { checkpoint_id }, Weight::Change);
        }
        if let Some(ended) = runner_link::exit_of(&directory) {
            self.feed(Event::Ended(ended)).await;
            return;
        }
        match runner_link::runner_of(&directory) {
            None => {
                // Its order never reached anyone.
                let effects = vec![Effect::Start(run)];
                self.carry_out(effects).await;
            }
            Some(runner) if process_table::is_alive(&runner) => {
                match RunnerLink::reconnect(&directory).await {
                    Ok(link) => {
                        self.link = Some(link);
                        if self.record.paused {
                            // Feeding the order keeps the clocks right; the tree is stopped already.
                            self.feed(Event::OrderPause).await;
                        } else if was_suspended {
                            self.tell_runner(&ToRunner::Resume).await;
                        }
                    }
                    // It may be between its last word and its end.
                    Err(_refused) => self.runner_gone(&directory).await,
                }
            }
            Some(_dead) => self.runner_gone(&directory).await,
        }
    }

    /// Decides what became of a run whose runner does not answer any more.
    async fn runner_gone(&mut self, directory: &Path) {
        self.link = None;
        let runner = runner_link::runner_of(directory);
        for _ in 0..100 {
            if runner_link::exit_of(directory).is_some()
                || !runner.as_ref().is_some_and(process_table::is_alive)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = if let Some(ended) = runner_link::exit_of(directory) {
            ended
        } else {
            kill_marked(&self.record.run_id).await;
            Ended {
                run_id: self.record.run_id.clone(),
                exit: Exit::Unknown,
                at: clock::wall(),
                digest: Digest::default(),
                stopped: false,
            }
        };
        self.feed(Event::Ended(ended)).await;
    }

    async fn work(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        let mut look = tokio::time::interval(LOOK_FOR_QUESTIONS);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.machine.is_finished() {
            let wake = self.machine.next_wakeup().map(Instant::from_std);
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
                () = sleep_until(wake), if wake.is_some() => self.feed(Event::Tick).await,
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
            FromRunner::Started { process } => {
                if let Some(environment) = self.environment.clone()
                    && let Some(runner) = self.run_directory().and_then(|d| runner_link::runner_of(&d))
                    && let Err(error) = self.shared.orchestrator.share(&environment, &runner).await
                {
                    tracing::warn!(mission.id = %self.record.mission_id, %error, "failed to share leases with a runner");
                }
                self.feed(Event::Started { pid: process.pid }).await;
            }
            FromRunner::Output { digest } => self.feed(Event::Output(digest)).await,
            FromRunner::Paused => self.feed(Event::Paused).await,
            FromRunner::Resumed => self.feed(Event::Resumed).await,
            FromRunner::Ended { ended } => {
                self.link = None;
                self.feed(Event::Ended(ended)).await;
            }
        }
    }

    async fn lost_runner(&mut self) {
        match self.run_directory() {
            Some(directory) => self.runner_gone(&directory).await,
            None => self.link = None,
        }
    }

    async fn finished(&mut self, internal: Internal) {
        match internal {
            Internal::Slot(permit) => {
                self.permit = Some(permit);
                self.feed(Event::SlotFree).await;
            }
            Internal::Provisioned(Ok((environment, env))) => {
                (self.environment, self.env) = (Some(environment), env);
                self.record.begun_at = Some(clock::wall());
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
                Effect::Provision => self.provision(),
                Effect::Start(run) => {
                    if let Err(error) = self.start(&run).await {
                        let ended = Ended {
                            run_id: self.record.run_id.clone(),
                            exit: Exit::NotStarted { error },
                            at: clock::wall(),
                            digest: Digest::default(),
                            stopped: false,
                        };
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
                Effect::Release(outcome) => self.release(outcome),
                Effect::Emit(event) => {
                    let is_progress = matches!(event, MissionEvent::Progress { .. });
                    let weight = if is_progress { Weight::Progress } else { Weight::Change };
                    self.emit(event, weight);
                }
                Effect::Finish(event) => self.finish(event),
            }
        }
    }

    async fn tell_runner(&mut self, order: &ToRunner) {
        if let Some(link) = &mut self.link
            && let Err(error) = link.send(order).await
        {
            tracing::warn!(mission.id = %self.record.mission_id, %error, "a runner does not take an order");
        }
    }

    fn provision(&mut self) {
        let order = Order {
            session_id: self.record.mission_id.as_str().to_owned(),
            workspace_root: self.shared.config.workspace.clone(),
            resources: self.order.resources.clone(),
            owner: Some(process_table::own()),
        };
        let (shared, results) = (Arc::clone(&self.shared), self.internal.0.clone());
        self.background(async move {
            let provisioned = if order.resources.is_empty() {
                // Nothing to write down, nothing to give back.
                Ok(None)
            } else {
                shared.orchestrator.provision(&order).await.map(Some).map_err(|error| error.to_string())
            };
            let outcome = match provisioned {
                Ok(Some(environment)) => match environment.inject(DEFAULT_DISCOVERY_FILE) {
                    Ok(env) => Ok((environment, env)),
                    Err(error) => {
                        drop(shared.orchestrator.release(&environment, Disposal::Save).await);
                        Err(error.to_string())
                    }
                },
                Ok(None) => Ok((Environment::empty(&order), BTreeMap::new())),
                Err(error) => Err(error),
            };
            drop(results.send(Internal::Provisioned(outcome)).await);
        });
    }

    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn("mission resources", work);
    }

    fn run_directory(&self) -> Option<PathBuf> {
        let run = self.record.run.as_ref()?;
        self.shared.store.run_directory(&self.record, run).ok()
    }

    fn hitl_directory(&self) -> PathBuf {
        self.shared.store.directory_of(&self.record.mission_id).join("hitl")
    }

    async fn start(&mut self, run: &Run) -> Result<(), String> {
        self.record.run = Some(run.clone());
        self.record.updated_at = clock::wall();
        // On disk before the process is: a restart must not start it a second time.
        self.shared.store.write(&self.record, true).map_err(|error| error.to_string())?;
        let directory =
            self.shared.store.run_directory(&self.record, run).map_err(|error| error.to_string())?;
        let log = self.shared.store.directory_of(&self.record.mission_id);
        let hitl = self.hitl_directory();
        std::fs::create_dir_all(&hitl).map_err(|error| format!("make {}: {error}", hitl.display()))?;
        let working = self
            .environment
            .as_ref()
            .map_or_else(|| self.shared.config.workspace.clone(), |e| e.snapshot().working_directory);
        let order = self.run_order(run, working);
        if run.kind != RunKind::Agent || run.iteration > 1 {
            drop(log_file::remark(&log, &format!("{} (round {})", run.name(), run.iteration)));
        }
        let link = RunnerLink::start(&self.shared.config.runner_program, &directory, &log, &order)
            .await
            .map_err(|error| format!("start its runner: {error}"))?;
        self.link = Some(link);
        Ok(())
    }

    fn run_order(&self, run: &Run, directory: PathBuf) -> RunOrder {
        let runtime = &self.order.runtime;
        let inherited = COMMON_ENV.iter().copied().chain(runtime.pass_env.iter().map(String::as_str));
        let mut env: BTreeMap<String, String> = inherited
            .filter_map(|name| std::env::var(name).ok().map(|value| (name.to_owned(), value)))
            .collect();
        env.extend(runtime.env.clone());
        env.extend(self.env.clone());
        env.insert(hitl_files::VARIABLE.to_owned(), self.hitl_directory().display().to_string());
        env.insert("AIWG_MISSION_ID".to_owned(), self.record.mission_id.as_str().to_owned());
        env.insert("AIWG_SESSION_ID".to_owned(), self.record.session_id.clone());
        let sections = self
            .environment
            .as_ref()
            .map(|environment| environment.snapshot().soft_constraints.prompt_sections)
            .unwrap_or_default();
        let command = match run.kind {
            RunKind::Setup => self.order.setup.clone(),
            RunKind::Check => {
                ["/bin/sh", "-c", self.order.check.as_deref().unwrap_or("true")].map(str::to_owned).to_vec()
            }
            RunKind::Agent => {
                let prompt = self.order.prompt(&sections, run.unmet.as_deref());
                runtime.arguments(&prompt, &self.order.objective)
            }
        };
        let is_agent = run.kind == RunKind::Agent;
        RunOrder {
            run_id: self.record.run_id.clone(),
            command,
            directory,
            env,
            terminal: is_agent && runtime.terminal,
            json_progress: is_agent && runtime.json_progress,
            log_limit_bytes: self.shared.config.log_limit_bytes,
            grace_ms: u64::try_from(self.shared.config.grace.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn release(&mut self, outcome: Outcome) {
        self.record.outcome = Some(outcome);
        self.save(true);
        let (shared, results, environment) =
            (Arc::clone(&self.shared), self.internal.0.clone(), self.environment.take());
        let mission = self.record.mission_id.clone();
        self.background(async move {
            let (branch, artifacts, remark) = match environment {
                Some(environment) => give_back(&shared, &environment, &mission).await,
                None => (None, Vec::new(), None),
            };
            drop(results.send(Internal::Released { branch, artifacts, remark }).await);
        });
    }

    fn emit(&mut self, event: MissionEvent, weight: Weight) {
        if let Some(happening) = event.happening()
            && let Transition::To(state) = transition(self.record.state, happening)
        {
            self.record.state = state;
        }
        let frame = self.frame(event);
        self.remember(&frame);
        self.shared.reporter.push(self.record.mission_id.clone(), frame.raw, weight);
        if weight == Weight::Progress {
            self.state.send_replace(self.record.clone());
        } else {
            self.save(false);
        }
    }

    fn frame(&self, event: MissionEvent) -> Frame {
        let now: Timestamp = clock::wall();
        let (executor, mission) = (self.shared.executor.clone(), self.record.mission_id.clone());
        Frame::encode(Envelope::mission(executor, mission, now, event))
    }

    fn remember(&mut self, frame: &Frame) {
        if let Ok(raw) = RawValue::from_string(frame.raw.to_string()) {
            let events = &mut self.record.recent_events;
            if events.len() >= MAX_RECENT_EVENTS {
                events.remove(0);
            }
            events.push(raw);
        }
        self.record.updated_at = frame.envelope.ts;
    }

    fn finish(&mut self, event: MissionEvent) {
        if let Some(happening) = event.happening()
            && let Transition::To(state) = transition(self.record.state, happening)
        {
            self.record.state = state;
        }
        tracing::info!(mission.id = %self.record.mission_id, mission.state = %self.record.state, "mission ended");
        let frame = self.frame(event);
        self.remember(&frame);
        // On disk before it is told: an executor killed in between tells it again.
        self.save(true);
        let directory = self.shared.store.directory_of(&self.record.mission_id);
        drop(std::fs::remove_dir_all(directory.join(&self.record.run_id)));
        drop(std::fs::remove_dir_all(directory.join("hitl")));
        self.shared.reporter.push(self.record.mission_id.clone(), frame.raw, Weight::Last);
    }

    fn save(&mut self, sync: bool) {
        self.record.updated_at = clock::wall();
        if let Err(error) = self.shared.store.write(&self.record, sync) {
            tracing::error!(mission.id = %self.record.mission_id, %error, "failed to write down a mission");
        }
        self.state.send_replace(self.record.clone());
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
        self.emit(event, Weight::Change);
        self.save(true);
        true
    }
}

async fn next_of(link: &mut Option<RunnerLink>) -> Option<FromRunner> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Kills every process that carries a run's mark, until a look finds none.
pub async fn kill_marked(run_id: &str) {
    for _ in 0..250 {
        let found = process_tree::marked(RUN_VARIABLE, run_id);
        if found.is_empty() {
            return;
        }
        for process in found {
            drop(process_tree::signal(process.pid, rustix::process::Signal::KILL));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::warn!(run.id = run_id, "processes of a lost run could not be killed");
}

async fn give_back(
    shared: &Shared,
    environment: &Environment,
    mission: &MissionId,
) -> (Option<String>, Vec<String>, Option<String>) {
    let artifacts = changed_files(environment).await;
    match shared.orchestrator.release(environment, Disposal::Save).await {
        Ok(released) => {
            let stays = released.kept.iter().find_map(|kept| match kept {
                Kept::InPlace { path, why } => Some(format!("{} stays: {why}", path.display())),
                Kept::Branch { .. } => None,
            });
            (released.branch().map(str::to_owned), artifacts, stays)
        }
        Err(error) => {
            tracing::warn!(mission.id = %mission, %error, "failed to give resources back");
            let branch = error.kept.iter().find_map(|kept| match kept {
                Kept::Branch { name, .. } => Some(name.clone()),
                Kept::InPlace { .. } => None,
            });
            (branch, artifacts, Some(format!("some resources could not be given back: {error}")))
        }
    }
}

/// Lists what a mission changed in its worktree, against the commit that it started from.
async fn changed_files(environment: &Environment) -> Vec<String> {
    const MOST: usize = 1000;
    let record = environment.record();
    let mut files = std::collections::BTreeSet::new();
    for lease in &record.leases {
        let text = |key: &str| lease.allocation.get(key).and_then(|value| value.as_str());
        let (Some(path), Some(base)) = (text("worktreePath"), text("baseCommit")) else { continue };
        let path = Path::new(path);
        let Ok(work) = git_save::inspect(path, &[]).await else { continue };
        let own = |file: &PathBuf| file.starts_with(".agent-context");
        files.extend(work.changed.iter().filter(|file| !own(file)).map(|file| file.display().to_string()));
        if let Ok(text) = git(path, ["diff", "--name-only", "-z", base, "HEAD"]).bytes().await {
            let names = crate::executor::provision::git::records(&text);
            files.extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
        }
    }
    files.into_iter().take(MOST).collect()
}
