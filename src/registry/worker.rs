//! Service: the one task that owns the machine, and the handle through which everyone else speaks to it.
//!
//! Whatever the machine decides leaves through one outlet, in the order of the decisions: replies, frames to executors, events to
//! observers, forwards. With a store behind it the outlet first commits what the same decisions asked to have written.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::retry::RetryPolicy;
use crate::domain::time::{Now, Timestamp};
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::{
    CommandResponse, DispatchRequest, DispatchResponse, ExecutorStatus, HitlResponse, MissionStatus,
    RegisterRequest,
};
use crate::protocol::route::OperatorCommand;
use crate::registry::assignment::{DispatchCall, Dispatched};
use crate::registry::drops::Drops;
use crate::registry::following::Verdict;
use crate::registry::gauges::Gauges;
use crate::registry::hub::{Hub, Subscription};
use crate::registry::machine::{Attached, Machine, Opened};
use crate::registry::notifier::Settled;
use crate::registry::outlet::{LateReply, LineHandle, Outgoing, Outlet, Release, Round};
use crate::registry::record::{
    Action, ConnectionId, Effects, Forward, ForwardOutcome, Ticket, TokenHash, Write,
};
use crate::registry::recovery::Recalled;
use crate::registry::refusal::Refusal;
use crate::registry::routing::Explanation;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Messages that may wait for the worker. Full: senders wait, so a flood slows its own sockets and nothing else.
const INBOX: usize = 8192;

/// How long a probe may take. 5 s: a disk that needs longer for a commit is of no use.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most messages that are decided before their effects go out together.
const BATCH: usize = 512;

type Reply<T> = oneshot::Sender<T>;

/// What live missions said lately, each frame with its mission.
type Replay = Vec<(MissionId, Arc<str>)>;

pub(super) enum Message {
    Register {
        request: Box<RegisterRequest>,
        token_hash: TokenHash,
        is_remote: bool,
        reply: Reply<Timestamp>,
    },
    Deregister {
        id: ExecutorId,
        reason: &'static str,
        reply: Reply<Result<(), Refusal>>,
    },
    Executors {
        reply: Reply<Vec<ExecutorStatus>>,
    },
    Executor {
        id: ExecutorId,
        reply: Reply<Option<Box<ExecutorStatus>>>,
    },
    Identify {
        id: ExecutorId,
        reply: Reply<Option<Identity>>,
    },
    Dispatch {
        call: Box<DispatchCall>,
        reply: Reply<Result<DispatchResponse, Refusal>>,
    },
    Explain {
        request: Box<DispatchRequest>,
        reply: Reply<Explanation>,
    },
    Forwarded {
        forward: Box<Forward>,
        outcome: ForwardOutcome,
    },
    Attach {
        line: LineOpened,
        reply: Reply<Attached>,
    },
    Detach {
        id: ExecutorId,
        connection: ConnectionId,
    },
    Frames {
        id: ExecutorId,
        connection: ConnectionId,
        frames: Vec<Frame>,
    },
    DialFailed {
        id: ExecutorId,
    },
    DialAddress {
        id: ExecutorId,
        reply: Reply<Option<String>>,
    },
    Observe {
        id: ExecutorId,
        reply: Reply<(Replay, Subscription)>,
    },
    WebhookReached {
        url: String,
        seq: u64,
    },
    Settle {
        settled: Vec<Settled>,
        reply: Reply<()>,
    },
    Probe {
        reply: Reply<()>,
    },
    Gauges {
        reply: Reply<Gauges>,
    },
    Recalled {
        asked: Vec<(String, Option<Recalled>)>,
        then: Box<Message>,
    },
    Mission {
        id: String,
        reply: Reply<Option<Box<MissionStatus>>>,
    },
    Command {
        id: String,
        command: OperatorCommand,
        reply: Reply<Result<CommandResponse, Refusal>>,
    },
    Answer {
        id: String,
        answer: HitlResponse,
        reply: Reply<Result<CommandResponse, Refusal>>,
    },
}

/// What a token is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) token_hash: TokenHash,
    pub(super) is_remote: bool,
}

/// A new line.
#[derive(Debug)]
pub(super) struct LineOpened {
    pub(super) id: ExecutorId,
    pub(super) connection: ConnectionId,
    pub(super) opened: Opened,
    pub(super) handle: LineHandle,
}

/// Speaks to the registry's worker. Clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Registry {
    inbox: mpsc::Sender<Message>,
}

impl Registry {
    /// Returns every executor.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the registry is ending.
    pub async fn executors(&self) -> Result<Vec<ExecutorStatus>, Refusal> {
        self.ask(|reply| Message::Executors { reply }).await
    }

    /// Notes that a webhook has been sent everything up to an event.
    pub(super) async fn webhook_reached(&self, url: &str, seq: u64) {
        self.tell(Message::WebhookReached { url: url.to_owned(), seq }).await;
    }

