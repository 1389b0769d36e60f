//! Service: events out to webhooks, each at least once and in order.
//!
//! The stored events are the outbox: a webhook has a place in them, kept in the store, that moves on when the receiver has answered 2xx. So
//! nothing has to be written for an event beyond the event itself, and a restart goes on where it stopped. An event
//! that cannot be delivered for a day is dead: it is logged and passed over. Those behind it have waited as long as they
//! are old, so a receiver that comes back after a week finds the last day, not a queue that gives each event a day of its own.

use crate::domain::time::{Now, Timestamp};
use crate::net::http::Http;
use crate::registry::Webhook;
use crate::registry::hub::Hub;
use crate::registry::patience::{self, Attempt, RETRY, Verdict};
use crate::registry::post::{Parcel, origin, post};
use crate::registry::query::{self, EventFilter};
use crate::registry::record::StoredEvent;
use crate::registry::store::{Reader, StoreError};
use crate::registry::worker::Registry;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use std::sync::Arc;

/// Rows that are looked at in one query.
const ROWS: u32 = 200;

/// Delivers to one receiver.
pub(super) struct Delivery {
    pub(super) webhook: Webhook,
    pub(super) http: Http,
    pub(super) reader: Arc<Reader>,
    pub(super) hub: Arc<Hub>,
    pub(super) registry: Registry,
    pub(super) shutdown: Shutdown,
    /// Since when the receiver has taken nothing.
    pub(super) failing_since: Option<Timestamp>,
}

impl Delivery {
    /// Runs until the shutdown starts.
    pub(super) async fn run(mut self) {
        let mut subscription = self.hub.subscribe(None);
        let mut place = match self.first_place().await {
            Ok(place) => place,
            Err(error) => {
                tracing::error!(error = %error, "cannot read the store; webhooks are not sent");
                return;
            }
        };
        loop {
            match self.deliver_from(place).await {
                Some(next) if next != place => {
                    place = next;
                    self.registry.webhook_reached(&self.webhook.url, place).await;
                }
                Some(_) => {
                    tokio::select! {
                        _ = subscription.next_batch() => {}
                        () = self.shutdown.started() => return,
                    }
                }
                None => return,
            }
        }
    }

    /// Where it stopped; a new webhook begins with what happens from now on.
    async fn first_place(&self) -> Result<u64, StoreError> {
        let (reader, url) = (Arc::clone(&self.reader), self.webhook.url.clone());
        let looking = tokio::task::spawn_blocking(move || match query::webhook_place(&reader, &url)? {
            Some(place) => Ok(place),
            None => query::last_event(&reader),
        });
        looking.await.unwrap_or(Ok(0))
    }

    /// Delivers a page of events; returns the place after it, or `None` when the registry ends.
    async fn deliver_from(&mut self, place: u64) -> Option<u64> {
        let reader = Arc::clone(&self.reader);
        let looking =
            tokio::task::spawn_blocking(move || query::events(&reader, &EventFilter::default(), place, ROWS));
        let (events, last) = match looking.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(error = %error, "cannot read the store; webhooks wait");
                tokio::time::sleep(RETRY.cap).await;
                return Some(place);
            }
            Err(_panicked) => return None,
        };
        let mut reached = place;
        for event in events {
            if self.wants(&event) && !self.deliver(&event).await {
                // What was delivered before this one need not be delivered again.
                self.registry.webhook_reached(&self.webhook.url, reached).await;
                return None;
            }
            reached = event.seq;
        }
        Some(last.unwrap_or(place))
    }

    fn wants(&self, event: &StoredEvent) -> bool {
        let kinds = &self.webhook.kinds;
        kinds.is_empty() || kinds.iter().any(|kind| event.kind.starts_with(kind.as_str()))
    }

    /// Tries until the receiver has it or it is dead; false when the registry ends.
    async fn deliver(&mut self, event: &StoredEvent) -> bool {
        let mut failed = 0_u32;
        loop {
            let parcel = Parcel {
                url: &self.webhook.url,
                seq: event.seq,
                kind: &event.kind,
                raw: &event.raw,
                secret: self.webhook.secret.as_ref(),
            };
            let (status, problem) = tokio::select! {
                sent = post(&self.http, parcel, clock::wall()) => sent,
                () = self.shutdown.started() => return false,
            };
            if patience::is_taken(status) {
                self.failing_since = None;
                return true;
            }
            failed = failed.saturating_add(1);
            match self.judge(event, status, failed, clock::now()) {
                Verdict::GiveUp => {
                    tracing::error!(
                        http.url = origin(&self.webhook.url),
                        http.status = status,
                        event.kind = &*event.kind,
                        event.seq = event.seq,
                        error = problem,
                        "webhook given up: the receiver did not take this event"
                    );
                    return true;
                }
                Verdict::Again(delay) => {
                    tracing::debug!(
                        http.url = origin(&self.webhook.url),
                        http.status = status,
                        error = problem,
                        "webhook is tried again"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = self.shutdown.started() => return false,
                    }
                }
            }
        }
    }

    /// An event has waited since it happened, but not since before its receiver began to fail.
    fn judge(&mut self, event: &StoredEvent, status: u16, failed: u32, now: Now) -> Verdict {
        let failing_since = *self.failing_since.get_or_insert(now.wall);
        let since = failing_since.max(event.ts.min(now.wall));
        patience::judge(Attempt { status, since, failed, seed: event.seq }, now)
    }
}
