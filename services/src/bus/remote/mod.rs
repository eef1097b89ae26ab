//! Remote services: what clients and peers ask of each other beside plain streams.
//!
//! ```text
//!  a client's call ── clients ─┬─ this machine ───────────────────────────── gateway ─┬─ calls   the service's client answers
//!                              └─ asker ── control stream ── serve (peer) ── gateway ─┼─ topics  it publishes
//!                     shared ──── the same, or at once ─────────────────────── peers ─┼─ share   files of this machine
//!                                                                                     └─ state   values that it keeps
//! ```
//!
//! A control stream, and a carrier of a payload, are streams of a session like any other; their inner end is a pipe in this process instead
//! of a client's descriptor, so the tasks here read and write, and the session's task does the rest.

mod asker;
mod calls;
mod clients;
mod database;
mod files;
mod gateway;
mod offers;
mod peers;
mod serve;
mod share;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use netd_ipc::services::ErrorKind;
use netd_policy::LOOPBACK_DEVICE;
use netd_softbus::DeviceId;
use netd_softbus::remote::{Payload, Status, Target};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub(in crate::bus) use self::asker::Handle;
pub(in crate::bus) use self::calls::{Pending, Taken};
pub(in crate::bus) use self::clients::answer;
pub(crate) use self::files::Directories;
pub(in crate::bus) use self::gateway::Limiters;
pub(in crate::bus) use self::offers::{Given, Wanted, pair};
pub(in crate::bus) use self::serve::serve;
pub(in crate::bus) use self::share::FileShare;
pub(in crate::bus) use self::shared::answer as answer_shared;
pub(in crate::bus) use self::state::State as KeptState;
pub(in crate::bus) use self::topics::{Hub, Subscription};
use super::Bus;
use super::link::Command;
use crate::Failure;

/// The room of a pipe between a task here and a stream of the mux: the longest payload that is sent at once fits.
pub(in crate::bus) const PIPE_BYTES: usize = netd_softbus::remote::PAYLOAD_BYTES_MAX;
/// How long a request may take whose asker does not say.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a request may take at most, whatever its asker says.
const DEADLINE_MAX: Duration = netd_ipc::call::TIMEOUT_MAX;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bus) enum Caller {
    /// A client of this machine, whom netd allowed it.
    Local,
    /// Another device, whose key was proven.
    Peer(DeviceId),
}

impl Caller {
    /// As whoever answers is told.
    pub(in crate::bus) fn as_str(&self) -> &str {
        match self {
            Caller::Local => LOOPBACK_DEVICE,
            Caller::Peer(device) => device.as_str(),
        }
    }
}

/// What is asked, its payload at hand.
#[derive(Debug)]
pub(in crate::bus) struct Question {
    /// What for.
    pub(in crate::bus) target: Target,
    /// What the target understands.
    pub(in crate::bus) head: Vec<u8>,
    /// What its users do: at most [`PAYLOAD_BYTES_MAX`](netd_softbus::remote::PAYLOAD_BYTES_MAX).
    pub(in crate::bus) payload: Vec<u8>,
    /// How long it may take.
    pub(in crate::bus) deadline: Duration,
}

/// An answer: a body of at most [`BODY_BYTES_MAX`](netd_softbus::remote::BODY_BYTES_MAX), and what does not fit into one.
#[derive(Debug, Default)]
pub(in crate::bus) struct Answer {
    pub(in crate::bus) body: Vec<u8>,
    pub(in crate::bus) bulk: Option<Bulk>,
}

/// Bytes of a known number that are read as they come. Fewer of them mean that it broke off.
pub(in crate::bus) struct Bulk {
    pub(in crate::bus) length: u64,
    pub(in crate::bus) reader: Box<dyn AsyncRead + Send + Unpin>,
}

impl std::fmt::Debug for Bulk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bulk").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Bulk {
    /// Everything, if it is at most so long.
    ///
    /// # Errors
    /// It is longer, or it broke off.
    pub(in crate::bus) async fn read_all(mut self, most: usize) -> Result<Vec<u8>, Refusal> {
        let length = usize::try_from(self.length).ok().filter(|length| *length <= most);
        let too_large =
            || refusal(Status::TooLarge, format!("{} bytes: at most {most} are taken", self.length));
        let mut bytes = vec![0; length.ok_or_else(too_large)?];
        let broken = |_| refusal(Status::Gone, "the payload broke off");
        self.reader.read_exact(&mut bytes).await.map_err(broken)?;
        Ok(bytes)
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bus) struct Refusal {
    pub(in crate::bus) status: Status,
    /// For people.
    pub(in crate::bus) message: String,
}

