//! Files that this machine shares: looked up beneath their directory, and nowhere else.
//!
//! A path is resolved by openat2(2) beneath the share's directory, with no links of any kind on the way (`RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS`), first without opening what it leads to: a FIFO or a device is never opened. What is read
//! is a descriptor, so that a file that is renamed or removed meanwhile is read to its end. One that is written to meanwhile is not the
//! file that was asked for any more, and its reader is told.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netd_softbus::remote::share::{Entry, HASH_BYTES, Kind, Page, ShareName, SharePath, Stat};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, statat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Files that one peer has open: it reads one at a time, and a few more in parallel.
const OPEN_OF_ONE_MAX: usize = 16;
/// Files that all have open: each is a descriptor, of which the process has 1024 as a rule.
const OPEN_MAX: usize = 128;
/// How long a file stays open that nobody asks for: longer than the pause between two requests of a reader that hashes what it has.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// Entries of a directory that are listed: some 60 replies.
const ENTRIES_MAX: usize = 8192;
/// Longest file, in bytes: what a body of a fetch may have. It is hashed whole before it is read.
const FILE_BYTES_MAX: u64 = 16 << 30;
/// Hashes that are remembered.
const HASHES_MAX: usize = 64;
/// Bytes hashed between two looks at whether anybody still waits.
const HASH_PIECE_BYTES: usize = 1 << 20;
/// How often a path is looked up again while something on it is renamed, and the kernel cannot tell whether it leads outside (openat2(2)).
const TRIES: usize = 16;
/// Bytes of a list: what a reply has room for.
const PAGE_BYTES: usize = 3 * 1024;

/// Directories by the names that they are shared under.
pub(crate) type Directories = BTreeMap<ShareName, PathBuf>;

/// Why something is not given.
#[derive(Debug, thiserror::Error)]
pub(in crate::bus) enum Error {
    #[error("there is no share '{0}'")]
    NoShare(ShareName),
    #[error("nothing of that name is shared")]
    NotThere,
    #[error("it is a directory, and only files can be read")]
    IsDirectory,
    #[error("it is no directory")]
    NoDirectory,
    #[error("it has {0} bytes: files of at most {FILE_BYTES_MAX} bytes are shared")]
    TooLong(u64),
    #[error("the directory has more than {ENTRIES_MAX} entries")]
    TooMany,
    #[error("too many files are open: {OPEN_OF_ONE_MAX} for one device, and {OPEN_MAX} in all")]
    Full,
    #[error("no such file is open: it was closed, or not asked for in {} s", IDLE.as_secs())]
    NotOpen,
    #[error("the file was changed while it was read")]
    Changed,
    #[error("nobody waits for the hash any more")]
    NotWanted,
    #[error("reading failed: {0}")]
    Failed(io::Error),
}

impl From<Errno> for Error {
    /// What resolution refuses is as good as not there: that a link is there is nobody's business.
    fn from(error: Errno) -> Error {
        match error {
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NXIO => Error::NotThere,
            error => Error::Failed(error.into()),
        }
    }
}

/// Which file, and in which state: another of either is another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> Result<Identity, Error> {
        let metadata = file.metadata().map_err(Error::Failed)?;
        Ok(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn stat(&self) -> Stat {
        let (seconds, nanoseconds) = self.modified;
        let modified_ms = milliseconds(seconds, nanoseconds);
        Stat { kind: Kind::File, size: self.size, modified_ms }
    }

    /// Removing or renaming a file changes its ctime, and nothing of what is in it.
    fn has_content_of(&self, other: &Identity) -> bool {
        (self.device, self.inode, self.size, self.modified)
            == (other.device, other.inode, other.size, other.modified)
    }
}

fn milliseconds(seconds: i64, nanoseconds: i64) -> u64 {
    let milliseconds = seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000);
    u64::try_from(milliseconds).unwrap_or_default()
}

