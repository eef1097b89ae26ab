//! Calls of this machine's clients about files and state: understood, decided by netd, answered here or by the device that has them.

use std::sync::Arc;
use std::time::Duration;

use netd_ipc::server::Peer as ClientPeer;
use netd_ipc::services::{
    BusChange, BusChanges, BusFile, BusFileKind, BusFilePage, BusFilePlace, BusFileReading, BusFileStat,
    BusKey, BusKeyPage, BusValue, Call, ErrorKind,
};
use netd_softbus::remote::share::{self, HASH_BYTES, Kind, SharePath, Stat};
use netd_softbus::remote::state::{self, Expected, VALUE_BYTES_MAX};
use netd_softbus::remote::{Status, Target};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::Bus;
use super::super::streams::pair;
use super::super::trust::SESSION;
use super::state::Asker;
use super::{Answer, Bulk, DEADLINE, Named, Question, Reply, refusal};
use crate::Failure;
use crate::rights::Right;
use crate::server::{Connection, Gone};

/// What looking at others takes: also at what they share.
const DISCOVER: &str = "dsoftbus.discover";
const FILES: &str = "dsoftbus.share.files";
const STATE: &str = "dsoftbus.share.state";
const STATE_WRITE: &str = "dsoftbus.share.state.write";

/// Answers a call about files or state.
pub(in crate::bus) async fn answer(
    connection: &mut Connection,
    bus: &Arc<Bus>,
    call: Call,
) -> Result<(), Gone> {
    let client = connection.peer().clone();
    let asked = async {
        match call {
            Call::ReadBusFile { file, from, timeout } => {
                let limit = timeout.unwrap_or(DEADLINE);
                let (reading, socket) = read(bus, &client, &file, from, limit).await?;
                Ok((json!(reading), vec![socket]))
            }
            call => other(bus, &client, call).await.map(|parameters| (parameters, Vec::new())),
        }
    };
    let answered = tokio::select! {
        answered = asked => answered,
        () = connection.gone() => return Err(Gone::Closed),
    };
    match answered {
        Ok((parameters, descriptors)) => connection.reply(parameters, false, &descriptors).await,
        Err(failure) => connection.fail(&failure).await,
    }
}

async fn other(bus: &Arc<Bus>, client: &ClientPeer, call: Call) -> Result<Value, Failure> {
    match call {
        Call::ListBusFiles { device, share, path, from } => {
            list_files(bus, client, &device, share, &path, from).await.map(|page| json!(page))
        }
        Call::StatBusFile { file, hash, timeout } => {
            let limit = timeout.unwrap_or(DEADLINE);
            stat(bus, client, &file, hash, limit).await.map(|stat| json!(stat))
        }
        Call::GetBusState { key } => get(bus, client, &key).await.map(|value| json!(value)),
        Call::PutBusState { key, value, version } => {
            if value.len() > VALUE_BYTES_MAX {
                let message = format!("{} bytes: a value has at most {VALUE_BYTES_MAX}", value.len());
                return Err(Failure::new(ErrorKind::TooLarge, message));
            }
            let request = state::Request::Put { key: understood(&key)?, expected: expected(version) };
            changed(bus, client, request, value.into()).await
        }
        Call::DeleteBusState { key, version } => {
            let request = state::Request::Delete { key: understood(&key)?, expected: expected(version) };
            changed(bus, client, request, Vec::new()).await
        }
        Call::ListBusState { prefix, after } => {
            let after = after.as_deref().map(understood).transpose()?;
            list_state(bus, client, understood(&prefix)?, after).await.map(|page| json!(page))
        }
        Call::SyncBusState { prefix, since, base, wait } => {
            sync(bus, client, understood(&prefix)?, since, base, wait).await.map(|changes| json!(changes))
        }
        _ => Err(Failure::new(ErrorKind::Internal, "this is no call about files or state")),
    }
}

/// A name, path or key, checked before anything is asked of anybody.
fn understood<T: std::str::FromStr<Err = netd_softbus::Error>>(text: &str) -> Result<T, Failure> {
    text.parse()
        .map_err(|error: netd_softbus::Error| Failure::new(ErrorKind::InvalidInput, error.to_string()))
}

fn nonsense(device: &Named) -> Failure {
    let message = format!("'{}' answered something else than was asked", device.as_str());
    Failure::new(ErrorKind::ProtocolError, message)
}

