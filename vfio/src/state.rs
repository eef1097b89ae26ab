//! What must be remembered of a function while VFIO has it, on disk.
//!
//! The record is written before the function is touched and removed after it was given back, so that whatever happens
//! between (a crash, a restart, an upgrade) somebody can still give it back to the driver it had.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::network::Link;
use crate::{Bdf, Error, Mac};

/// How long somebody else may be at it: giving back waits up to 10 s for whoever has the function, and for its interface.
const LOCK_WAIT: Duration = Duration::from_secs(30);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// Anybody may see what a function was.
const RECORD_MODE: u32 = 0o644;

/// What a function was before it was bound to vfio-pci.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) function: Bdf,
    /// The kernel driver it had; `None` when it had none, or was with vfio-pci already.
    pub(crate) previous_driver: Option<String>,
    /// What its driver_override said; `None` when it was not set.
    pub(crate) previous_override: Option<String>,
    pub(crate) mac: Option<Mac>,
    pub(crate) interface: Option<String>,
    /// What the kernel's network had on it.
    #[serde(default)]
    pub(crate) link: Option<Link>,
}

impl Record {
    /// Of a function that vfio-pci had before anybody looked: the kernel will choose its driver.
    pub(crate) fn unknown(function: Bdf) -> Record {
        Record {
            function,
            previous_driver: None,
            previous_override: None,
            mac: None,
            interface: None,
            link: None,
        }
    }
}

/// Where the record of a function lives.
pub(crate) fn record_path(directory: &Path, function: Bdf) -> PathBuf {
    directory.join(format!("function-{function}.json"))
}

/// Reads the record of a function, if there is one.
pub(crate) fn load(directory: &Path, function: Bdf) -> Result<Option<Record>, Error> {
    let path = record_path(directory, function);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::file("read", path, source)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::BadRecord { function, path, source })
}

/// Writes a record.
pub(crate) fn store(directory: &Path, record: &Record) -> Result<(), Error> {
    write_whole(directory, &record_path(directory, record.function), record)
}

/// Writes a file so that after a crash either the old one or the new one is there, whole.
pub(crate) fn write_whole(directory: &Path, path: &Path, content: &impl Serialize) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|source| Error::file("create", directory, source))?;
    let text = serde_json::to_vec_pretty(content).map_err(io::Error::from);
    text.and_then(|text| netd_durable::replace(path, RECORD_MODE, &[&text[..], b"\n"].concat()))
        .map_err(|source| Error::file("write", path, source))
}

/// Forgets a function; having nothing to forget is no error.
pub(crate) fn remove(directory: &Path, function: Bdf) -> Result<(), Error> {
    remove_file(&record_path(directory, function))
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    netd_durable::remove(path).map_err(|source| Error::file("remove", path, source))
}

/// One who takes or gives back a function at a time; ends with the value, or with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Waits until nobody else takes the function or gives it back. The file stays: removing it would let two in.
pub(crate) fn lock(directory: &Path, function: Bdf) -> Result<Lock, Error> {
    fs::create_dir_all(directory).map_err(|source| Error::file("create", directory, source))?;
    let path = directory.join(format!("function-{function}.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| Error::file("open", &path, source))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_INTERVAL),
            Err(Errno::WOULDBLOCK) => return Err(Error::Locked { function, path }),
            Err(errno) => return Err(Error::file("lock", &path, errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            function: "00:03.0".parse().unwrap(),
            previous_driver: Some("virtio-pci".to_owned()),
            previous_override: None,
            mac: Some("42:01:0a:00:00:02".parse().unwrap()),
            interface: Some("eth0".to_owned()),
            link: None,
        }
    }

    #[test]
    fn record_stored_loads_back_and_leaves_no_draft() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("run/netd");
        store(&below, &record()).unwrap();
        assert_eq!(load(&below, record().function).unwrap(), Some(record()));
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1);
        remove(&below, record().function).unwrap();
        remove(&below, record().function).unwrap();
        assert_eq!(load(&below, record().function).unwrap(), None);
    }

    #[test]
    fn damaged_record_loaded_names_the_file_and_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let function = record().function;
        fs::write(record_path(directory.path(), function), "{").unwrap();
        let error = load(directory.path(), function).unwrap_err().to_string();
        assert!(error.contains("function-0000:00:03.0.json") && error.contains("driver_override"), "{error}");
    }
}
