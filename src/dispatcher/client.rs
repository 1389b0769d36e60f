//! Edge: the registry as the bridge sees it.

use super::machine::{Asked, Outcome};
use crate::domain::secret::Token;
use crate::domain::time::Timestamp;
use crate::net::http::{self, Answer, Failure, Http, under};
use crate::protocol::executor_v1::{DispatchAnswer, ExecutorList, MissionStatus};
use crate::protocol::problem::{BUSY, Problem};
use crate::protocol::route::{self, OperatorCommand};
use crate::session::messages::{Dispatch, Steered, Wish};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};

/// Speaks to one registry.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    base: String,
    /// Parsed once: a backlog has thousands of requests. None when it is no URL, which every request says then.
    parsed: Option<Url>,
    operator: Option<Token>,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub enum Address {
    /// Below a base that is a URL.
    Parsed(Url),
    /// Below one that is none, which sending says.
    AsGiven(String),
}

/// How a command or a question ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    /// Why, in one line.
    pub cause: String,
}

impl Client {
    /// Makes a client of the registry at `base`; `operator` is sent with every request when given.
    pub fn new(http: Http, base: impl Into<String>, operator: Option<Token>) -> Self {
        let base = base.into();
        let parsed = Url::parse(&base).ok().filter(|url| !url.cannot_be_a_base());
        Self { http, base, parsed, operator }
    }

    /// Returns where dispatches into `session` go.
    pub fn dispatch_address(&self, session: &str) -> Address {
        self.address(&route::dispatch(session))
    }

    fn address(&self, path: &str) -> Address {
        match &self.parsed {
            Some(base) => Address::Parsed(under(base, path)),
            None => Address::AsGiven(route::join(&self.base, path)),
        }
    }

