//! Service: one line per executor, each in a task of its own, and the questions that make up for what lines miss.
//!
//! A line that brings faster than the folder takes is slowed down, never cut short: its task waits for room. Commands are
//! taken all the time, so that nobody who waits for us is waited for.

use crate::domain::id::{ExecutorId, MissionId};
use crate::events::Config;
use crate::events::client::{self, AskError, Client};
use crate::events::machine::{Answer, Effect, Event, Machine, Why};
use crate::events::messages::{Command, Report};
use crate::net::http::Http;
use crate::protocol::envelope::{Frame, OBSERVER_GAP};
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many answers and changes of lines may wait for the worker.
const INNER_QUEUE: usize = 64;

/// How many commands are carried out before anything else is looked at.
const BATCH: usize = 64;

/// The same trouble is told about at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How long lines may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Follows executors until `shutdown` starts or nobody commands any more.
///
/// Reports wait for room in `reports`; none is dropped.
///
/// # Cancel safety
/// Dropping the future ends the lines without a goodbye.
pub async fn run(
    config: Config,
    http: Http,
    mut commands: mpsc::Receiver<Command>,
    reports: mpsc::Sender<Report>,
    shutdown: Shutdown,
) {
    let (inner, mut news) = mpsc::channel(INNER_QUEUE);
    let mut worker = Worker {
        machine: Machine::new(config.no_ws, u64::from(std::process::id())),
        client: Client::new(http, config.clone()),
        tasks: Tasks::new(shutdown.clone()),
        lines: HashMap::new(),
        generation: 0,
        inner,
        reports: reports.clone(),
        outbox: VecDeque::new(),
        unanswered: Trouble::default(),
        lost: Trouble::default(),
        is_away: false,
    };
    if config.no_ws {
        tracing::info!("streams are off; the registry is asked about live missions instead");
    }
    for executor in config.subscribe {
        worker.feed(Event::Subscribed(executor));
    }
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let wake = worker.machine.next_wakeup().map(tokio::time::Instant::from_std);
        let is_clear = worker.outbox.is_empty();
        tokio::select! {
            () = shutdown.started() => break,
            count = commands.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    break;
                }
                for command in batch.drain(..) {
                    worker.feed(Event::Commanded(command));
                }
            }
            permit = reports.reserve(), if !is_clear => {
                let Ok(permit) = permit else { break };
                if let Some(report) = worker.outbox.pop_front() {
                    permit.send(report);
                }
            }
            Some(news) = news.recv(), if is_clear => worker.on_news(news),
            () = clock::sleep_until(wake), if is_clear => worker.feed(Event::Woken),
        }
    }
    drop(news);
    worker.end().await;
}

/// What a task of ours says to the worker.
#[derive(Debug)]
enum News {
    Up { executor: ExecutorId, generation: u64 },
    Down { executor: ExecutorId, generation: u64, why: Why },
    Answered { mission: MissionId, answer: Result<Answer, AskError> },
}

struct Worker {
    machine: Machine,
    client: Client,
    tasks: Tasks,
    lines: HashMap<ExecutorId, (u64, CancellationToken)>,
    generation: u64,
    inner: mpsc::Sender<News>,
    reports: mpsc::Sender<Report>,
    outbox: VecDeque<Report>,
    unanswered: Trouble,
    lost: Trouble,
    /// The last question was not answered.
    is_away: bool,
}

impl Worker {
    fn feed(&mut self, event: Event) {
        for effect in self.machine.on_event(event, clock::now()) {
            match effect {
                Effect::Dial(executor) => self.dial(executor),
                Effect::HangUp(executor) => {
                    if let Some((_, line)) = self.lines.remove(&executor) {
                        line.cancel();
                    }
                }
                Effect::Ask(mission, executor) => self.ask(mission, executor),
                Effect::TellStatus(mission, status) => {
                    self.outbox.push_back(Report::Snapshot { mission, status });
                }
                Effect::TellNotFound(mission) => self.outbox.push_back(Report::NotFound { mission }),
                Effect::TellLine(executor, why) => self.tell_line(executor, why),
            }
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Up { executor, generation } if self.is_current(&executor, generation) => {
                self.feed(Event::Up(executor));
            }
            News::Down { executor, generation, why } if self.is_current(&executor, generation) => {
                self.lines.remove(&executor);
                self.feed(Event::Down(executor, why));
            }
            News::Up { .. } | News::Down { .. } => {}
            News::Answered { mission, answer } => {
                self.tell_reachability(answer.as_ref().err());
                let answer = answer.unwrap_or_else(|error| {
                    self.tell_unanswered(&error);
                    let retry_after = match error {
                        AskError::Refused { retry_after, .. } => retry_after,
                        AskError::Malformed(_) | AskError::NoAnswer(_) => None,
                    };
                    Answer::Unavailable { retry_after }
                });
                self.feed(Event::Answered(mission, answer));
            }
        }
    }

    fn is_current(&self, executor: &ExecutorId, generation: u64) -> bool {
        self.lines.get(executor).is_some_and(|(current, _)| *current == generation)
    }

    fn dial(&mut self, executor: ExecutorId) {
        self.generation += 1;
        let hang_up = CancellationToken::new();
        self.lines.insert(executor.clone(), (self.generation, hang_up.clone()));
        let line = Line {
            client: self.client.clone(),
            executor,
            generation: self.generation,
            inner: self.inner.clone(),
            reports: self.reports.clone(),
            hang_up,
            odd: Trouble::default(),
        };
        self.tasks.spawn("line", line.follow());
    }