pub(in crate::bus) fn refusal(status: Status, message: impl Into<String>) -> Refusal {
    Refusal { status, message: message.into() }
}

/// Works where waiting for a disk stops nobody else.
async fn on_disk<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(error) => Err(refusal(Status::Failed, error.to_string())),
    }
}

/// What a request ends with.
pub(in crate::bus) type Reply = Result<Answer, Refusal>;

/// A device that a client named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bus) enum Named {
    /// This machine itself.
    Own,
    Peer(DeviceId),
}

impl Named {
    /// As rules have it.
    pub(in crate::bus) fn as_str(&self) -> &str {
        match self {
            Named::Own => LOOPBACK_DEVICE,
            Named::Peer(device) => device.as_str(),
        }
    }

    /// What a client of this machine is told of a refusal.
    fn failure(&self, Refusal { status, message }: Refusal) -> Failure {
        let kind = match status {
            Status::NotFound => ErrorKind::NotFound,
            Status::Denied => ErrorKind::PolicyDenied,
            Status::Busy => ErrorKind::QuotaExceeded,
            Status::DeadlinePassed => ErrorKind::TimedOut,
            Status::Invalid => ErrorKind::InvalidInput,
            Status::Conflict => ErrorKind::Conflict,
            Status::TooLarge => ErrorKind::TooLarge,
            Status::Gone => ErrorKind::Gone,
            Status::Failed | Status::Cancelled => ErrorKind::CallFailed,
        };
        // A peer's words, which a terminal is not to obey.
        match self {
            Named::Own => Failure::new(kind, message),
            Named::Peer(device) => Failure::new(kind, format!("{device} says: {}", message.escape_debug())),
        }
    }
}

impl Bus {
    /// Asks a device, or this machine itself. Whoever waits no longer drops this, and the other side is told.
    pub(in crate::bus) async fn ask_remote(
        self: &Arc<Self>,
        device: &Named,
        question: Question,
    ) -> Result<Answer, Failure> {
        match device {
            Named::Own => match self.ask_own(question).await {
                Ok(gateway::Granted::Answer(answer)) => Ok(answer),
                Ok(gateway::Granted::Subscription(_)) => Ok(Answer::default()),
                Err(refusal) => Err(device.failure(refusal)),
            },
            Named::Peer(peer) => {
                let handle = self.asker(peer, question.deadline).await?;
                handle.ask(question).await?.map_err(|refusal| device.failure(refusal))
            }
        }
    }

    /// Subscribes to what a device's service publishes. The deadline is for the beginning.
    pub(in crate::bus) async fn subscribe_remote(
        self: &Arc<Self>,
        device: &Named,
        question: Question,
    ) -> Result<Subscription, Failure> {
        match device {
            Named::Own => match self.ask_own(question).await {
                Ok(gateway::Granted::Subscription(subscription)) => Ok(subscription),
                Ok(gateway::Granted::Answer(_)) => Err(Failure::new(ErrorKind::Internal, "no subscription")),
                Err(refusal) => Err(device.failure(refusal)),
            },
            Named::Peer(peer) => {
                let handle = self.asker(peer, question.deadline).await?;
                handle.subscribe(question).await?.map_err(|refusal| device.failure(refusal))
            }
        }
    }

    async fn ask_own(self: &Arc<Self>, question: Question) -> Result<gateway::Granted, Refusal> {
        let limit = question.deadline;
        let late = || refusal(Status::DeadlinePassed, format!("no answer within {} ms", limit.as_millis()));
        timeout(limit, gateway::handle(self, &Caller::Local, question)).await.unwrap_or_else(|_| Err(late()))
    }

    /// The asking side of the session with a device, which is made if there is none.
    async fn asker(self: &Arc<Self>, device: &DeviceId, limit: Duration) -> Result<Handle, Failure> {
        let finding = async {
            let (reply, handle) = oneshot::channel();
            self.ask(device, Command::Control { reply }).await?;
            let ended = |_| Failure::new(ErrorKind::Unreachable, "the session ended without a word");
            handle.await.map_err(ended)?
        };
        let late = |_| {
            let message = format!("no session with '{device}' within {} ms", limit.as_millis());
            Failure::new(ErrorKind::TimedOut, message)
        };
        timeout(limit, finding).await.map_err(late)?
    }
}

/// How a payload goes into a request, if it fits beside the head.
fn inline(head: &[u8], payload: Vec<u8>) -> Result<Payload, Vec<u8>> {
    if netd_softbus::remote::Request::fits(head.len(), payload.len()) {
        Ok(Payload::Inline(payload))
    } else {
        Err(payload)
    }
}