    fn request(&self, method: Method, address: Address) -> reqwest::RequestBuilder {
        let request = match address {
            Address::Parsed(url) => self.http.request(method, url),
            Address::AsGiven(text) => self.http.request(method, text),
        };
        match &self.operator {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    async fn post(&self, path: &str, body: String) -> Result<Answer, Failure> {
        self.http
            .send(self.request(Method::POST, self.address(path)).header(CONTENT_TYPE, http::JSON).body(body))
            .await
    }

    async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.http.send(self.request(Method::GET, self.address(path))).await
    }

    /// Sends one dispatch with `body` to `address`.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether the registry has the mission.
    pub async fn dispatch(&self, address: Address, dispatch: &Dispatch, body: String) -> Outcome {
        let request = self
            .request(Method::POST, address)
            .header(CONTENT_TYPE, http::JSON)
            .header(http::IDEMPOTENCY_KEY, &*route::visible(&dispatch.idempotency_key))
            .body(body);
        match self.http.send(request).await {
            Ok(answer) if answer.is_success() => {
                let read = DispatchAnswer::read(&answer.body);
                if read.idempotent_replayed && dispatch.attempt == 1 {
                    tracing::warn!(
                        key = dispatch.idempotency_key,
                        session.id = %dispatch.wire_session,
                        "the registry had this mission before it was sent from here, so its result is that of then; \
                         was its id used in another folder?"
                    );
                }
                Outcome::Accepted { executor: read.executor_id, estimated_start: read.estimated_start }
            }
            Ok(answer) => {
                let problem = Problem::read(answer.status, &answer.body);
                Outcome::Refused {
                    status: answer.status,
                    retry_after: answer.retry_after,
                    busy: problem.more.get(BUSY).and_then(serde_json::Value::as_bool) == Some(true),
                    message: problem.detail,
                    remark: None,
                }
            }
            Err(failure) if failure.may_have_arrived() => Outcome::Uncertain { cause: failure.cause() },
            Err(failure) => Outcome::Unreachable { cause: failure.cause() },
        }
    }

    /// Asks whether the registry has a mission. With `not_before`, the record of a mission that had ended by then is the
    /// record of an earlier run.
    pub async fn ask(&self, mission: &str, not_before: Option<Timestamp>) -> Asked {
        let is_earlier_run = |status: &MissionStatus| {
            let ended = status.completed_at.or(status.updated_at);
            status.state.is_terminal()
                && not_before.is_some_and(|sent| ended.is_some_and(|ended| ended < sent))
        };
        match self.get(&route::mission(mission)).await {
            Ok(answer) if answer.is_success() => {
                match serde_json::from_slice::<MissionStatus>(&answer.body) {
                    Ok(status) if is_earlier_run(&status) || status.never_began == Some(true) => {
                        Asked::NotKnown
                    }
                    Ok(status) => Asked::Known { executor: status.executor_id },
                    Err(_other_shape) => Asked::NoAnswer { status: answer.status },
                }
            }
            Ok(answer) if answer.status == 404 => Asked::NotKnown,
            Ok(answer) => Asked::NoAnswer { status: answer.status },
            Err(failure) => Asked::Unreachable { cause: failure.cause() },
        }
    }

    /// Returns the status of a mission, when the registry gives one.
    pub async fn status(&self, mission: &str) -> Option<MissionStatus> {
        let answer = self.get(&route::mission(mission)).await.ok().filter(Answer::is_success)?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Asks whether the registry is there: any answer will do.
    ///
    /// # Errors
    /// [`Unreached`] when none came.
    pub async fn probe(&self) -> Result<(), Unreached> {
        match self.get(route::HEALTH).await {
            Ok(_any) => Ok(()),
            Err(failure) => Err(Unreached { cause: failure.cause() }),
        }
    }

    /// Passes a wish on.
    ///
    /// # Errors
    /// [`Unreached`] when no answer came, or one that asks to come again: the same wish may be sent again, for every one
    /// of them may be carried out twice without harm.
    pub async fn steer(&self, mission: &str, wish: &Wish) -> Result<Steered, Unreached> {
        let sent = match wish {
            Wish::Abort => self.post(&route::command(mission, OperatorCommand::Abort), "{}".to_owned()).await,
            Wish::Pause => self.post(&route::command(mission, OperatorCommand::Pause), "{}".to_owned()).await,
            Wish::Resume => {
                self.post(&route::command(mission, OperatorCommand::Resume), "{}".to_owned()).await
            }
            Wish::Answer { hitl_id, response } => {
                let body = serde_json::json!({"hitl_id": hitl_id, "response": response}).to_string();
                self.post(&route::hitl_response(mission), body).await
            }
        };
        match sent {
            Ok(answer) if answer.is_success() => Ok(Steered::Accepted),
            Ok(answer) if answer.status == 404 => Ok(Steered::NotFound),
            Ok(answer) if answer.status == 409 && code(&answer) == Some("mission_terminal".to_owned()) => {
                Ok(Steered::Terminal)
            }
            Ok(answer) if matches!(answer.status, 408 | 425 | 429) || answer.status >= 500 => {
                Err(Unreached { cause: answer.message() })
            }
            Ok(answer) => Ok(Steered::Refused(answer.message())),
            Err(failure) => Err(Unreached { cause: failure.cause() }),
        }
    }

    /// Says how many executors are registered, connected, and have all of `capabilities`.
    ///
    /// # Errors
    /// [`Unreached`] when the registry does not say.
    pub async fn executors(&self) -> Result<ExecutorList, Unreached> {
        match self.get(route::EXECUTORS).await {
            Ok(answer) if answer.is_success() => {
                serde_json::from_slice(&answer.body).map_err(|error| Unreached { cause: error.to_string() })
            }
            Ok(answer) => Err(Unreached { cause: answer.message() }),
            Err(failure) => Err(Unreached { cause: failure.cause() }),
        }
    }
}

/// The error code of a problem document.
fn code(answer: &Answer) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    Some(body.get("error")?.as_str()?.to_owned())
}
