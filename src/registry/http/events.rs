//! Service: `GET /api/v1/events`: every event as an event stream, resumed from `Last-Event-ID` without a gap.
//!
//! Each event's id is its number in the store.

use crate::domain::id::ExecutorId;
use crate::protocol::field::FieldError;
use crate::protocol::route;
use crate::registry::http::feed::Feed;
use crate::registry::http::params::Params;
use crate::registry::http::state::App;
use crate::registry::query::EventFilter;
use crate::registry::record::StoredEvent;
use crate::registry::refusal::Refusal;
use crate::runtime::shutdown::Shutdown;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How often a silent stream says that it lives. 15 s, like the lines' pings.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The query of the stream.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    executor: Option<String>,
    mission: Option<String>,
    kind: Option<String>,
    after: Option<String>,
}

/// `GET /api/v1/events`.
pub async fn events(
    State(app): State<Arc<App>>,
    Params(wanted): Params<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let after = header.or(wanted.after).filter(|text| !text.is_empty());
    let after = after.map(|text| {
        text.parse::<u64>().map_err(|_invalid| FieldError::new("Last-Event-ID", "is no id of this stream"))
    });
    let after = after.transpose()?;
    let executor = wanted.executor.as_deref().map(ExecutorId::new).transpose();
    let executor = executor.map_err(|error| FieldError::new("executor", error.to_string()))?;
    let filter = EventFilter {
        executor: executor.as_ref().map(ToString::to_string),
        mission: wanted.mission,
        kind: wanted.kind,
    };
    let shutdown = app.shutdown.clone();
    let feed = Feed::start(app, executor.as_ref(), filter, after).await?;
    let stream = Stream { feed, ready: VecDeque::new(), shutdown };
    let events = stream::unfold(stream, async |mut stream| {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let mut response =
        Sse::new(events.boxed()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // A buffering proxy would hold events back.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Turns batches into single events.
struct Stream {
    feed: Feed,
    ready: VecDeque<Arc<StoredEvent>>,
    shutdown: Shutdown,
}

impl Stream {
    /// Returns the next event; `None` when the registry ends.
    async fn next(&mut self) -> Option<Event> {
        while self.ready.is_empty() {
            let batch = tokio::select! {
                batch = self.feed.next_batch() => batch?,
                () = self.shutdown.started() => return None,
            };
            self.ready.extend(batch);
        }
        let event = self.ready.pop_front()?;
        // An executor names its events as it likes, and a line break would end the field; the data has the name as it is.
        let name = route::visible(&event.kind);
        Some(Event::default().id(event.seq.to_string()).event(name).data(&*event.raw))
    }
}
