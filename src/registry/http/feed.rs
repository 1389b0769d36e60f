//! Service: events in order and without a gap, for a reader who knows the last one it has.
//!
//! A reader first gets what the store has after its place, then what is published; one that is too slow for the ring of published
//! events goes back to the store. So there is nothing to miss.

use crate::domain::id::ExecutorId;
use crate::registry::http::state::App;
use crate::registry::hub::Subscription;
use crate::registry::query::{self, EventFilter};
use crate::registry::record::StoredEvent;
use crate::registry::refusal::Refusal;
use std::sync::Arc;

/// Rows of the store that are looked at in one query.
const ROWS: u32 = 500;

/// A reader's place.
pub(super) struct Feed {
    app: Arc<App>,
    filter: EventFilter,
    subscription: Subscription,
    /// The number of the last event that was looked at.
    after: u64,
    /// The store may have events that were not looked at.
    behind: bool,
}

impl Feed {
    /// Begins after an event, or with what happens from now on.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub(super) async fn start(
        app: Arc<App>,
        executor: Option<&ExecutorId>,
        filter: EventFilter,
        after: Option<u64>,
    ) -> Result<Self, Refusal> {
        // First the subscription, then the place in the store: what is published meanwhile is seen twice and told apart by its
        // number.
        let subscription = app.hub.subscribe(executor);
        let after = match after {
            // Never given here: its store was another one, and to this one the reader is new.
            Some(after) if after > subscription.after() => 0,
            Some(after) => after,
            None => app.query(query::last_event).await?,
        };
        Ok(Self { app, filter, subscription, after, behind: true })
    }

    /// Waits for the next events, of which there is at least one; `None` when the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe: the place moves only when something is returned or passed over.
    pub(super) async fn next_batch(&mut self) -> Option<Vec<Arc<StoredEvent>>> {
        loop {
            if self.behind {
                let (filter, after) = (self.filter.clone(), self.after);
                let found = self.app.query(move |reader| query::events(reader, &filter, after, ROWS)).await;
                let (events, last) = found.ok()?;
                self.behind = last.is_some();
                self.after = last.unwrap_or(self.after);
                if !events.is_empty() {
                    return Some(events.into_iter().map(Arc::new).collect());
                }
                continue;
            }
            let batch = self.subscription.next_batch().await?;
            if batch.missed > 0 {
                self.behind = true;
                continue;
            }
            let mut events = batch.events;
            let (after, filter) = (self.after, &self.filter);
            self.after = events.last().map_or(after, |last| last.seq.max(after));
            events.retain(|event| event.seq > after && filter.wants(event));
            if !events.is_empty() {
                return Some(events);
            }
        }
    }
}
