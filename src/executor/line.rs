//! Service: the control line between registry and executor, whoever dialled: events out, orders in.
//!
//! The first frame is always the resync. Only the newest line is used; an older one ends itself.

use crate::domain::event::{Body, Envelope, ExecutorEvent, MissionEvent};
use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::executor::effect::Event;
use crate::executor::reporter::Weight;
use crate::executor::roster::Roster;
use crate::net::ws::Connection;
use crate::protocol::envelope::{Frame, encode_envelope};
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use axum::extract::ws::{Message, WebSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the last frames may take at the end.
const LAST_FRAMES: Duration = Duration::from_secs(2);

/// An open WebSocket.
#[derive(Debug)]
pub enum Line {
    /// We dialled.
    Outbound(Box<Connection>),
    /// The registry dialled.
    Inbound(Box<WebSocket>),
}

/// Why a line is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// It broke or was closed; in words.
    Broken(String),
    /// The registry closed it with this code.
    Closed(u16),
    /// A newer line took over.
    Replaced,
    /// The executor ends.
    Ending,
}

impl Line {
    async fn next_text(&mut self) -> Result<String, Gone> {
        match self {
            Self::Outbound(connection) => connection.next_text().await.map_err(|failure| match failure {
                crate::net::ws::Failure::Closed { code, .. } => Gone::Closed(code),
                broken @ (crate::net::ws::Failure::Unusable { .. }
                | crate::net::ws::Failure::Refused { .. }
                | crate::net::ws::Failure::Broken { .. }
                | crate::net::ws::Failure::Silent { .. }) => Gone::Broken(broken.to_string()),
            }),
            Self::Inbound(socket) => loop {
                match tokio::time::timeout(crate::net::ws::DEAD_AFTER, socket.recv()).await {
                    Ok(Some(Ok(Message::Text(text)))) => return Ok(text.as_str().to_owned()),
                    Ok(Some(Ok(Message::Close(frame)))) => {
                        return Err(Gone::Closed(frame.map_or(1005, |frame| frame.code)));
                    }
                    Ok(Some(Ok(_))) => {}
                    Ok(Some(Err(error))) => return Err(Gone::Broken(error.to_string())),
                    Ok(None) => return Err(Gone::Closed(1006)),
                    Err(_silent) => return Err(Gone::Broken("nothing came for 45 s".to_owned())),
                }
            },
        }
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        match self {
            Self::Outbound(connection) => {
                connection.send_text(text).await.map_err(|failure| Gone::Broken(failure.to_string()))
            }
            Self::Inbound(socket) => {
                socket.send(Message::Text(text.into())).await.map_err(|error| Gone::Broken(error.to_string()))
            }
        }
    }

    async fn close(self) {
        match self {
            Self::Outbound(connection) => connection.close().await,
            Self::Inbound(mut socket) => drop(socket.send(Message::Close(None)).await),
        }
    }
}

/// Which line is the newest, and how many are open.
#[derive(Debug, Clone)]
pub struct Lines {
    newest: Arc<watch::Sender<u64>>,
    open: Arc<watch::Sender<usize>>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { newest: Arc::new(watch::Sender::new(0)), open: Arc::new(watch::Sender::new(0)) }
    }
}

impl Lines {
    /// Waits until no line is open.
    pub async fn none_open(&self) {
        let mut open = self.open.subscribe();
        drop(open.wait_for(|open| *open == 0).await);
    }

    /// Says whether a line is open.
    pub fn is_open(&self) -> bool {
        *self.open.borrow() > 0
    }

    /// Uses a line until it is gone, and says how it went.
    pub async fn serve(&self, mut line: Line, roster: &Roster, shutdown: &Shutdown) -> Gone {
        self.newest.send_modify(|newest| *newest += 1);
        self.open.send_modify(|open| *open += 1);
        let own = *self.newest.borrow();
        let mut newest = self.newest.subscribe();
        let gone = tokio::select! {
            gone = talk(&mut line, roster) => gone,
            _ = newest.wait_for(|newest| *newest > own) => Gone::Replaced,
            () = ended(shutdown, roster) => Gone::Ending,
        };
        if gone == Gone::Ending {
            drop(tokio::time::timeout(LAST_FRAMES, flush(&mut line, roster)).await);
        }
        if !matches!(gone, Gone::Broken(_) | Gone::Closed(_)) {
            line.close().await;
        }
        self.open.send_modify(|open| *open -= 1);
        gone
    }
}

