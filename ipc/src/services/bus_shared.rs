//! Files and state of the bus, for a blocking client: what a device shares, and what the keeper keeps.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bus_remote::BusPayload;
use super::client::{ANSWER_TIMEOUT, Client, object, returned};
use super::error::Error;
use crate::client::{milliseconds, pick};

/// How long a request may take unless the caller says otherwise: netd-services' own default.
const SHARED_TIMEOUT: Duration = Duration::from_secs(30);

/// What something in a share is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusFileKind {
    /// A regular file.
    File,
    /// A directory, or a share.
    Directory,
}

/// A file or a directory that a device shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusFile {
    /// What it is called in its directory; of a share: its name.
    pub name: String,
    /// What it is.
    pub kind: BusFileKind,
    /// Of a file: its bytes.
    pub size: u64,
    /// When it was changed last, in milliseconds since 1970; 0 of a share.
    pub modified_ms: u64,
}

/// Answer of `ListBusFiles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusFilePage {
    /// Some of them.
    pub files: Vec<BusFile>,
    /// There are more behind them.
    pub more: bool,
}

/// Answer of `StatBusFile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusFileStat {
    /// What it is.
    pub file: BusFile,
    /// Its SHA-256 in hexadecimal digits, if that was asked for.
    pub sha256: Option<String>,
}

/// Answer of `ReadBusFile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusFileReading {
    /// What is read.
    pub file: BusFile,
    /// The SHA-256 of all of it, in hexadecimal digits.
    pub sha256: String,
    /// Where in it the bytes begin.
    pub offset: u64,
    /// How many come.
    pub length: u64,
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

/// Answer of `GetBusState`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusValue {
    /// The value.
    pub value: BusPayload,
    /// Its version: the revision that wrote it.
    pub version: u64,
    /// When it was written, in milliseconds since 1970, by the keeper's clock.
    pub modified_ms: u64,
}

/// A key of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusKey {
    /// Which.
    pub key: String,
    /// The version of its value.
    pub version: u64,
    /// Bytes of its value.
    pub size: u64,
}

/// Answer of `ListBusState`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusKeyPage {
    /// Some of them.
    pub keys: Vec<BusKey>,
    /// There are more behind them.
    pub more: bool,
}

/// The last change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusChange {
    /// Which.
    pub key: String,
    /// The revision that it made.
    pub revision: u64,
    /// Bytes of the value that was written; none if the key was removed.
    pub size: Option<u64>,
}

/// Answer of `SyncBusState`. What comes next is asked for with `until` as `since`, and `base` as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusChanges {
    /// Changes, the oldest first.
    pub changes: Vec<BusChange>,
    /// The revision up to which all are told.
    pub until: u64,
    /// The revision from which on removals are told.
    pub base: u64,
    /// There are more behind them.
    pub more: bool,
}

#[derive(Deserialize)]
struct Written {
    revision: u64,
}

impl Client {
    /// What a device shares: its shares, or with a share what is in a directory of it (`path` empty: its own). Takes dsoftbus.discover for the
    /// shares, and dsoftbus.share.files for what is in one.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); so for the calls below.
    pub fn bus_files(&self, device: &str, share: Option<&str>, path: &str) -> Result<Vec<BusFile>, Error> {
        let mut files = Vec::new();
        loop {
            let parameters = json!({ "device": device, "share": share, "path": path, "from": files.len() });
            let BusFilePage { files: page, more } =
                self.ask_within(SHARED_TIMEOUT + ANSWER_TIMEOUT, "ListBusFiles", parameters)?;
            let goes_on = more && !page.is_empty();
            files.extend(page);
            if !goes_on {
                return Ok(files);
            }
        }
    }

