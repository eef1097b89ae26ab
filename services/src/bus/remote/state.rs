//! Requests to the state, answered by the device that keeps it.
//!
//! A change is made in this order: checked, recorded in netd's audit, brought to the disk, answered. What cannot be recorded does not
//! happen.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use netd_ipc::server::Peer as ClientPeer;
use netd_softbus::DeviceId;
use netd_softbus::remote::state::{Expected, Key, Prefix, Reply, Request};
use netd_softbus::remote::{BODY_BYTES_MAX, Status};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;

use super::database::{Changes, Database, Error, Kept, Write};
use super::{Answer, Bulk, Refusal, Reply as Answered, on_disk, refusal};
use crate::Failure;
use crate::netd::Netd;

/// The file in the bus's own directory.
const FILE: &str = "state.redb";
/// What a reply says beside a value.
const BESIDE_BYTES: usize = 1 + 8 + 8;

/// Who asks.
#[derive(Debug, Clone)]
pub(in crate::bus) enum Asker {
    /// A client of this machine: netd decided what it may.
    Client(ClientPeer),
    /// Another device: `[[bus.acl]]` did.
    Device(DeviceId),
}

impl Asker {
    /// As whom it is known to bounds.
    fn name(&self) -> String {
        match self {
            Asker::Client(client) => format!("user:{}", client.uid),
            Asker::Device(device) => format!("device:{}", device.as_str()),
        }
    }

    /// Has a change of its recorded, on a thread that may block.
    fn record(&self, netd: &Netd, detail: &str) -> Result<(), Failure> {
        match self {
            Asker::Client(client) => netd.record_state(client, None, detail),
            Asker::Device(device) => {
                use rustix::process::{getgid, getpid, getuid};
                let pid = getpid().as_raw_nonzero().get().unsigned_abs();
                let ours = ClientPeer { uid: getuid().as_raw(), gid: getgid().as_raw(), pid, unit: None };
                netd.record_state(&ours, Some(device.as_str()), detail)
            }
        }
    }
}

/// The state that this machine keeps.
#[derive(Debug)]
pub(in crate::bus) struct State {
    database: Arc<Database>,
    netd: Netd,
    /// One change at a time: the database would have the others wait on threads.
    writing: Mutex<()>,
    revision: watch::Sender<u64>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match &error {
            Error::NotThere => Status::NotFound,
            Error::Conflict { .. } | Error::Forgotten { .. } => Status::Conflict,
            Error::TooLong { .. } => Status::TooLarge,
            Error::Full { .. } => Status::Busy,
            Error::NotRecorded(_) | Error::Open { .. } | Error::Damaged { .. } | Error::Database { .. } => {
                Status::Failed
            }
        };
        // Where this machine keeps its files is nobody else's business.
        let message = match &error {
            Error::Open { .. } | Error::Damaged { .. } | Error::Database { .. } => {
                tracing::error!(%error, "the bus's state");
                "the state cannot be read or written: the log of the device that keeps it says why".to_owned()
            }
            Error::NotRecorded(failure) => format!("the change cannot be recorded: {}", failure.message),
            error => error.to_string(),
        };
        refusal(status, message)
    }
}

impl State {
    /// Opens what is kept in the bus's directory.
    pub(in crate::bus) fn open(directory: &Path, netd: Netd) -> Result<State, String> {
        let opened = super::super::store::make_directory(directory).map_err(|error| error.to_string());
        let database =
            opened.and_then(|()| Database::open(&directory.join(FILE)).map_err(|error| error.to_string()))?;
        let revision = database.revision().map_err(|error| error.to_string())?;
        let (revision, _) = watch::channel(revision);
        Ok(State { database: Arc::new(database), netd, writing: Mutex::default(), revision })
    }

    /// Answers a request that was allowed. Who waits for a change, waits until it is dropped.
    pub(in crate::bus) async fn answer(&self, asker: &Asker, request: Request, payload: Vec<u8>) -> Answered {
        let database = Arc::clone(&self.database);
        let reply = match request {
            Request::Get { key } => return get(database, key).await,
            Request::Put { key, expected } => self.change(asker, key, expected, Some(payload)).await?,
            Request::Delete { key, expected } => self.change(asker, key, expected, None).await?,
            Request::List { prefix, after } => {
                let (keys, more) = on_disk(move || database.list(&prefix, after.as_ref())).await?;
                Reply::Listed { keys, more }
            }
            Request::Sync { prefix, since, base, wait } => self.sync(prefix, since, base, wait).await?,
        };
        Ok(Answer { body: reply.encode(), bulk: None })
    }

    async fn change(
        &self,
        asker: &Asker,
        key: Key,
        expected: Expected,
        value: Option<Vec<u8>>,
    ) -> Result<Reply, Refusal> {
        let _turn = self.writing.lock().await;
        let (database, netd, asker) = (Arc::clone(&self.database), self.netd.clone(), asker.clone());
        let changed = spawn_blocking(move || {
            let (writer, now_ms) = (asker.name(), now_ms());
            let write = Write { writer: &writer, now_ms, key: &key, expected, value: value.as_deref() };
            database.change(write, |revision| {
                let what = match &value {
                    Some(value) => format!("{} bytes written", value.len()),
                    None => "removed".to_owned(),
                };
                asker.record(&netd, &format!("{key}: {what}, revision {revision}"))
            })
        });
        match changed.await {
            Ok(Ok(revision)) => {
                self.revision.send_replace(revision);
                Ok(Reply::Done { revision })
            }
            Ok(Err(Error::Conflict { version })) => Ok(Reply::Conflict { version }),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(refusal(Status::Failed, error.to_string())),
        }
    }

    async fn sync(&self, prefix: Prefix, since: u64, base: u64, wait: bool) -> Result<Reply, Refusal> {
        let mut revision = self.revision.subscribe();
        let (mut since, mut base) = (since, base);
        loop {
            // What is written from here on wakes.
            revision.borrow_and_update();
            let (database, keys) = (Arc::clone(&self.database), prefix.clone());
            let found = on_disk(move || database.changes(&keys, since, base)).await?;
            let Changes { until, base: next_base, changes, more } = found;
            if !changes.is_empty() || !wait {
                return Ok(Reply::Changes { until, base: next_base, changes, more });
            }
            (since, base) = (until, next_base);
            if !more && revision.changed().await.is_err() {
                return Err(refusal(Status::Gone, "the state is kept here no longer"));
            }
        }
    }
}

async fn get(database: Arc<Database>, key: Key) -> Answered {
    let kept = on_disk(move || database.get(&key)?.ok_or(Error::NotThere)).await?;
    let Kept { version, modified_ms, value } = kept;
    if BESIDE_BYTES + value.len() <= BODY_BYTES_MAX {
        return Ok(Answer { body: Reply::Value { version, modified_ms, value }.encode(), bulk: None });
    }
    let body = Reply::Value { version, modified_ms, value: Vec::new() }.encode();
    let bulk = Bulk { length: value.len() as u64, reader: Box::new(std::io::Cursor::new(value)) };
    Ok(Answer { body, bulk: Some(bulk) })
}

/// The wall clock, for people to read: nothing is decided by it.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
