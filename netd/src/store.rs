//! What outlives the daemon: the DHCP lease of each hardware address, and the secret behind our IPv6 addresses.
//!
//! Each is a small JSON file in the state directory, with a version, replaced whole.
//! Writing waits for a disk, so a thread of its own does it. What cannot be read, or is not for us, is ignored and logged: the worst
//! that follows is a lease that is asked for anew.
//!
//! DHCPv6 needs no file: its identity (DUID-LL and IAID) is made from the hardware address and is the same at every start.

mod lease;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use netd_stack::{Instant, Lease, LeaseHint};
use netd_vfio::Mac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::lease::StoredLease;

/// Of what is written. A file of another version is ignored.
const VERSION: u32 = 1;
/// A file longer than this is none of ours: a lease with all its routes has some 8 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Writes under way: leases change every few minutes at most.
const WRITES_MAX: usize = 8;
const SECRET_FILE: &str = "address-secret.json";

/// The files of one state directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    secret: [u8; 16],
    /// Whether the hardware address is the same at the next start, so that keeping its lease makes sense.
    keeps_leases: bool,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

/// A file to be replaced, or with no text removed.
#[derive(Debug)]
struct Job {
    path: PathBuf,
    text: Option<Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SecretFile {
    version: u32,
    /// 32 hexadecimal digits.
    secret: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseFile {
    version: u32,
    mac: String,
    lease: StoredLease,
}

impl Store {
    /// The files in `directory`, which is there. `keeps_leases`: the device has the same hardware address at every start.
    ///
    /// # Errors
    /// There is no randomness, or no thread, to be had.
    pub fn open(directory: &Path, keeps_leases: bool) -> io::Result<Store> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(WRITES_MAX);
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || {
            while let Ok(Job { path, text }) = queue.recv() {
                let done = match &text {
                    Some(text) => replace(&path, text),
                    None => netd_durable::remove(&path),
                };
                if let Err(error) = done {
                    tracing::warn!(file = %path.display(), %error, "cannot keep this for the next start");
                }
            }
        })?;
        let secret = open_secret(&directory.join(SECRET_FILE))?;
        let writer = Some(Writer { jobs, thread });
        Ok(Store { directory: directory.to_owned(), secret, keeps_leases, writer })
    }

    /// Makes IPv6 addresses that are stable on one network and meaningless on another (RFC 7217).
    pub fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// What is left of the lease that `mac` had, `now` being `wall`.
    pub fn lease(&self, mac: [u8; 6], now: Instant, wall: SystemTime) -> Option<LeaseHint> {
        if !self.keeps_leases {
            return None;
        }
        let path = self.lease_path(mac);
        let said = match read::<LeaseFile>(&path) {
            Ok(Some(file)) if file.mac != Mac(mac).to_string() => Err(format!("it is for {}", file.mac)),
            Ok(Some(file)) => file.lease.hint(now, wall),
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        match said {
            Ok(hint) => {
                let kept = hint.lease.is_some();
                tracing::info!(address = %hint.address, kept, "an earlier lease will be asked for again");
                Some(hint)
            }
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "an earlier lease is ignored");
                None
            }
        }
    }

    /// Keeps a lease.
    pub fn save(&self, mac: [u8; 6], lease: &Lease, now: Instant, wall: SystemTime) {
        let file = LeaseFile {
            version: VERSION,
            mac: Mac(mac).to_string(),
            lease: StoredLease::new(lease, now, wall),
        };
        match serde_json::to_vec_pretty(&file) {
            Ok(text) => self.submit(mac, Some(text)),
            Err(error) => tracing::warn!(%error, "cannot write the lease down"),
        }
    }

    /// Forgets the lease: it ran out, or was refused.
    pub fn forget(&self, mac: [u8; 6]) {
        self.submit(mac, None);
    }

    fn submit(&self, mac: [u8; 6], text: Option<Vec<u8>>) {
        let Some(writer) = self.writer.as_ref().filter(|_| self.keeps_leases) else { return };
        match writer.jobs.try_send(Job { path: self.lease_path(mac), text }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                tracing::warn!("the disk is too slow to keep this lease; its renewal will be kept");
            }
        }
    }

    fn lease_path(&self, mac: [u8; 6]) -> PathBuf {
        let digits = mac.map(|byte| format!("{byte:02x}")).concat();
        self.directory.join(format!("lease-{digits}.json"))
    }
}

impl Drop for Store {
    /// What was to be kept is on the disk before the daemon ends.
    fn drop(&mut self) {
        if let Some(Writer { jobs, thread }) = self.writer.take() {
            drop(jobs);
            // It does not panic; and if it did, nothing is left to be done.
            let _ = thread.join();
        }
    }
}

/// The secret in the file, or a new one that is written there.
fn open_secret(path: &Path) -> io::Result<[u8; 16]> {
    match read::<SecretFile>(path) {
        Ok(Some(file)) => match parse_secret(&file.secret) {
            Some(secret) => return Ok(secret),
            None => {
                tracing::warn!(file = %path.display(), "no secret of 32 hexadecimal digits: a new one is made");
            }
        },
        Ok(None) => {}
        Err(reason) => tracing::warn!(file = %path.display(), reason, "a new secret is made"),
    }
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(io::Error::from)?;
    let file = SecretFile { version: VERSION, secret: format!("{:032x}", u128::from_be_bytes(secret)) };
    let written =
        serde_json::to_vec_pretty(&file).map_err(io::Error::from).and_then(|text| replace(path, &text));
    if let Err(error) = written {
        tracing::warn!(file = %path.display(), %error, "IPv6 addresses will be others after the next start");
    }
    Ok(secret)
}

fn parse_secret(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| digits).map(u128::to_be_bytes)
}

/// The content of a file of ours; none if there is no file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(format!("it is no file of at most {FILE_BYTES_MAX} bytes"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let Versioned { version } =
        serde_json::from_slice(&text).map_err(|error| format!("malformed: {error}"))?;
    if version != VERSION {
        return Err(format!("it has version {version}, and {VERSION} is known here"));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| format!("malformed: {error}"))
}

/// Puts `text` in the place of the file: all of it, or nothing. Nobody but us needs to know where we have been.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    netd_durable::replace(path, 0o600, &[text, b"\n"].concat())
}

#[cfg(test)]
mod tests;