/// A file that a peer has open.
#[derive(Debug)]
struct Open {
    peer: String,
    part: Part,
    used: Instant,
}

/// An open file, in the state in which it was opened.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Part {
    file: Arc<File>,
    identity: Identity,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Files {
    directories: Directories,
    open: Mutex<BTreeMap<u32, Open>>,
    last: Mutex<u32>,
    /// The latest last.
    hashes: Mutex<VecDeque<(Identity, [u8; HASH_BYTES])>>,
}

impl Files {
    pub(super) fn new(directories: Directories) -> Files {
        Files { directories, ..Files::default() }
    }

    /// The shares by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &ShareName> {
        self.directories.keys()
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<u32, Open>> {
        // What a panic elsewhere left is whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor of what the path leads to, which cannot be read yet; and what it is.
    fn find(&self, share: &ShareName, path: &SharePath) -> Result<(OwnedFd, FileType), Error> {
        let directory = self.directories.get(share).ok_or_else(|| Error::NoShare(share.clone()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(directory, flags, Mode::empty())?;
        let found = match path.is_root() {
            true => root,
            false => beneath(&root, path.as_str(), OFlags::PATH)?,
        };
        let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
        match kind {
            FileType::RegularFile | FileType::Directory => Ok((found, kind)),
            _ => Err(Error::NotThere),
        }
    }

    /// What is there.
    pub(super) fn stat(&self, share: &ShareName, path: &SharePath) -> Result<Stat, Error> {
        let (found, _) = self.find(share, path)?;
        told(&fstat(&found)?).ok_or(Error::NotThere)
    }

    /// What is in a directory, from the entry of this number on. What is neither file nor directory, or has a name that nobody could ask for,
    /// is not told.
    pub(super) fn list(&self, share: &ShareName, path: &SharePath, from: u32) -> Result<Page, Error> {
        let (found, kind) = self.find(share, path)?;
        if kind != FileType::Directory {
            return Err(Error::NoDirectory);
        }
        let directory = beneath(&found, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let may_be =
                matches!(entry.file_type(), FileType::RegularFile | FileType::Directory | FileType::Unknown);
            if may_be && path.join(name).is_ok() {
                names.push(name.to_owned());
            }
            if names.len() > ENTRIES_MAX {
                return Err(Error::TooMany);
            }
        }
        names.sort_unstable();
        let mut entries = Vec::new();
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        for name in names.into_iter().skip(from) {
            if entries.len() * 18 > PAGE_BYTES {
                break;
            }
            // One that went away meanwhile keeps its number until the next request.
            let stat = statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW).ok().as_ref().and_then(told);
            let gone = Stat { kind: Kind::File, size: 0, modified_ms: 0 };
            entries.push(Entry { name: name.into(), stat: stat.unwrap_or(gone) });
        }
        Ok(Page::fit(entries, PAGE_BYTES))
    }

    /// Opens a regular file for a peer.
    pub(super) fn open(&self, peer: &str, share: &ShareName, path: &SharePath) -> Result<(u32, Stat), Error> {
        let part = self.read_beneath(share, path)?;
        let stat = part.identity.stat();
        let mut open = self.opened();
        close_idle(&mut open, Instant::now());
        let own = open.values().filter(|open| open.peer == peer).count();
        if own >= OPEN_OF_ONE_MAX || open.len() >= OPEN_MAX {
            return Err(Error::Full);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            *last = last.wrapping_add(1);
            if !open.contains_key(&last) {
                break;
            }
        }
        open.insert(*last, Open { peer: peer.to_owned(), part, used: Instant::now() });
        Ok((*last, stat))
    }

    fn read_beneath(&self, share: &ShareName, path: &SharePath) -> Result<Part, Error> {
        let (found, kind) = self.find(share, path)?;
        if kind != FileType::RegularFile {
            return Err(Error::IsDirectory);
        }
        let directory = self.directories.get(share).ok_or_else(|| Error::NoShare(share.clone()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(directory, flags, Mode::empty())?;
        // Should something else be there by now that would wait for a writer, or become somebody's terminal, it does not.
        let file = beneath(&root, path.as_str(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let (before, now) = (fstat(&found)?, fstat(&file)?);
        if (before.st_dev, before.st_ino) != (now.st_dev, now.st_ino) {
            return Err(Error::NotThere);
        }
        let file = File::from(file);
        let identity = Identity::of(&file)?;
        if identity.size > FILE_BYTES_MAX {
            return Err(Error::TooLong(identity.size));
        }
        Ok(Part { file: Arc::new(file), identity })
    }

    /// An open file of the peer's.
    pub(super) fn part(&self, peer: &str, handle: u32) -> Result<Part, Error> {
        let mut open = self.opened();
        let now = Instant::now();
        close_idle(&mut open, now);
        let found = open.get_mut(&handle).filter(|open| open.peer == peer).ok_or(Error::NotOpen)?;
        found.used = now;
        Ok(found.part.clone())
    }

    /// Closes an open file of the peer's.
    pub(super) fn close(&self, peer: &str, handle: u32) -> Result<(), Error> {
        let mut open = self.opened();
        open.get(&handle).filter(|open| open.peer == peer).ok_or(Error::NotOpen)?;
        open.remove(&handle);
        Ok(())
    }

    /// Closes what nobody asked for lately; whether anything is open still.
    pub(super) fn close_idle(&self) -> bool {
        let mut open = self.opened();
        close_idle(&mut open, Instant::now());
        !open.is_empty()
    }

    /// The hash of the whole file, for as long as it is wanted.
    pub(super) fn hash(&self, part: &Part, wanted: &AtomicBool) -> Result<[u8; HASH_BYTES], Error> {
        let known = {
            let hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
            hashes.iter().find(|(identity, _)| *identity == part.identity).map(|(_, hash)| *hash)
        };
        if let Some(hash) = known {
            return Ok(hash);
        }
        let (mut digest, mut at) = (Sha256::new(), 0);
        let mut piece = vec![0; HASH_PIECE_BYTES];
        while at < part.identity.size {
            if !wanted.load(Ordering::Relaxed) {
                return Err(Error::NotWanted);
            }
            let count = part.read(at, &mut piece)?;
            digest.update(piece.get(..count).unwrap_or_default());
            at += count as u64;
        }
        part.check()?;
        let hash = digest.finalize().into();
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if hashes.len() >= HASHES_MAX {
            hashes.pop_front();
        }
        hashes.push_back((part.identity, hash));
        Ok(hash)
    }
}

impl Part {
    /// How much of it there is behind `offset`, at most `length`.
    pub(super) fn length(&self, offset: u64, length: u64) -> u64 {
        self.identity.size.saturating_sub(offset).min(length)
    }

    /// Reads what fits from an offset on; fails at the end, which the file did not have there.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let left = usize::try_from(self.identity.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let most = into.len().min(left);
        let into = into.get_mut(..most).unwrap_or_default();
        loop {
            match self.file.read_at(into, offset) {
                Ok(0) if most > 0 => return Err(Error::Changed),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Failed(error)),
            }
        }
    }

    /// Whether it is still as it was.
    pub(super) fn check(&self) -> Result<(), Error> {
        let now = Identity::of(&self.file)?;
        if now.has_content_of(&self.identity) { Ok(()) } else { Err(Error::Changed) }
    }
}

fn close_idle(open: &mut BTreeMap<u32, Open>, now: Instant) {
    open.retain(|_, open| now.saturating_duration_since(open.used) < IDLE);
}

/// Opens what the path leads to beneath `root`, by no link.
fn beneath(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        opened = openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    opened
}

fn told(stat: &rustix::fs::Stat) -> Option<Stat> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        _ => return None,
    };
    let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 };
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    Some(Stat { kind, size, modified_ms: milliseconds(stat.st_mtime, nanoseconds) })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