    fn ask(&self, mission: MissionId, executor: Option<ExecutorId>) {
        let client = self.client.clone();
        let inner = self.inner.clone();
        self.tasks.spawn("question", async move {
            tokio::select! {
                answer = client.ask(&mission, executor.as_ref()) => drop(inner.send(News::Answered { mission, answer }).await),
                () = inner.closed() => {}
            }
        });
    }

    fn tell_line(&mut self, executor: ExecutorId, why: Option<Why>) {
        match &why {
            None => tracing::info!(executor.id = %executor, "following the executor's stream"),
            Some(Why::Lost(cause)) => {
                if let Some(count) = self.lost.again(clock::now().instant) {
                    tracing::warn!(
                        executor.id = %executor, count, error = %cause,
                        "a stream is lost; dialling again, and asking about its missions meanwhile"
                    );
                }
            }
            Some(Why::Refused(cause)) => tracing::info!(
                executor.id = %executor, error = %cause,
                "the registry does not let us listen to this executor; asking about its missions instead"
            ),
        }
        let connected = why.is_none();
        let why = why.map(|(Why::Lost(cause) | Why::Refused(cause))| cause);
        self.outbox.push_back(Report::Executor { executor, connected, why });
    }

    /// Any answer at all says that the registry is there.
    fn tell_reachability(&mut self, error: Option<&AskError>) {
        let unreachable = match error {
            Some(AskError::NoAnswer(failure)) => Some(failure.cause()),
            Some(AskError::Malformed(_) | AskError::Refused { .. }) | None => None,
        };
        // That it is away is told each time: the dispatcher may have reached it meanwhile.
        if unreachable.is_some() || self.is_away {
            self.is_away = unreachable.is_some();
            self.outbox.push_back(Report::Registry { unreachable });
        }
    }

    fn tell_unanswered(&mut self, error: &AskError) {
        let cause = match error {
            AskError::NoAnswer(failure) => failure.cause(),
            AskError::Malformed(cause) => cause.to_string(),
            AskError::Refused { .. } => String::new(),
        };
        if let Some(count) = self.unanswered.again(clock::now().instant) {
            tracing::warn!(count, error = %cause, "{error}; asking again");
        }
    }

    async fn end(self) {
        for (_, line) in self.lines.values() {
            line.cancel();
        }
        drop(self.inner);
        if !self.tasks.join(GOODBYE).await {
            tracing::debug!(count = self.tasks.len(), "some streams did not say goodbye in time");
        }
    }
}

/// One connection to one executor's stream.
struct Line {
    client: Client,
    executor: ExecutorId,
    generation: u64,
    inner: mpsc::Sender<News>,
    reports: mpsc::Sender<Report>,
    hang_up: CancellationToken,
    odd: Trouble,
}

impl Line {
    async fn follow(mut self) {
        let hang_up = self.hang_up.clone();
        let opened = tokio::select! {
            opened = self.client.observe(&self.executor) => opened,
            () = hang_up.cancelled() => return,
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(why) => return self.down(why).await,
        };
        let up = News::Up { executor: self.executor.clone(), generation: self.generation };
        if !self.send(up).await {
            return connection.close().await;
        }
        loop {
            let text = tokio::select! {
                text = connection.next_text() => text,
                () = hang_up.cancelled() => return connection.close().await,
            };
            let frame = match text {
                Ok(text) => self.read(&text),
                Err(failure) => return self.down(client::why(&failure)).await,
            };
            let Some(frame) = frame else { continue };
            if frame.envelope.name() == OBSERVER_GAP {
                tracing::warn!(executor.id = %self.executor, "we were too slow for the stream; asking about its missions");
                let up = News::Up { executor: self.executor.clone(), generation: self.generation };
                if !self.send(up).await {
                    return connection.close().await;
                }
                continue;
            }
            tokio::select! {
                sent = self.reports.send(Report::Event { frame }) => if sent.is_err() {
                    return connection.close().await;
                },
                () = hang_up.cancelled() => return connection.close().await,
            }
        }
    }

    /// Reads one frame; one that is not of this executor's stream is dropped, and told about now and then.
    fn read(&mut self, text: &str) -> Option<Frame> {
        let problem = match Frame::parse(text) {
            Ok(frame) if frame.envelope.executor_id == self.executor => return Some(frame),
            Ok(frame) => format!("it is of executor {}", frame.envelope.executor_id),
            Err(error) => error.to_string(),
        };
        if let Some(count) = self.odd.again(clock::now().instant) {
            tracing::warn!(executor.id = %self.executor, count, error = %problem, "a frame of the stream was dropped");
        }
        None
    }

    async fn down(self, why: Why) {
        let news = News::Down { executor: self.executor.clone(), generation: self.generation, why };
        self.send(news).await;
    }

    async fn send(&self, news: News) -> bool {
        tokio::select! {
            sent = self.inner.send(news) => sent.is_ok(),
            () = self.hang_up.cancelled() => false,
        }
    }
}

/// Counts one kind of trouble and says when it is time to tell about it.
#[derive(Debug, Default)]
struct Trouble {
    count: u64,
    told: Option<Instant>,
}

impl Trouble {
    /// Counts once more; returns the count since it was last told when it should be told now.
    fn again(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}