    /// Notes what became of notices; they may be read again when this returns.
    pub(super) async fn settle(&self, settled: Vec<Settled>) -> Result<(), Refusal> {
        self.ask(|reply| Message::Settle { settled, reply }).await
    }

    /// Waits until everything decided so far is on disk.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the registry is ending, or the disk does not answer.
    pub async fn probe(&self) -> Result<(), Refusal> {
        let asking = self.ask(|reply| Message::Probe { reply });
        match tokio::time::timeout(PROBE_TIMEOUT, asking).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Refusal::Unavailable { why: "the store does not answer".to_owned() }),
        }
    }

    /// Returns figures about what is there now.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the registry is ending.
    pub async fn gauges(&self) -> Result<Gauges, Refusal> {
        self.ask(|reply| Message::Gauges { reply }).await
    }

    /// Makes a handle and the other end of it, for [`Worker::run`].
    pub(super) fn channel() -> (Self, mpsc::Receiver<Message>) {
        let (inbox, receiver) = mpsc::channel(INBOX);
        (Self { inbox }, receiver)
    }

    /// Sends a message and waits for its reply.
    pub(super) async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Refusal> {
        let ending = || Refusal::Unavailable { why: "it is shutting down".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.inbox.send(message(reply)).await.map_err(|_closed| ending())?;
        answer.await.map_err(|_dropped| ending())
    }

    /// Sends a message that has no reply. A registry that has ended needs to know nothing any more.
    pub(super) async fn tell(&self, message: Message) {
        self.inbox.send(message).await.ok();
    }
}

/// Owns the machine.
pub(super) struct Worker {
    pub(super) machine: Machine,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) outlet: Outlet,
    pub(super) hub: Arc<Hub>,
    pub(super) drops: Arc<Drops>,
    pub(super) shutdown: Shutdown,
    pub(super) lines: HashMap<ConnectionId, LineHandle>,
    pub(super) waiting: HashMap<Ticket, Reply<Result<DispatchResponse, Refusal>>>,
    pub(super) dial_attempts: HashMap<ExecutorId, u32>,
}

