//! Rights that clients use for longer than a call takes: when netd's rules change, they are decided again, and what is no longer
//! allowed ends.
//!
//! netd cuts its own flows at a reload. What netd-services has made for a client out of them - a stream of the bus, a service offered to
//! it - is held by a [`Right`], which says when it is over.

use std::collections::BTreeMap;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use netd_ipc::server::Peer;
use netd_ipc::services::ErrorKind;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::Failure;
use crate::netd::Netd;

/// How often netd is asked whether its rules are the same, while somebody uses a right: this is how long a lost one lasts.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A question to netd: a capability, and what it is wanted for.
pub(crate) type Ask = (&'static str, Option<String>);

/// All rights in use.
#[derive(Debug)]
pub(crate) struct Rights {
    netd: Netd,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    /// As many as there are things that they are used for, which are bounded themselves.
    rights: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    client: Peer,
    asks: Arc<[Ask]>,
    lost: oneshot::Sender<Failure>,
}

/// What rules netd decides by: of another process, or of the same one after a reload, they may be others.
type Generation = (u32, u64);

impl Rights {
    pub(crate) fn new(netd: Netd) -> Rights {
        Rights { netd, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change of the table is one insertion or removal.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks netd whether `client` may do all of this, and again whenever that may have changed, for as long as the right is kept.
    ///
    /// # Errors
    /// It may not, in netd's words; or netd cannot be asked.
    pub(crate) async fn hold(self: &Arc<Self>, client: &Peer, asks: Vec<Ask>) -> Result<Right, Failure> {
        let (lost, news) = oneshot::channel();
        let entry = Entry { client: client.clone(), asks: asks.into(), lost };
        let asks = Arc::clone(&entry.asks);
        let number = {
            let mut held = self.held();
            held.last += 1;
            let number = held.last;
            held.rights.insert(number, entry);
            number
        };
        // In this order: rules that change after the answer find the right in the table.
        let right = Right { rights: Arc::clone(self), number, news: News::Awaited(news) };
        self.decide(client, &asks).await?;
        Ok(right)
    }

    async fn decide(&self, client: &Peer, asks: &[Ask]) -> Result<(), Failure> {
        for (capability, target) in asks {
            self.netd.permit(client, capability, target.clone()).await?;
        }
        Ok(())
    }

    /// Looks after the rights for as long as the daemon runs.
    pub(crate) async fn supervise(self: Arc<Self>) {
        let mut decided_by = None;
        loop {
            sleep(LOOK_INTERVAL).await;
            if self.held().rights.is_empty() {
                continue;
            }
            // Without netd there is nobody to decide; what stood on its flows is over by itself.
            let Ok(current) = self.generation().await else { continue };
            if decided_by != Some(current) {
                decided_by = self.decide_again().await.then_some(current);
            }
        }
    }

    async fn generation(&self) -> Result<Generation, Failure> {
        let status = self.netd.call(netd_ipc::Client::status).await?;
        Ok((status.pid, status.rules_generation))
    }

    /// Decides about all; whether netd answered for each.
    async fn decide_again(&self) -> bool {
        let all: Vec<(u64, Peer, Arc<[Ask]>)> = {
            let held = self.held();
            let all = held.rights.iter();
            all.map(|(number, entry)| (*number, entry.client.clone(), Arc::clone(&entry.asks))).collect()
        };
        for (number, client, asks) in all {
            let Err(failure) = self.decide(&client, &asks).await else { continue };
            if !matches!(failure.kind, ErrorKind::PolicyDenied | ErrorKind::DevnetDisabled) {
                return false;
            }
            let entry = self.held().rights.remove(&number);
            if let Some(entry) = entry {
                tracing::info!(uid = client.uid, %failure, "a right was taken back, and what it was used for ends");
                // Whoever held it may be done in this moment.
                let _ = entry.lost.send(failure);
            }
        }
        true
    }
}

/// A right in use. It is over when dropped, or when the rules take it back.
#[derive(Debug)]
pub(crate) struct Right {
    rights: Arc<Rights>,
    number: u64,
    news: News,
}

#[derive(Debug)]
enum News {
    Awaited(oneshot::Receiver<Failure>),
    Lost(Failure),
}

impl Right {
    /// One that no rules take back.
    #[cfg(test)]
    pub(crate) fn kept(rights: &Arc<Rights>) -> Right {
        let (_, news) = oneshot::channel();
        Right { rights: Arc::clone(rights), number: 0, news: News::Awaited(news) }
    }

    /// Ready with the reason once the rules have taken it back.
    pub(crate) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let failure = match &mut self.news {
            News::Lost(failure) => failure.clone(),
            News::Awaited(news) => match Pin::new(news).poll(cx) {
                Poll::Ready(Ok(failure)) => failure,
                // The sender goes with a failure, or with this.
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            },
        };
        self.news = News::Lost(failure.clone());
        Poll::Ready(failure)
    }

    /// Waits until the rules have taken it back.
    pub(crate) async fn lost(&mut self) -> Failure {
        poll_fn(|cx| self.poll_lost(cx)).await
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        self.rights.held().rights.remove(&self.number);
    }
}