    /// What a file is; with `hash` also the SHA-256 of all of it. Takes dsoftbus.share.files.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn stat_bus_file(
        &self,
        device: &str,
        share: &str,
        path: &str,
        hash: bool,
        timeout: Option<Duration>,
    ) -> Result<BusFileStat, Error> {
        let parameters = json!({
            "device": device, "share": share, "path": path, "hash": hash, "timeout_ms": timeout.map(milliseconds),
        });
        self.ask_within(timeout.unwrap_or(SHARED_TIMEOUT) + ANSWER_TIMEOUT, "StatBusFile", parameters)
    }

    /// Reads a file; from a byte on, if `from` names it and the SHA-256 that the file had when what is before it was read, and still has: otherwise
    /// from its beginning. Takes dsoftbus.share.files.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn read_bus_file(
        &self,
        device: &str,
        share: &str,
        path: &str,
        from: Option<(u64, &str)>,
        timeout: Option<Duration>,
    ) -> Result<BusFileReader, Error> {
        let (offset, sha256) = from.unzip();
        let parameters = json!({
            "device": device, "share": share, "path": path, "offset": offset, "sha256": sha256,
            "timeout_ms": timeout.map(milliseconds),
        });
        let mut connection = self.open()?;
        let within = timeout.unwrap_or(SHARED_TIMEOUT) + ANSWER_TIMEOUT;
        let (response, mut descriptors) =
            connection.call("io.netd.services.ReadBusFile", object(parameters), within)?;
        let reading: BusFileReading = returned(response)?;
        let socket = pick(&mut descriptors, reading.descriptor)?;
        Ok(BusFileReader { socket, left: reading.length, reading })
    }

    /// The value of a key. Takes dsoftbus.share.state.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `NotFound` if it has none.
    pub fn bus_state(&self, key: &str) -> Result<BusValue, Error> {
        self.ask_within(SHARED_TIMEOUT + ANSWER_TIMEOUT, "GetBusState", json!({ "key": key }))
    }

    /// Writes a value, if the key has this version (0: none; not given: whatever it has). Gives the revision that this made, which is its version.
    /// Takes dsoftbus.share.state.write.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `Conflict` if the version is another.
    pub fn put_bus_state(&self, key: &str, value: &[u8], version: Option<u64>) -> Result<u64, Error> {
        let value = BusPayload::from(value.to_vec());
        let parameters = json!({ "key": key, "value": value, "version": version });
        let within = SHARED_TIMEOUT + ANSWER_TIMEOUT;
        self.ask_within(within, "PutBusState", parameters).map(|Written { revision }| revision)
    }

    /// Removes a key, if it has this version (not given: whatever it has). Gives the revision that this made. Takes dsoftbus.share.state.write.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `Conflict` if the version is another, `NotFound` if the key is not there.
    pub fn delete_bus_state(&self, key: &str, version: Option<u64>) -> Result<u64, Error> {
        let parameters = json!({ "key": key, "version": version });
        let within = SHARED_TIMEOUT + ANSWER_TIMEOUT;
        self.ask_within(within, "DeleteBusState", parameters).map(|Written { revision }| revision)
    }

    /// The keys that begin with `prefix`, which ends with `/`. Takes dsoftbus.share.state.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn bus_state_keys(&self, prefix: &str) -> Result<Vec<BusKey>, Error> {
        let mut keys: Vec<BusKey> = Vec::new();
        loop {
            let parameters = json!({ "prefix": prefix, "after": keys.last().map(|last| &last.key) });
            let BusKeyPage { keys: page, more } =
                self.ask_within(SHARED_TIMEOUT + ANSWER_TIMEOUT, "ListBusState", parameters)?;
            let goes_on = more && !page.is_empty();
            keys.extend(page);
            if !goes_on {
                return Ok(keys);
            }
        }
    }

    /// What changed after the revision `since`; 0 for both to begin with everything that is there. With `wait`, waits so long for a change if
    /// there is none. Takes dsoftbus.share.state.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); `Conflict` if `base` is so old that what was removed since is forgotten: begin anew.
    pub fn bus_state_changes(
        &self,
        prefix: &str,
        since: u64,
        base: u64,
        wait: Option<Duration>,
    ) -> Result<BusChanges, Error> {
        let parameters =
            json!({ "prefix": prefix, "since": since, "base": base, "wait_ms": wait.map(milliseconds) });
        let within = wait.unwrap_or(SHARED_TIMEOUT) + ANSWER_TIMEOUT;
        self.ask_within(within, "SyncBusState", parameters)
    }
}

/// A file on its way. Reading ends with 0 when all of it was read, and fails if it broke off.
#[derive(Debug)]
pub struct BusFileReader {
    socket: OwnedFd,
    reading: BusFileReading,
    left: u64,
}

impl BusFileReader {
    /// What is read, and from where on.
    pub fn reading(&self) -> &BusFileReading {
        &self.reading
    }
}

impl Read for BusFileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let count = match retry_on_intr(|| rustix::io::read(&self.socket, &mut *into)) {
            Ok(count) => count,
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            let what =
                format!("{} bytes of the file are missing: its device is gone, or it was changed", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        // No more than `left` were asked for.
        self.left -= count as u64;
        Ok(count)
    }
}

impl AsFd for BusFileReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn reader(length: u64) -> (UnixStream, BusFileReader) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = BusFile { name: "a".into(), kind: BusFileKind::File, size: length, modified_ms: 0 };
        let reading = BusFileReading { file, sha256: "ab".into(), offset: 0, length, descriptor: 0 };
        (ours, BusFileReader { socket: theirs.into(), left: length, reading })
    }

    #[test]
    fn file_that_came_whole_ends_and_one_that_broke_off_fails() {
        let (mut sender, mut reader) = reader(5);
        sender.write_all(b"hello").unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"hello");
        let (mut sender, mut reader) = self::reader(6);
        sender.write_all(b"hello").unwrap();
        drop(sender);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().starts_with("1 bytes of the file are missing"), "{error}");
    }

    #[test]
    fn file_without_content_ends_at_once() {
        let (_sender, mut reader) = reader(0);
        assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    }
}