fn expected(version: Option<u64>) -> Expected {
    version.map_or(Expected::Any, Expected::Version)
}

impl Bus {
    /// The right to something of a device, for as long as it is used.
    async fn right(
        &self,
        client: &ClientPeer,
        device: &Named,
        capability: &'static str,
        target: Option<String>,
    ) -> Result<Right, Failure> {
        let session = (SESSION, Some(device.as_str().to_owned()));
        self.rights.hold(client, vec![session, (capability, target)]).await
    }

    /// Asks the device, or this machine, about files.
    async fn ask_share(
        self: &Arc<Self>,
        client: &ClientPeer,
        device: &Named,
        request: share::Request,
        limit: Duration,
    ) -> Result<(share::Reply, Option<Bulk>), Failure> {
        let Answer { body, bulk } = match device {
            Named::Own => {
                let (asker, visible) = (format!("user:{}", client.uid), self.files.all());
                in_time(limit, self.files.answer(&asker, &visible, request))
                    .await
                    .map_err(|refusal| device.failure(refusal))?
            }
            Named::Peer(_) => {
                let (head, payload) = (request.encode(), Vec::new());
                let question = Question { target: Target::Share, head, payload, deadline: limit };
                self.ask_remote(device, question).await?
            }
        };
        Ok((share::Reply::decode(&body).map_err(|_| nonsense(device))?, bulk))
    }

    /// Asks the keeper, or this machine if it is that, about state.
    async fn ask_state(
        self: &Arc<Self>,
        client: &ClientPeer,
        request: state::Request,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<(state::Reply, Option<Bulk>), Failure> {
        let keeper = self.keeper()?;
        let capability = if request.is_write() { STATE_WRITE } else { STATE };
        let mut right = self.right(client, &keeper, capability, Some(keeper.as_str().to_owned())).await?;
        let asking = async {
            match &keeper {
                Named::Own => {
                    let internal = |why: &String| Failure::new(ErrorKind::Internal, why.clone());
                    let state = self.kept.as_ref().map_err(internal)?;
                    let asker = Asker::Client(client.clone());
                    let answer = in_time(limit, state.answer(&asker, request, payload)).await;
                    answer.map_err(|refusal| keeper.failure(refusal))
                }
                Named::Peer(_) => {
                    let head = request.encode();
                    let question = Question { target: Target::State, head, payload, deadline: limit };
                    self.ask_remote(&keeper, question).await
                }
            }
        };
        let Answer { body, bulk } = tokio::select! {
            answer = asking => answer?,
            lost = right.lost() => return Err(lost),
        };
        Ok((state::Reply::decode(&body).map_err(|_| nonsense(&keeper))?, bulk))
    }

    /// Who keeps the state.
    fn keeper(&self) -> Result<Named, Failure> {
        match &self.config.keeper {
            Some(keeper) if *keeper == self.config.device => Ok(Named::Own),
            Some(keeper) => Ok(Named::Peer(keeper.clone())),
            None => {
                let message = "nobody keeps state: name a device as 'keeper' in [bus] of services.toml";
                Err(Failure::new(ErrorKind::NotFound, message))
            }
        }
    }
}

async fn in_time(limit: Duration, answer: impl Future<Output = Reply>) -> Reply {
    let late = || refusal(Status::DeadlinePassed, format!("no answer within {} ms", limit.as_millis()));
    timeout(limit, answer).await.unwrap_or_else(|_| Err(late()))
}

fn file(name: &str, stat: Stat) -> BusFile {
    let Stat { kind, size, modified_ms } = stat;
    let kind = match kind {
        Kind::File => BusFileKind::File,
        Kind::Directory => BusFileKind::Directory,
    };
    BusFile { name: name.to_owned(), kind, size, modified_ms }
}

async fn list_files(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    device: &str,
    share: Option<String>,
    path: &str,
    from: u32,
) -> Result<BusFilePage, Failure> {
    let device = bus.named(device)?;
    let share = share.as_deref().map(understood::<share::ShareName>).transpose()?;
    let path: SharePath = understood(path)?;
    let (capability, target) = match &share {
        Some(share) => (FILES, Some(format!("{}/{share}", device.as_str()))),
        None => (DISCOVER, None),
    };
    let _right = bus.right(client, &device, capability, target).await?;
    let request = share::Request::List { share, path, from };
    match bus.ask_share(client, &device, request, DEADLINE).await? {
        (share::Reply::Page(share::Page { entries, more }), None) => {
            let files = entries.into_iter().map(|entry| file(&entry.name, entry.stat)).collect();
            Ok(BusFilePage { files, more })
        }
        _ => Err(nonsense(&device)),
    }
}

/// A file of a device that a client may read.
struct Place {
    device: Named,
    share: share::ShareName,
    path: SharePath,
    right: Right,
}

impl Place {
    async fn permitted(bus: &Bus, client: &ClientPeer, place: &BusFilePlace) -> Result<Place, Failure> {
        let BusFilePlace { device, share, path } = place;
        let (device, share, path) = (bus.named(device)?, understood(share)?, understood(path)?);
        let right = bus.right(client, &device, FILES, Some(format!("{}/{share}", device.as_str()))).await?;
        Ok(Place { device, share, path, right })
    }

