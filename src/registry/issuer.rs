//! Service: issues tokens: whoever asks while the file is being written is answered with the next write.

use crate::registry::identity::{Identities, IdentityError, Issued, TokenRequest};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait; more senders wait for room.
const QUEUE: usize = 1024;

type Asked = (TokenRequest, oneshot::Sender<Result<Issued, Arc<IdentityError>>>);

/// Speaks to the task that writes the token file.
#[derive(Debug, Clone)]
pub struct Issuer {
    queue: mpsc::Sender<Asked>,
}

impl Issuer {
    /// Starts the task; it ends with the last handle.
    pub fn start(identities: Arc<Identities>, tasks: &Tasks) -> Self {
        let (queue, mut requests) = mpsc::channel::<Asked>(QUEUE);
        tasks.spawn("token issuer", async move {
            let mut batch = Vec::new();
            while requests.recv_many(&mut batch, QUEUE).await > 0 {
                let (asked, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                let identities = Arc::clone(&identities);
                let now = clock::wall();
                let issued = tokio::task::spawn_blocking(move || identities.issue(&asked, now)).await;
                match issued {
                    Ok(Ok(issued)) => {
                        for (reply, issued) in replies.into_iter().zip(issued) {
                            reply.send(Ok(issued)).ok();
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::error!(error = %error, "cannot issue tokens");
                        let error = Arc::new(error);
                        for reply in replies {
                            reply.send(Err(Arc::clone(&error))).ok();
                        }
                    }
                    // A panic in there: the callers see their reply dropped.
                    Err(_panicked) => {}
                }
            }
        });
        Self { queue }
    }

    /// Returns the token of an executor, making one when there is none.
    ///
    /// # Errors
    /// `None` when the registry is ending, else what is wrong with the file.
    pub async fn issue(&self, request: TokenRequest) -> Result<Issued, Option<Arc<IdentityError>>> {
        let (reply, answer) = oneshot::channel();
        self.queue.send((request, reply)).await.map_err(|_closed| None)?;
        answer.await.map_err(|_dropped| None)?.map_err(Some)
    }
}
