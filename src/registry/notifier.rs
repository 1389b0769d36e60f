//! Service: the ends of missions out to the addresses that those missions named, each at least once.
//!
//! A notice is written in the same transaction as the end it tells of, and its row goes away when the receiver has answered 2xx or a
//! day has passed. Every attempt that fails moves the row's due time, so one address that does not answer holds up nobody else,
//! and a restart goes on where it stopped.

use crate::domain::secret::Token;
use crate::domain::time::Timestamp;
use crate::net::http::Http;
use crate::registry::patience::{self, Attempt, RETRY, Verdict};
use crate::registry::post::{Parcel, origin, post};
use crate::registry::query;
use crate::registry::reach::Reach;
use crate::registry::record::Notice;
use crate::registry::store::Reader;
use crate::registry::worker::Registry;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use futures_util::StreamExt as _;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Notices that are under way at the same time.
const AT_ONCE: usize = 32;

/// Delivers notices.
pub(super) struct Notifier {
    pub(super) http: Http,
    pub(super) reach: Reach,
    pub(super) secret: Option<Token>,
    pub(super) reader: Arc<Reader>,
    pub(super) registry: Registry,
    /// Woken when a notice has been written.
    pub(super) written: Arc<Notify>,
    pub(super) shutdown: Shutdown,
}

/// What became of an attempt.
pub(super) enum Settled {
    /// Delivered or dead: the row goes.
    Over(u64),
    /// To be tried again.
    Later(Box<Notice>),
}

impl Notifier {
    /// Runs until the shutdown starts.
    pub(super) async fn run(self) {
        loop {
            let Some(pause) = self.deliver_due().await else { return };
            tokio::select! {
                () = self.written.notified(), if !pause.is_zero() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.started() => return,
            }
        }
    }

    /// Tries what is due and returns how long to wait for the next; `None` when the registry ends.
    async fn deliver_due(&self) -> Option<Duration> {
        let reader = Arc::clone(&self.reader);
        let limit = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        let looking = tokio::task::spawn_blocking(move || query::notices(&reader, limit));
        let waiting = match looking.await.ok()? {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(error = %crate::registry::outlet::chain(&error), "cannot read the store; notices wait");
                return Some(RETRY.cap);
            }
        };
        let now = clock::wall();
        let next = waiting.iter().map(|notice| notice.due).find(|due| *due > now);
        let due: Vec<Notice> = waiting.into_iter().filter(|notice| notice.due <= now).collect();
        if due.is_empty() {
            // An hour at most: the wall clock may be set.
            return Some(next.map_or(RETRY.cap, |due| due.since(now).min(RETRY.cap)));
        }
        let attempts = stream::iter(due).map(|notice| self.attempt(notice)).buffer_unordered(AT_ONCE);
        let settled = tokio::select! {
            settled = attempts.collect::<Vec<_>>() => settled,
            // What was delivered and not noted is delivered once more after the restart.
            () = self.shutdown.started() => return None,
        };
        self.registry.settle(settled).await.ok()?;
        Some(Duration::ZERO)
    }

    async fn attempt(&self, notice: Notice) -> Settled {
        let (status, problem) = match self.reach.check(&notice.url) {
            Ok(()) => {
                let Notice { seq, url, kind, raw, .. } = &notice;
                let parcel = Parcel { url, seq: *seq, kind, raw, secret: self.secret.as_ref() };
                post(&self.http, parcel, clock::wall()).await
            }
            Err(problem) => (0, problem),
        };
        if patience::is_taken(status) {
            return Settled::Over(notice.seq);
        }
        let failed = notice.attempts.saturating_add(1);
        let attempt = Attempt { status, since: notice.since, failed, seed: notice.seq };
        let now = clock::now();
        match patience::judge(attempt, now) {
            Verdict::GiveUp => {
                tracing::error!(
                    http.url = origin(&notice.url),
                    http.status = status,
                    event.kind = &*notice.kind,
                    event.seq = notice.seq,
                    attempt = failed,
                    error = problem,
                    "notice given up: the receiver did not take the end of this mission"
                );
                Settled::Over(notice.seq)
            }
            Verdict::Again(delay) => {
                tracing::debug!(
                    http.url = origin(&notice.url),
                    http.status = status,
                    attempt = failed,
                    error = problem,
                    "notice is tried again"
                );
                let due: Timestamp = now.wall.plus(delay);
                Settled::Later(Box::new(Notice { attempts: failed, due, ..notice }))
            }
        }
    }
}