/// Waits for the shutdown, and then for the missions, whose last events still have to go out.
async fn ended(shutdown: &Shutdown, roster: &Roster) {
    shutdown.started().await;
    while !roster.live().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn flush(line: &mut Line, roster: &Roster) {
    roster.shared.reporter.let_go();
    loop {
        // Whatever is not there at once will not come any more.
        let Ok(outgoing) =
            tokio::time::timeout(Duration::from_millis(50), roster.shared.reporter.first()).await
        else {
            return;
        };
        if line.send(outgoing.text.to_string()).await.is_err() {
            return;
        }
        roster.shared.reporter.sent(&outgoing);
        if outgoing.weight == Weight::Last {
            roster.reported(&outgoing.mission);
        }
    }
}

async fn talk(line: &mut Line, roster: &Roster) -> Gone {
    let reporter = &roster.shared.reporter;
    let mut owned = roster.live();
    for mission in reporter.repeat() {
        if !owned.contains(&mission) {
            owned.push(mission);
        }
    }
    let resync = Envelope::executor(
        roster.shared.executor.clone(),
        clock::wall(),
        ExecutorEvent::Resync { owned_mission_ids: owned },
    );
    if let Err(gone) = line.send(encode_envelope(&resync)).await {
        return gone;
    }
    loop {
        tokio::select! {
            text = line.next_text() => match text {
                Ok(text) => obey(&text, roster).await,
                Err(gone) => return gone,
            },
            outgoing = reporter.first() => {
                if let Err(gone) = line.send(outgoing.text.to_string()).await {
                    return gone;
                }
                reporter.sent(&outgoing);
                if outgoing.weight == Weight::Last {
                    roster.reported(&outgoing.mission);
                }
            }
        }
    }
}

/// Carries out an order that came over the line.
async fn obey(text: &str, roster: &Roster) {
    let frame = match Frame::parse(text) {
        Ok(frame) => frame,
        Err(error) => {
            tracing::warn!(%error, "the registry sent a frame that cannot be read");
            return;
        }
    };
    let (Some(mission), Body::Mission(event)) = (frame.envelope.mission_id, frame.envelope.body) else {
        return;
    };
    let Some(order) = order_of(event) else { return };
    command(&mission, order, roster).await;
}

fn order_of(event: MissionEvent) -> Option<Event> {
    match event {
        MissionEvent::Paused { .. } => Some(Event::OrderPause),
        // No operator said that: what an operator has paused stays so.
        MissionEvent::Resumed { resumed_from: Some(MissionState::Suspended) } => Some(Event::CalledRunning),
        MissionEvent::Resumed { .. } => Some(Event::OrderResume),
        MissionEvent::Aborted { aborted_by, reason } => {
            Some(Event::OrderAbort { by: aborted_by.unwrap_or_else(|| "operator".to_owned()), reason })
        }
        MissionEvent::HitlResponded { hitl_id, response, .. } => {
            Some(Event::Answer { id: hitl_id, response })
        }
        MissionEvent::Assigned { .. }
        | MissionEvent::Started { .. }
        | MissionEvent::Progress { .. }
        | MissionEvent::HitlRequired { .. }
        | MissionEvent::Suspended { .. }
        | MissionEvent::Reconnected { .. }
        | MissionEvent::Completed { .. }
        | MissionEvent::Failed { .. }
        | MissionEvent::Other { .. } => None,
    }
}

async fn command(mission: &MissionId, order: Event, roster: &Roster) {
    if let Err(refused) = roster.order(mission, order).await {
        tracing::debug!(mission.id = %mission, error = %refused, "an order of the registry does not fit");
    }
}
