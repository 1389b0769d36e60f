//! Service: the one task that owns the machine, and the handle through which everyone else speaks to it.
//!
//! Whatever the machine decides leaves through one outlet, in the order of the decisions: replies, frames to executors, events to
//! observers, forwards. With a store behind it the outlet first commits what the same decisions asked to have written.

use crate::domain::id::ExecutorId;
use crate::domain::retry::RetryPolicy;
use crate::domain::time::{Now, Timestamp};
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::{
    CommandResponse, DispatchRequest, DispatchResponse, ExecutorStatus, HitlResponse, MissionStatus,
    RegisterRequest,
};
use crate::protocol::route::OperatorCommand;
use crate::registry::assignment::{DispatchCall, Dispatched};
use crate::registry::client::ExecutorClient;
use crate::registry::drops::Drops;
use crate::registry::following::Verdict;
use crate::registry::hub::{Hub, Subscription};
use crate::registry::identity::Identities;
use crate::registry::machine::{Attached, Machine, Opened};
use crate::registry::record::{
    Action, ConnectionId, Effects, Forward, ForwardOutcome, Ticket, TokenHash, Write,
};
use crate::registry::refusal::Refusal;
use crate::registry::routing::Explanation;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Messages that may wait for the worker. Full: senders wait, so a flood slows its own sockets and nothing else.
const INBOX: usize = 8192;

/// Most messages that are decided before their effects go out together.
const BATCH: usize = 512;

/// Frames that may wait for one executor's line. Full: the line is too slow and is closed; a resync repairs the rest.
pub(super) const LINE_QUEUE: usize = 256;

/// What a line is told to do.
#[derive(Debug, Clone)]
pub(super) enum Outgoing {
    Text(Arc<str>),
    Close(u16),
    Promote,
    Demote,
}

type Reply<T> = oneshot::Sender<T>;

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
        reply: Reply<(Vec<Arc<str>>, Subscription)>,
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
    pub(super) outgoing: mpsc::Sender<Outgoing>,
}

/// Speaks to the registry's worker. Clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Registry {
    inbox: mpsc::Sender<Message>,
}

impl Registry {
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

/// A reply that waits for the writes before it.
type LateReply = Box<dyn FnOnce() + Send>;

/// What leaves, in the order of the decisions.
enum Release {
    Reply(LateReply),
    Action(Action),
}

/// Owns the machine.
pub(super) struct Worker {
    pub(super) machine: Machine,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) registry: Registry,
    pub(super) hub: Arc<Hub>,
    pub(super) client: Arc<ExecutorClient>,
    pub(super) identities: Arc<Identities>,
    pub(super) drops: Arc<Drops>,
    pub(super) tasks: Tasks,
    pub(super) shutdown: Shutdown,
    pub(super) dialer: crate::registry::dialer::Dialer,
    pub(super) lines: HashMap<ConnectionId, mpsc::Sender<Outgoing>>,
    pub(super) waiting: HashMap<Ticket, Reply<Result<DispatchResponse, Refusal>>>,
    pub(super) dial_attempts: HashMap<ExecutorId, u32>,
}

impl Worker {
    /// Runs until every handle is gone, or the shutdown has started and nobody waits for a forward any more.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake = self.machine.next_wakeup();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // All three are cancel safe: `recv_many` takes nothing out of the queue until it returns.
            tokio::select! {
                received = self.inbox.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = timer => {}
                () = self.shutdown.started(), if self.waiting.is_empty() && self.shutdown.is_started() => return,
            }
            let now = clock::now();
            let mut writes = Vec::new();
            let mut releases = Vec::new();
            for message in batch.drain(..) {
                let mut fx = Effects::default();
                let reply = self.decide(message, now, &mut fx);
                writes.append(&mut fx.writes);
                releases.extend(fx.actions.into_iter().map(Release::Action));
                releases.extend(reply.map(Release::Reply));
            }
            let mut fx = Effects::default();
            self.machine.tick(clock::now(), &mut fx);
            writes.append(&mut fx.writes);
            releases.extend(fx.actions.into_iter().map(Release::Action));
            self.commit(writes, releases);
        }
    }

    fn commit(&mut self, _writes: Vec<Write>, releases: Vec<Release>) {
        for release in releases {
            match release {
                Release::Reply(send) => send(),
                Release::Action(action) => self.act(action),
            }
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
                let LineOpened { id, connection, opened, outgoing } = line;
                self.lines.insert(connection, outgoing);
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
                    if verdict != Verdict::Accepted {
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

    fn act(&mut self, action: Action) {
        match action {
            Action::Publish(event) => self.hub.publish(&event),
            Action::Send(connection, raw) => self.push(connection, Outgoing::Text(raw)),
            Action::Close(connection, code) => self.push(connection, Outgoing::Close(code)),
            Action::Promote(connection) => self.push(connection, Outgoing::Promote),
            Action::Demote(connection) => self.push(connection, Outgoing::Demote),
            Action::Forward(forward) => {
                let (client, registry) = (Arc::clone(&self.client), self.registry.clone());
                let token = self.identities.token(&forward.executor_id);
                self.tasks.spawn("forward", async move {
                    let outcome = client.forward(&forward, token.as_ref()).await;
                    registry.tell(Message::Forwarded { forward: Box::new(forward), outcome }).await;
                });
            }
            Action::Dial(id) => self.dialer.dial(id, &self.registry, &self.tasks),
        }
    }

    fn push(&mut self, connection: ConnectionId, outgoing: Outgoing) {
        let Some(line) = self.lines.get(&connection) else { return };
        if line.try_send(outgoing).is_err() {
            // Dropping the sender ends the line's task, which closes the socket.
            self.lines.remove(&connection);
        }
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