impl Worker {
    /// Runs until every handle is gone, or the shutdown has started and nobody waits for a forward any more.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut round = 0;
        loop {
            let wake = self.machine.next_wakeup();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let is_idle = self.waiting.is_empty();
            // All three are cancel safe: `recv_many` takes nothing out of the queue unless it returns.
            tokio::select! {
                received = self.inbox.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                }
                () = timer => {}
                () = self.shutdown.started(), if is_idle => break,
            }
            round += 1;
            self.machine.begin_round(round);
            let now = clock::now();
            let mut made = Round { number: round, decided_at: Some(now.instant), ..Round::default() };
            for message in batch.drain(..) {
                let mut fx = Effects::default();
                let reply = self.decide(message, now, &mut fx);
                self.collect(fx, &mut made);
                made.releases.extend(reply.map(Release::Reply));
            }
            let mut fx = Effects::default();
            self.machine.tick(clock::now(), &mut fx);
            self.collect(fx, &mut made);
            self.outlet.take(made).await;
            self.machine.trim(self.outlet.committed_round());
        }
        self.outlet.close().await;
    }

    /// Turns actions into releases, each with the line it goes to.
    fn collect(&mut self, fx: Effects, made: &mut Round) {
        let Effects { mut writes, actions } = fx;
        made.writes.append(&mut writes);
        for action in actions {
            let release = match action {
                Action::Publish(event) => Release::Publish(event),
                Action::Send(connection, raw) => self.to_line(connection, Outgoing::Text(raw)),
                Action::Close(connection, code) => self.to_line(connection, Outgoing::Close(code)),
                Action::Promote(connection) => self.to_line(connection, Outgoing::Promote),
                Action::Demote(connection) => self.to_line(connection, Outgoing::Demote),
                Action::Forward(forward) => Release::Forward(Box::new(forward)),
                Action::Command(command) => Release::Command(Box::new(command)),
                Action::Dial(id) => Release::Dial(id),
                Action::Notify => Release::Notify,
            };
            made.releases.push(release);
        }
    }

    fn to_line(&self, connection: ConnectionId, outgoing: Outgoing) -> Release {
        match self.lines.get(&connection) {
            Some(line) => Release::Line(line.clone(), outgoing),
            None => Release::Nothing,
        }
    }

    fn decide(&mut self, message: Message, now: Now, fx: &mut Effects) -> Option<LateReply> {
        let reply = match message {
            Message::Register { request, token_hash, is_remote, reply } => {
                answer(reply, self.machine.register(*request, token_hash, is_remote, now, fx))
            }
            Message::Deregister { id, reason, reply } => {
                answer(reply, self.machine.deregister(&id, reason, now, fx))
            }
            Message::Executors { reply } => answer(reply, self.machine.executors()),
            Message::Executor { id, reply } => answer(reply, self.machine.executor(&id).map(Box::new)),
            Message::Identify { id, reply } => {
                let is_remote = self.machine.is_remote(&id);
                let identity =
                    self.machine.token_hash(&id).map(|token_hash| Identity { token_hash, is_remote });
                answer(reply, identity)
            }
            Message::Dispatch { call, reply } => match self.machine.dispatch(*call, now, fx) {
                Ok(Dispatched::Replayed(response)) => answer(reply, Ok(response)),
                Ok(Dispatched::AskStore(call)) => return Some(self.recall(call, reply)),
                Ok(Dispatched::OnItsWay(ticket)) => {
                    self.waiting.insert(ticket, reply);
                    return None;
                }
                Err(refusal) => answer(reply, Err(refusal)),
            },
            Message::Explain { request, reply } => answer(reply, self.machine.explain(&request)),
            Message::Forwarded { forward, outcome } => {
                let result = self.machine.forwarded(&forward, outcome, now, fx);
                log_forward(&forward, &result);
                answer(self.waiting.remove(&forward.ticket)?, result)
            }
            Message::Attach { line, reply } => {
                let LineOpened { id, connection, opened, handle } = line;
                self.lines.insert(connection, handle);
                self.dial_attempts.remove(&id);
                answer(reply, self.machine.attach(&id, connection, opened, now, fx))
            }
            Message::Detach { id, connection } => {
                self.lines.remove(&connection);
                self.machine.detach(&id, connection, now, fx);
                return None;
            }
            Message::Frames { id, connection, frames } => {
                for frame in frames {
                    let sample = Arc::clone(&frame.raw);
                    let verdict = self.machine.frame(&id, connection, frame, now, fx);
                    if !matches!(verdict, Verdict::Accepted | Verdict::Repeated) {
                        self.drops.count(verdict.as_str(), &id, &sample, now);
                    }
                }
                return None;
            }
            Message::DialFailed { id } => {
                let attempt = self.dial_attempts.entry(id.clone()).or_insert(0);
                *attempt = attempt.saturating_add(1);
                let after = RetryPolicy::RECONNECT.delay_after(*attempt, None, seed(&id), now.instant);
                self.machine.dial_failed(&id, after.max(Duration::from_millis(100)), now);
                return None;
            }
            Message::DialAddress { id, reply } => answer(reply, self.machine.dial_address(&id)),
            Message::Observe { id, reply } => {
                // The replay is taken now, the subscription when everything decided before has been published.
                let replay = self.machine.replay(&id);
                let hub = Arc::clone(&self.hub);
                Box::new(move || drop(reply.send((replay, hub.subscribe(Some(&id))))))
            }
            Message::WebhookReached { url, seq } => {
                fx.writes.push(Write::Webhook(url, seq));
                return None;
            }
            Message::Settle { settled, reply } => {
                fx.writes.extend(settled.into_iter().map(|settled| match settled {
                    Settled::Over(seq) => Write::ForgetNotice(seq),
                    Settled::Later(notice) => Write::Notice(notice),
                }));
                answer(reply, ())
            }
            Message::Probe { reply } => {
                fx.writes.push(Write::Probe);
                answer(reply, ())
            }
            Message::Gauges { reply } => answer(reply, self.machine.gauges()),
            Message::Recalled { asked, then } => {
                for (asked, recalled) in asked {
                    self.machine.recall(&asked, recalled);
                }
                return self.decide(*then, now, fx);
            }
            Message::Mission { id, reply } => answer(reply, self.machine.mission(&id).map(Box::new)),
            Message::Command { id, command, reply } => {
                answer(reply, self.machine.command(&id, command, now, fx))
            }
            Message::Answer { id, answer: given, reply } => {
                answer(reply, self.machine.answer(&id, given, now, fx))
            }
        };
        Some(reply)
    }
}

impl Worker {
    /// Has the store asked about the mission and the key of a dispatch, which then comes again.
    fn recall(&self, call: Box<DispatchCall>, reply: Reply<Result<DispatchResponse, Refusal>>) -> LateReply {
        let mut asked = vec![call.key.clone()];
        if call.key != call.request.mission_id.as_str() {
            asked.push(call.request.mission_id.to_string());
        }
        let recaller = self.outlet.recaller();
        Box::new(move || recaller.recall(asked, Message::Dispatch { call, reply }))
    }
}

/// Boxes a reply for the outlet. A caller that has gone away needs none.
fn answer<T: Send + 'static>(reply: Reply<T>, value: T) -> LateReply {
    Box::new(move || drop(reply.send(value)))
}

fn seed(id: &ExecutorId) -> u64 {
    id.as_str().bytes().fold(17, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

fn log_forward(forward: &Forward, result: &Result<DispatchResponse, Refusal>) {
    match result {
        Ok(_) => tracing::debug!(
            mission.id = %forward.mission_id,
            executor.id = %forward.executor_id,
            "mission handed over"
        ),
        Err(refusal) => tracing::warn!(
            mission.id = %forward.mission_id,
            executor.id = %forward.executor_id,
            error = %refusal,
            "mission did not reach its executor"
        ),
    }
}
