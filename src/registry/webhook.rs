//! Service: events out to webhooks, each at least once and in order.
//!
//! The stored events are the outbox: a webhook has a place in them, kept in the store, that moves on when the receiver has answered 2xx. So
//! nothing has to be written for an event beyond the event itself, and a restart goes on where it stopped. An event
//! that cannot be delivered for a day is dead: it is logged and passed over.

use crate::domain::retry::RetryPolicy;
use crate::net::http::Http;
use crate::registry::Webhook;
use crate::registry::hub::Hub;
use crate::registry::query::{self, EventFilter};
use crate::registry::record::StoredEvent;
use crate::registry::signature;
use crate::registry::store::{Reader, StoreError};
use crate::registry::worker::Registry;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use reqwest::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Rows that are looked at in one query.
const ROWS: u32 = 200;

/// How long a receiver may take to answer. 10 s.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long an event is tried before it is dead. A day.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a receiver that refuses an event for good (4xx) gets to change its mind. An hour.
const REFUSED_FOR_GOOD_AFTER: Duration = Duration::from_secs(60 * 60);

/// Delays between attempts: 1 s doubling to 5 min, with jitter.
const RETRY: RetryPolicy =
    RetryPolicy { base: Duration::from_secs(1), cap: Duration::from_secs(300), jitter: true };

/// Delivers to one receiver.
pub(super) struct Delivery {
    pub(super) webhook: Webhook,
    pub(super) http: Http,
    pub(super) reader: Arc<Reader>,
    pub(super) hub: Arc<Hub>,
    pub(super) registry: Registry,
    pub(super) shutdown: Shutdown,
}

impl Delivery {
    /// Runs until the shutdown starts.
    pub(super) async fn run(self) {
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
    async fn deliver_from(&self, place: u64) -> Option<u64> {
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
    async fn deliver(&self, event: &StoredEvent) -> bool {
        let started = Instant::now();
        let mut delays = RETRY.delays(event.seq, started.into_std());
        loop {
            let (status, problem) = tokio::select! {
                sent = self.send(event) => sent,
                () = self.shutdown.started() => return false,
            };
            if (200..300).contains(&status) {
                return true;
            }
            let refuses = (400..500).contains(&status) && !matches!(status, 408 | 425 | 429);
            let limit = if refuses { REFUSED_FOR_GOOD_AFTER } else { DEAD_AFTER };
            if started.elapsed() >= limit {
                tracing::error!(
                    http.url = without_query(&self.webhook.url),
                    event.kind = &*event.kind,
                    event.seq = event.seq,
                    error = problem,
                    "webhook given up: the receiver did not take this event"
                );
                return true;
            }
            let delay = delays.next().unwrap_or(RETRY.cap).max(Duration::from_millis(200));
            tracing::debug!(
                http.url = without_query(&self.webhook.url),
                error = problem,
                "webhook is tried again"
            );
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.shutdown.started() => return false,
            }
        }
    }

    /// Returns the status, 0 without one, and what went wrong.
    async fn send(&self, event: &StoredEvent) -> (u16, String) {
        let body = event.raw.to_string();
        let seconds = clock::wall().as_millis() / 1000;
        let mut request = self
            .http
            .request(Method::POST, &self.webhook.url)
            .timeout(TIMEOUT)
            .header("content-type", "application/json")
            .header("x-aiwg-event", &*event.kind)
            .header("x-aiwg-event-id", event.seq.to_string());
        if let Some(secret) = &self.webhook.secret {
            let signed = signature::sign(secret.reveal().as_bytes(), seconds, body.as_bytes());
            request = request.header(signature::HEADER, signed);
        }
        match self.http.send(request.body(body)).await {
            Ok(answer) => (answer.status, answer.message()),
            Err(failure) => (0, failure.cause()),
        }
    }
}

fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}
