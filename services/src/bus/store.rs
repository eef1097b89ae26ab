//! What of the bus outlives the daemon: this machine's private key, whom it trusts, and which keys were revoked.
//!
//! Two small files in a directory that only netd-services reads, each replaced whole.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netd_softbus::session::{StaticKey, Trust};
use netd_softbus::{Instant, PublicKey};
use serde::{Deserialize, Serialize};

use super::clock::random;

const KEY: &str = "key";
const PEERS: &str = "peers.json";
const VERSION: u32 = 1;
/// A longer file was not written by us: 65,536 pins and as many revoked keys, each on a line of some 250 bytes.
const PEERS_BYTES_MAX: u64 = 32 << 20;
/// How long a key that is about to be replaced is good after a start: when it was to end is not kept.
const SUCCESSION: Duration = Duration::from_secs(24 * 3600);

/// The directory.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// The number of the newest state that was written: an older one that comes later is not.
    written: Mutex<u64>,
}

/// Whom this machine trusts, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    version: u32,
    pins: Vec<KeptPin>,
    revoked: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptPin {
    device: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
}

/// Why keys cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {why}; move it away, and pair again", path.display())]
    Damaged { path: PathBuf, why: String },
}

impl Kept {
    pub(super) fn of(trust: &Trust) -> Kept {
        let pin =
            |(device, key, successor): (&netd_softbus::DeviceId, PublicKey, Option<PublicKey>)| KeptPin {
                device: device.as_str().to_owned(),
                key: key.to_string(),
                successor: successor.map(|key| key.to_string()),
            };
        Kept {
            version: VERSION,
            pins: trust.pins().map(pin).collect(),
            revoked: trust.revoked().map(|key| key.to_string()).collect(),
        }
    }

    fn trust(&self, now: Instant) -> Result<Trust, netd_softbus::Error> {
        let mut trust = Trust::new();
        for key in &self.revoked {
            trust.revoke_key(key.parse()?)?;
        }
        for KeptPin { device, key, successor } in &self.pins {
            let device: netd_softbus::DeviceId = device.parse()?;
            trust.pin(device.clone(), key.parse()?)?;
            if let Some(successor) = successor {
                trust.succeed(now, &device, successor.parse()?, SUCCESSION)?;
            }
        }
        Ok(trust)
    }
}

/// Makes the directory, for this user alone, if it is not there.
pub(super) fn make_directory(directory: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::File { doing: "make", path: directory.to_owned(), source })
}

impl Store {
    /// Opens the directory, which is made if it is not there, and reads what is in it; a first start draws the key.
    pub(super) fn open(directory: &Path, now: Instant) -> Result<(Store, StaticKey, Trust), Error> {
        make_directory(directory)?;
        let store = Store { directory: directory.to_owned(), written: Mutex::default() };
        let key = store.key()?;
        let trust = store.trust(now)?;
        Ok((store, key, trust))
    }

    fn key(&self) -> Result<StaticKey, Error> {
        let path = self.directory.join(KEY);
        let damaged = |why: &str| Error::Damaged { path: path.clone(), why: why.to_owned() };
        match fs::read(&path) {
            Ok(bytes) => {
                let bytes = bytes.try_into().map_err(|_| damaged("a key is 32 bytes"))?;
                StaticKey::from_bytes(bytes).map_err(|error| damaged(&error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = StaticKey::generate(&mut random).map_err(|error| damaged(&error.to_string()))?;
                self.replace(KEY, &*key.to_bytes())?;
                Ok(key)
            }
            Err(source) => Err(Error::File { doing: "read", path, source }),
        }
    }

    fn trust(&self, now: Instant) -> Result<Trust, Error> {
        let path = self.directory.join(PEERS);
        let damaged = |why: String| Error::Damaged { path: path.clone(), why };
        let bytes = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > PEERS_BYTES_MAX => {
                return Err(damaged("it is longer than anything that is kept here".to_owned()));
            }
            Ok(_) => {
                fs::read(&path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Trust::new()),
            Err(source) => return Err(Error::File { doing: "read", path: path.clone(), source }),
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if kept.version != VERSION {
            return Err(damaged(format!("version {} is not known here", kept.version)));
        }
        kept.trust(now).map_err(|error| damaged(error.to_string()))
    }

    /// Keeps the state of this number, unless a newer one is kept.
    pub(super) fn save(&self, number: u64, kept: &Kept) -> Result<(), Error> {
        // A panic elsewhere left a number, which is whole.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written >= number {
            return Ok(());
        }
        let path = self.directory.join(PEERS);
        let text = serde_json::to_vec_pretty(kept).map_err(|error| Error::File {
            doing: "write",
            path,
            source: error.into(),
        })?;
        self.replace(PEERS, &text)?;
        *written = number;
        Ok(())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.directory.join(name);
        netd_durable::replace(&path, 0o600, bytes).map_err(|source| Error::File {
            doing: "write",
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn store_opened_twice_has_the_same_key_and_what_was_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let (store, key, mut trust) = Store::open(&path, Instant::ZERO).unwrap();
        let other = |byte: u8| StaticKey::from_bytes([byte; 32]).unwrap().public();
        trust.pin("hub".parse().unwrap(), other(1)).unwrap();
        trust.revoke_key(other(2)).unwrap();
        trust.succeed(Instant::ZERO, &"hub".parse().unwrap(), other(3), SUCCESSION).unwrap();
        store.save(2, &Kept::of(&trust)).unwrap();
        store.save(1, &Kept::of(&Trust::new())).unwrap();
        let mode = fs::metadata(path.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (_, again, kept) = Store::open(&path, Instant::ZERO).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(kept.pins().collect::<Vec<_>>(), trust.pins().collect::<Vec<_>>());
        assert_eq!(kept.revoked().collect::<Vec<_>>(), [other(2)]);
    }

    #[test]
    fn store_with_damaged_files_says_which() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(KEY), "short").unwrap();
        let error = Store::open(directory.path(), Instant::ZERO).unwrap_err().to_string();
        assert!(error.contains("/key: a key is 32 bytes"), "{error}");
        fs::write(directory.path().join(KEY), [7; 32]).unwrap();
        fs::write(directory.path().join(PEERS), "{}").unwrap();
        let error = Store::open(directory.path(), Instant::ZERO).unwrap_err().to_string();
        assert!(error.contains("/peers.json: missing field"), "{error}");
    }
}
