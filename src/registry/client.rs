//! Edge: an executor's REST surface: hand a mission over, or ask about one.
//!
//! Newer executors take missions on the session route, older ones on `/dispatch`; which one worked is remembered. A
//! forward whose answer did not come may have arrived all the same, so the executor is asked before anyone calls it failed.

use crate::domain::id::ExecutorId;
use crate::domain::lifecycle::MissionState;
use crate::domain::secret::Token;
use crate::net::http::{self, Answer, Failure, Http};
use crate::protocol::executor_v1::{DispatchAnswer, MissionStatus};
use crate::protocol::route;
use crate::registry::record::{Forward, ForwardKind, ForwardOutcome, RestCommand};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long an executor may take to answer a question about a mission. 3 s: it only looks it up.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Orders over REST that are open at once, for somebody may abort everything.
const COMMANDS_AT_ONCE: usize = 32;

/// Speaks to executors.
#[derive(Debug)]
pub struct ExecutorClient {
    http: Http,
    timeout: Duration,
    old_route: Mutex<HashMap<ExecutorId, String>>,
    commands: Semaphore,
}

/// What an executor says about one mission.
enum Asked {
    Has { estimated_start: Option<String> },
    Ended(Box<MissionStatus>),
    HasNot,
    Silent(String),
}

impl ExecutorClient {
    /// Wraps the client; `timeout` is for one forward.
    pub fn new(http: Http, timeout: Duration) -> Self {
        Self { http, timeout, old_route: Mutex::default(), commands: Semaphore::new(COMMANDS_AT_ONCE) }
    }

    /// Hands a mission over, or asks about it, as the forward says.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the executor has the mission.
    pub async fn forward(&self, forward: &Forward, token: Option<&Token>) -> ForwardOutcome {
        match forward.kind {
            ForwardKind::First => self.send(forward, token).await,
            ForwardKind::AskOnly => match self.ask(forward, token).await {
                Asked::Has { estimated_start } => ForwardOutcome::Accepted { estimated_start },
                Asked::Ended(status) => ended(*status),
                Asked::HasNot => unreachable("asked, it does not know the mission".to_owned()),
                Asked::Silent(message) => ForwardOutcome::Uncertain { message },
            },
            ForwardKind::Resend => match self.ask(forward, token).await {
                Asked::Has { estimated_start } => ForwardOutcome::Accepted { estimated_start },
                Asked::Ended(status) => ended(*status),
                Asked::HasNot | Asked::Silent(_) => self.send(forward, token).await,
            },
        }
    }

    async fn send(&self, forward: &Forward, token: Option<&Token>) -> ForwardOutcome {
        let mut old = self.uses_old_route(forward);
        loop {
            match self.post(forward, token, old).await {
                Ok(answer) if matches!(answer.status, 404 | 405) && !old => old = true,
                Ok(answer) if answer.is_success() => {
                    self.remember(forward, old);
                    let estimated_start = DispatchAnswer::read(&answer.body).estimated_start;
                    return ForwardOutcome::Accepted { estimated_start };
                }
                // It has the mission already: what we wanted.
                Ok(answer) if answer.status == 409 && forward.kind == ForwardKind::Resend => {
                    return ForwardOutcome::Accepted { estimated_start: None };
                }
                Ok(answer) => {
                    return ForwardOutcome::Refused {
                        status: answer.status,
                        message: answer.message(),
                        retry_after_seconds: answer.retry_after.map(|wait| wait.as_secs().max(1)),
                    };
                }
                Err(failure) if failure.may_have_arrived() => {
                    let why = failure.cause();
                    return match self.ask(forward, token).await {
                        Asked::Has { estimated_start } => ForwardOutcome::Accepted { estimated_start },
                        Asked::Ended(status) => ended(*status),
                        Asked::HasNot => {
                            unreachable(format!("no answer ({why}); asked, it does not know the mission"))
                        }
                        Asked::Silent(silence) => ForwardOutcome::Uncertain {
                            message: format!("no answer ({why}), and it cannot be asked ({silence})"),
                        },
                    };
                }
                Err(failure) => return unreachable(failure.cause()),
            }
        }
    }

    async fn post(&self, forward: &Forward, token: Option<&Token>, old: bool) -> Result<Answer, Failure> {
        let path = if old { route::OLD_DISPATCH.to_owned() } else { route::dispatch(&forward.order.session) };
        let request = self
            .http
            .request(Method::POST, route::join(&forward.rest, &path))
            .timeout(self.timeout)
            .header(CONTENT_TYPE, http::JSON)
            .header(http::IDEMPOTENCY_KEY, &*route::visible(&forward.order.key));
        self.http.send(authorized(request, token).body(forward.order.body.clone())).await
    }

    /// Orders something over REST. Whether it is done is told by the executor's events and by nothing else, so an answer that says
    /// no, or none, changes nothing.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the executor has the order.
    pub async fn command(&self, command: &RestCommand, token: Option<&Token>) {
        // Never closed.
        let Ok(_turn) = self.commands.acquire().await else { return };
        let path = route::command(command.mission_id.as_str(), command.command);
        let request = self
            .http
            .request(Method::POST, route::join(&command.rest, &path))
            .timeout(ASK_TIMEOUT.min(self.timeout))
            .header(CONTENT_TYPE, http::JSON)
            .body("{}");
        let said = match self.http.send(authorized(request, token)).await {
            Ok(answer) if answer.is_success() => "taken".to_owned(),
            Ok(answer) => answer.message(),
            Err(failure) => failure.cause(),
        };
        tracing::info!(
            mission.id = %command.mission_id, executor.id = %command.executor_id, command = command.command.as_str(),
            answer = said, "ordered over REST what was not confirmed over the line"
        );
    }

    async fn ask(&self, forward: &Forward, token: Option<&Token>) -> Asked {
        let url = route::join(&forward.rest, &route::mission(forward.mission_id.as_str()));
        let request = self.http.request(Method::GET, &url).timeout(ASK_TIMEOUT.min(self.timeout));
        match self.http.send(authorized(request, token)).await {
            Ok(answer) if answer.is_success() => {
                match serde_json::from_slice::<MissionStatus>(&answer.body) {
                    Ok(status) if status.state.is_terminal() => Asked::Ended(Box::new(status)),
                    Ok(_) | Err(_) => {
                        Asked::Has { estimated_start: DispatchAnswer::read(&answer.body).estimated_start }
                    }
                }
            }
            Ok(answer) if matches!(answer.status, 404 | 405 | 410) => Asked::HasNot,
            Ok(answer) => Asked::Silent(answer.message()),
            Err(failure) => Asked::Silent(failure.cause()),
        }
    }

    fn uses_old_route(&self, forward: &Forward) -> bool {
        let known = self.old_route.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&forward.executor_id) == Some(&forward.rest)
    }

    fn remember(&self, forward: &Forward, old: bool) {
        let mut known = self.old_route.lock().unwrap_or_else(PoisonError::into_inner);
        if old {
            known.insert(forward.executor_id.clone(), forward.rest.clone());
        } else if !known.is_empty() {
            known.remove(&forward.executor_id);
        }
    }
}

fn unreachable(message: String) -> ForwardOutcome {
    ForwardOutcome::Unreachable { message }
}

fn ended(status: MissionStatus) -> ForwardOutcome {
    let MissionStatus { state, exit_code, error, .. } = status;
    debug_assert!(MissionState::is_terminal(state));
    ForwardOutcome::EndedThere { state, exit_code, error }
}

fn authorized(request: reqwest::RequestBuilder, token: Option<&Token>) -> reqwest::RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(token.reveal()),
        None => request,
    }
}
