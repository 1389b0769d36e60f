//! Service: `GET /api/v1/events`: every event as an event stream, resumed from `Last-Event-ID` without a gap.
//!
//! Each event's id is its number in the store. A reader first gets what the store has after its id, then what is published; one
//! that is too slow for the ring of published events goes back to the store. So there is nothing to miss.

use crate::domain::id::ExecutorId;
use crate::protocol::field::FieldError;
use crate::registry::http::state::App;
use crate::registry::hub::Subscription;
use crate::registry::query::{self, EventFilter};
use crate::registry::record::StoredEvent;
use crate::registry::refusal::Refusal;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Rows of the store that are looked at in one query.
const ROWS: u32 = 500;

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
    Query(wanted): Query<Wanted>,
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
    // First the subscription, then the place in the store: what is published meanwhile is seen twice and told apart by its number.
    let subscription = app.hub.subscribe(executor.as_ref());
    let after = match after {
        Some(after) => after,
        None => app.query(query::last_event).await?,
    };
    let feed = Feed { app, filter, subscription, after, ready: VecDeque::new(), behind: true };
    let events = stream::unfold(feed, async |mut feed| {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let mut response =
        Sse::new(events.boxed()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // A buffering proxy would hold events back.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Feed {
    app: Arc<App>,
    filter: EventFilter,
    subscription: Subscription,
    /// The number of the last event that was looked at.
    after: u64,
    ready: VecDeque<Arc<StoredEvent>>,
    /// The store may have events that were not looked at.
    behind: bool,
}

impl Feed {
    /// Returns the next event; `None` when the registry ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                let sse = Event::default().id(event.seq.to_string()).event(&*event.kind).data(&*event.raw);
                return Some(sse);
            }
            if self.behind {
                let (filter, after) = (self.filter.clone(), self.after);
                let found = self.app.query(move |reader| query::events(reader, &filter, after, ROWS)).await;
                let (events, last) = found.ok()?;
                self.behind = last.is_some();
                self.after = last.unwrap_or(self.after);
                self.ready.extend(events.into_iter().map(Arc::new));
                continue;
            }
            let batch = tokio::select! {
                batch = self.subscription.next_batch() => batch?,
                () = self.app.shutdown.started() => return None,
            };
            if batch.missed > 0 {
                self.behind = true;
                continue;
            }
            for event in batch.events {
                if event.seq > self.after {
                    self.after = event.seq;
                    if self.filter.wants(&event) {
                        self.ready.push_back(event);
                    }
                }
            }
        }
    }
}