    fn name(&self) -> &str {
        self.path.as_str().rsplit('/').next().unwrap_or_default()
    }
}

/// A file that is open there, until this is closed; whoever forgets to leaves it to be closed for idleness.
struct Opened<'a> {
    bus: &'a Arc<Bus>,
    client: &'a ClientPeer,
    device: &'a Named,
    handle: u32,
    stat: Stat,
    limit: Duration,
}

impl<'a> Opened<'a> {
    async fn open(
        bus: &'a Arc<Bus>,
        client: &'a ClientPeer,
        place: &'a Place,
        limit: Duration,
    ) -> Result<Opened<'a>, Failure> {
        let Place { device, share, path, right: _ } = place;
        let request = share::Request::Open { share: share.clone(), path: path.clone() };
        match bus.ask_share(client, device, request, limit).await? {
            (share::Reply::Opened { handle, stat }, None) => {
                Ok(Opened { bus, client, device, handle, stat, limit })
            }
            _ => Err(nonsense(device)),
        }
    }

    async fn ask(&self, request: share::Request) -> Result<(share::Reply, Option<Bulk>), Failure> {
        self.bus.ask_share(self.client, self.device, request, self.limit).await
    }

    async fn hash(&self) -> Result<[u8; HASH_BYTES], Failure> {
        match self.ask(share::Request::Hash { handle: self.handle }).await? {
            (share::Reply::Hash(hash), None) => Ok(hash),
            _ => Err(nonsense(self.device)),
        }
    }

    async fn read(&self, offset: u64) -> Result<Bulk, Failure> {
        let request = share::Request::Read { handle: self.handle, offset, length: u64::MAX };
        match self.ask(request).await? {
            (share::Reply::Reading { length }, Some(bulk)) if length == bulk.length => Ok(bulk),
            _ => Err(nonsense(self.device)),
        }
    }

    async fn close(self) {
        // It closes by itself otherwise.
        let _ = self.ask(share::Request::Close { handle: self.handle }).await;
    }
}

async fn stat(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    place: &BusFilePlace,
    hash: bool,
    limit: Duration,
) -> Result<BusFileStat, Failure> {
    let place = Place::permitted(bus, client, place).await?;
    if !hash {
        let (share, path) = (place.share.clone(), place.path.clone());
        return match bus.ask_share(client, &place.device, share::Request::Stat { share, path }, limit).await?
        {
            (share::Reply::Stat(stat), None) => {
                Ok(BusFileStat { file: file(place.name(), stat), sha256: None })
            }
            _ => Err(nonsense(&place.device)),
        };
    }
    let opened = Opened::open(bus, client, &place, limit).await?;
    let (stat, hash) = (opened.stat, opened.hash().await);
    opened.close().await;
    Ok(BusFileStat { file: file(place.name(), stat), sha256: Some(hexadecimal(&hash?)) })
}

