//! Edge: an executor's line as an observer sees it, and the registry's record of a mission.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::secret::Token;
use crate::events::Config;
use crate::events::machine::{Answer, Why};
use crate::net::http::{self, Http};
use crate::net::ws::{Connection, Failure};
use crate::protocol::envelope::CLOSE_UNAUTHORIZED;
use crate::protocol::executor_v1::{ExecutorStatus, MissionStatus};
use crate::protocol::route;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a line may take to come up: the limit of the executor contract for a forward.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long an executor may take to say what became of a mission. 3 s: it only looks it up.
const EXECUTOR_LIMIT: Duration = Duration::from_secs(3);

/// How long an executor that did not answer is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(15);

/// The registry did not tell about a mission.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It answered something else.
    #[error("the registry does not tell about missions: {message}")]
    Refused {
        /// Its sentence, or the status.
        message: String,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// It answered with something that is no record of a mission.
    #[error("the registry's record of a mission is malformed")]
    Malformed(#[source] serde_json::Error),
    /// It did not answer.
    #[error("the registry does not answer")]
    NoAnswer(#[from] http::Failure),
}

/// Speaks to one registry, reading only.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    config: Config,
    /// Executors that did not answer, and since when.
    silent: Arc<Mutex<HashMap<ExecutorId, Instant>>>,
}

impl Client {
    /// Makes a client of the registry that `config` names.
    pub fn new(http: Http, config: Config) -> Self {
        Self { http, config, silent: Arc::default() }
    }

    /// Asks for the record of one mission. A registry that keeps nothing may have been started again since the mission began;
    /// then its executor is asked, which registers with the new one and says where it is reached.
    ///
    /// # Errors
    /// [`AskError`] when there is no usable answer; the question may be repeated at any time.
    ///
    /// # Cancel safety
    /// Safe: asking changes nothing.
    pub async fn ask(&self, mission: &MissionId, executor: Option<&ExecutorId>) -> Result<Answer, AskError> {
        let answer = self.get(&self.config.serve_url, &route::mission(mission.as_str()), None).await?;
        match answer.status {
            200..300 => known(&answer.body),
            404 => Ok(match executor {
                Some(executor) => self.ask_executor(mission, executor).await.unwrap_or(Answer::NotFound),
                None => Answer::NotFound,
            }),
            _ => Err(AskError::Refused { message: answer.message(), retry_after: answer.retry_after }),
        }
    }

    /// What the executor itself says about a mission, if it says anything. One that does not answer is left alone for a while:
    /// it may have had a thousand missions, and those of others wait for their turn to be asked about.
    async fn ask_executor(&self, mission: &MissionId, executor: &ExecutorId) -> Option<Answer> {
        let is_silent = |silent: &HashMap<ExecutorId, Instant>| {
            silent.get(executor).is_some_and(|since| since.elapsed() < LEFT_ALONE)
        };
        if is_silent(&self.silent.lock().unwrap_or_else(PoisonError::into_inner)) {
            return None;
        }
        let found = self.get(&self.config.serve_url, &route::executor(executor.as_str()), None).await.ok()?;
        let status: ExecutorStatus =
            serde_json::from_slice(&found.body).ok().filter(|_| found.is_success())?;
        let rest = status.transport_endpoints?.rest;
        // Its own host is not ours when the registry is on another one.
        if is_here(&rest) && !is_here(&self.config.serve_url) {
            return None;
        }
        let asked = self.get(&rest, &route::mission(mission.as_str()), Some(executor)).await;
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(answer) = asked else {
            silent.insert(executor.clone(), Instant::now());
            return None;
        };
        silent.remove(executor);
        let known = known(&answer.body).ok().filter(|_| answer.is_success())?;
        let Answer::Known { status, .. } = &known else { return None };
        if status.mission_id != *mission || status.executor_id.as_ref() != Some(executor) {
            return None;
        }
        tracing::debug!(mission.id = %mission, executor.id = %executor, "the registry has forgotten the mission, its executor has not");
        Some(known)
    }

    /// Asks the registry, or the executor at `base`, which is shown its own token and no other, and that only where nobody can
    /// listen.
    async fn get(
        &self,
        base: &str,
        path: &str,
        executor: Option<&ExecutorId>,
    ) -> Result<http::Answer, http::Failure> {
        let request = self.http.request(reqwest::Method::GET, route::join(base, path));
        let (request, token) = match executor {
            Some(executor) => {
                let token = self.config.tokens.get(executor).filter(|_| is_private(base));
                (request.timeout(EXECUTOR_LIMIT), token)
            }
            None => (request, self.config.operator.as_ref()),
        };
        let request = match token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        };
        self.http.send(request).await
    }

    /// Opens the line of one executor, always as an observer.
    ///
    /// # Errors
    /// [`Why`] says whether it is worth trying again soon.
    pub async fn observe(&self, executor: &ExecutorId) -> Result<Connection, Why> {
        let base = route::socket_base(&self.config.serve_url);
        let url = format!("{}?role=observer", route::join(&base, &route::socket(executor.as_str())));
        let token = self.config.tokens.get(executor).or(self.config.operator.as_ref());
        Connection::open(&url, token.map(Token::reveal), CONNECT_LIMIT).await.map_err(|failure| why(&failure))
    }
}

fn is_here(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(http::is_this_host))
}

fn is_private(url: &str) -> bool {
    is_here(url) || url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

fn known(body: &[u8]) -> Result<Answer, AskError> {
    let status: MissionStatus = serde_json::from_slice(body).map_err(AskError::Malformed)?;
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    Ok(Answer::Known { status: Box::new(status), print: hasher.finish() })
}

/// Says whether a line that failed was refused or lost.
pub fn why(failure: &Failure) -> Why {
    match failure {
        Failure::Refused { status: 401 | 403 | 404 | 426, .. }
        | Failure::Closed { code: CLOSE_UNAUTHORIZED, .. }
        | Failure::Unusable { .. } => Why::Refused(failure.to_string()),
        Failure::Refused { .. }
        | Failure::Closed { .. }
        | Failure::Broken { .. }
        | Failure::Silent { .. } => Why::Lost(failure.to_string()),
    }
}