async fn read(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    place: &BusFilePlace,
    from: Option<(u64, [u8; HASH_BYTES])>,
    limit: Duration,
) -> Result<(BusFileReading, std::os::fd::OwnedFd), Failure> {
    let place = Place::permitted(bus, client, place).await?;
    let quota = |message| Failure::new(ErrorKind::QuotaExceeded, message);
    let share = bus.streams.take(client.uid).map_err(quota)?;
    let opened = Opened::open(bus, client, &place, limit).await?;
    let stat = opened.stat;
    let begun = async {
        let hash = opened.hash().await?;
        let offset = match from {
            Some((offset, before)) if before == hash && offset <= stat.size => offset,
            _ => 0,
        };
        Ok::<_, Failure>((hash, offset, opened.read(offset).await?))
    };
    let begun = begun.await;
    opened.close().await;
    let (hash, offset, Bulk { length, mut reader }) = begun?;
    let (mut ours, socket) = pair()?;
    let file = file(place.name(), stat);
    let mut right = place.right;
    tokio::spawn(async move {
        // Whoever reads counts: what ends before its length was cut short.
        tokio::select! {
            copied = tokio::io::copy(&mut reader, &mut ours) => drop(copied),
            lost = right.lost() => tracing::info!(%lost, "a shared file is not read on"),
        }
        drop(share);
    });
    let sha256 = hexadecimal(&hash);
    Ok((BusFileReading { file, sha256, offset, length, descriptor: 0 }, socket))
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn get(bus: &Arc<Bus>, client: &ClientPeer, key: &str) -> Result<BusValue, Failure> {
    let keeper = bus.keeper()?;
    let request = state::Request::Get { key: understood(key)? };
    match bus.ask_state(client, request, Vec::new(), DEADLINE).await? {
        (state::Reply::Value { version, modified_ms, value }, None) => {
            Ok(BusValue { value: value.into(), version, modified_ms })
        }
        (state::Reply::Value { version, modified_ms, value }, Some(bulk)) if value.is_empty() => {
            let all = timeout(DEADLINE, bulk.read_all(VALUE_BYTES_MAX)).await;
            let late = || Failure::new(ErrorKind::TimedOut, "the value did not come in time");
            let value = all.map_err(|_| late())?.map_err(|refusal| keeper.failure(refusal))?;
            Ok(BusValue { value: value.into(), version, modified_ms })
        }
        _ => Err(nonsense(&keeper)),
    }
}

async fn changed(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    request: state::Request,
    value: Vec<u8>,
) -> Result<Value, Failure> {
    match bus.ask_state(client, request, value, DEADLINE).await? {
        (state::Reply::Done { revision }, None) => Ok(json!({ "revision": revision })),
        (state::Reply::Conflict { version: 0 }, None) => {
            Err(Failure::new(ErrorKind::Conflict, "the key is not there (any more)"))
        }
        (state::Reply::Conflict { version }, None) => Err(Failure::new(
            ErrorKind::Conflict,
            format!("the key has version {version}: nothing was changed"),
        )),
        _ => Err(nonsense(&bus.keeper()?)),
    }
}

async fn list_state(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    prefix: state::Prefix,
    after: Option<state::Key>,
) -> Result<BusKeyPage, Failure> {
    if let Some(after) = after.as_ref().filter(|after| !prefix.contains(after)) {
        let message = format!("'{after}' is none of '{prefix}'");
        return Err(Failure::new(ErrorKind::InvalidInput, message));
    }
    let request = state::Request::List { prefix, after };
    match bus.ask_state(client, request, Vec::new(), DEADLINE).await? {
        (state::Reply::Listed { keys, more }, None) => {
            let key = |state::Listed { key, version, length }| BusKey {
                key: key.as_str().to_owned(),
                version,
                size: u64::from(length),
            };
            Ok(BusKeyPage { keys: keys.into_iter().map(key).collect(), more })
        }
        _ => Err(nonsense(&bus.keeper()?)),
    }
}

async fn sync(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    prefix: state::Prefix,
    since: u64,
    base: u64,
    wait: Option<Duration>,
) -> Result<BusChanges, Failure> {
    let request = state::Request::Sync { prefix, since, base, wait: wait.is_some() };
    match bus.ask_state(client, request, Vec::new(), wait.unwrap_or(DEADLINE)).await {
        Ok((state::Reply::Changes { until, base, changes, more }, None)) => {
            let change = |state::Change { key, revision, length }| BusChange {
                key: key.as_str().to_owned(),
                revision,
                size: length.map(u64::from),
            };
            Ok(BusChanges { changes: changes.into_iter().map(change).collect(), until, base, more })
        }
        Ok(_) => Err(nonsense(&bus.keeper()?)),
        // Nothing changed in all that time.
        Err(failure) if failure.kind == ErrorKind::TimedOut && wait.is_some() => {
            Ok(BusChanges { changes: Vec::new(), until: since, base, more: false })
        }
        Err(failure) => Err(failure),
    }
}
