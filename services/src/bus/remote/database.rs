//! The state on the disk: a redb database in the bus's own directory.
//!
//! ```text
//!  values   key      -> (version, written at, writer, value)
//!  changes  revision -> key        the last change of each key that is there
//!  removals revision -> key        the last change of each key that is not, the latest REMOVALS_MAX of them
//!  removed  key      -> revision   the same by key
//!  writers  writer   -> (keys, bytes) that it has written last
//!  numbers  name     -> revision, horizon
//! ```
//!
//! A change is one transaction, and on the disk before it is answered: whoever is killed meanwhile leaves the old value or the new one.
//! *horizon* is the newest revision whose removal is forgotten: who knows only what was before it has to begin anew.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use netd_softbus::remote::state::{Change, Expected, Key, Listed, Prefix, VALUE_BYTES_MAX};
use redb::backends::FileBackend;
use redb::{
    Database as File, ReadTransaction, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, WriteTransaction,
};

const VALUES: TableDefinition<&str, (u64, u64, &str, &[u8])> = TableDefinition::new("values");
const CHANGES: TableDefinition<u64, &str> = TableDefinition::new("changes");
const REMOVALS: TableDefinition<u64, &str> = TableDefinition::new("removals");
const REMOVED: TableDefinition<&str, u64> = TableDefinition::new("removed");
const WRITERS: TableDefinition<&str, (u64, u64)> = TableDefinition::new("writers");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

const REVISION: &str = "revision";
const HORIZON: &str = "horizon";

/// Keys in all: with the longest keys a table of some 10 MiB.
const KEYS_MAX: u64 = 16_384;
/// Keys that one writer has: a quarter, so that nobody alone fills it.
const KEYS_OF_ONE_MAX: u64 = KEYS_MAX / 4;
/// Bytes of values that one writer has.
const BYTES_OF_ONE_MAX: u64 = 16 << 20;
/// Bytes of values in all: four writers at their bound.
const BYTES_MAX: u64 = 4 * BYTES_OF_ONE_MAX;
/// Removals that are remembered for those who follow: as many as one writer can make at once.
const REMOVALS_MAX: u64 = KEYS_OF_ONE_MAX;
/// Memory for pages: a fraction of the largest database, since state is small and read seldom.
const CACHE_BYTES: usize = 8 << 20;
/// Bytes of a list or a row of changes: what a reply has room for.
const PAGE_BYTES: usize = 3 * 1024;
/// Bytes that stand beside a key there.
const BESIDE_BYTES: usize = 1 + 8 + 1 + 4;
/// Changes that are looked at for one answer, of whatever key: a follower of one key asks again for the rest.
const LOOKED_AT_MAX: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    file: File,
}

/// What is kept for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) version: u64,
    pub(super) modified_ms: u64,
    pub(super) value: Vec<u8>,
}

/// A row of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) until: u64,
    pub(super) base: u64,
    pub(super) changes: Vec<Change>,
    pub(super) more: bool,
}

/// A change to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    /// For whom.
    pub(super) writer: &'a str,
    pub(super) now_ms: u64,
    pub(super) key: &'a Key,
    pub(super) expected: Expected,
    /// None: the key is removed.
    pub(super) value: Option<&'a [u8]>,
}

/// Why something is not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error(
        "{} is damaged ({why}): move it away to begin with nothing, or put a copy in its place", path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Database { path: PathBuf, source: Box<redb::Error> },
    #[error("the key is not there")]
    NotThere,
    #[error("the key has version {version} by now")]
    Conflict { version: u64 },
    #[error("a value has {length} bytes: at most {VALUE_BYTES_MAX} are kept")]
    TooLong { length: usize },
    #[error("{what}: {max} are kept {of}")]
    Full { what: &'static str, max: u64, of: &'static str },
    #[error("what was removed up to revision {horizon} is forgotten: begin anew, with revision 0")]
    Forgotten { horizon: u64 },
    #[error("{0}")]
    NotRecorded(crate::Failure),
}

impl Database {
    /// Opens the file, which is made if it is not there, and checks all of it.
    pub(super) fn open(path: &Path) -> Result<Database, Error> {
        let failed = |source| Error::Open { path: path.to_owned(), source };
        let damaged = |error: redb::Error| match error {
            redb::Error::Io(source) if source.kind() != ErrorKind::InvalidData => failed(source),
            error @ redb::Error::DatabaseAlreadyOpen => {
                Error::Database { path: path.to_owned(), source: Box::new(error) }
            }
            error => Error::Damaged { path: path.to_owned(), why: error.to_string() },
        };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let backend = FileBackend::new(file.map_err(failed)?).map_err(|error| damaged(error.into()))?;
        let opened = File::builder()
            .set_cache_size(CACHE_BYTES)
            // Some milliseconds, once; a file that somebody else wrote to is told from a good one now, and not by a panic later.
            .set_check_integrity_on_open(true)
            .create_with_backend(backend);
        let file = opened.map_err(|error| damaged(error.into()))?;
        let opened = Database { path: path.to_owned(), file };
        let begun = opened.write(|transaction| {
            transaction.open_table(VALUES)?;
            transaction.open_table(CHANGES)?;
            transaction.open_table(REMOVALS)?;
            transaction.open_table(REMOVED)?;
            transaction.open_table(WRITERS)?;
            transaction.open_table(NUMBERS)?;
            Ok(())
        });
        begun.map_err(|error| match error {
            Error::Database { source, .. } => damaged(*source),
            error => error,
        })?;
        Ok(opened)
    }

    fn failed(&self, source: impl Into<redb::Error>) -> Error {
        Error::Database { path: self.path.clone(), source: Box::new(source.into()) }
    }

    fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, Error> {
        let transaction = self.file.begin_write().map_err(|error| self.failed(error))?;
        let done = work(&transaction).map_err(|error| self.failed(error))?;
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(done)
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Error> {
        let transaction = self.file.begin_read().map_err(|error| self.failed(error))?;
        work(&transaction).map_err(|error| self.failed(error))
    }

    /// The last revision.
    pub(super) fn revision(&self) -> Result<u64, Error> {
        self.read(|transaction| number(&transaction.open_table(NUMBERS)?, REVISION))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Kept>, Error> {
        self.read(|transaction| {
            let values = transaction.open_table(VALUES)?;
            let kept = values.get(key.as_str())?;
            Ok(kept.map(|kept| {
                let (version, modified_ms, _, value) = kept.value();
                Kept { version, modified_ms, value: value.to_vec() }
            }))
        })
    }

    /// Makes a change, once `record` has recorded the revision that it will make. Gives that revision.
    pub(super) fn change(
        &self,
        write: Write<'_>,
        record: impl FnOnce(u64) -> Result<(), crate::Failure>,
    ) -> Result<u64, Error> {
        if let Some(length) = write.value.map(<[u8]>::len).filter(|length| *length > VALUE_BYTES_MAX) {
            return Err(Error::TooLong { length });
        }
        // What is not committed has not happened.
        let transaction = self.file.begin_write().map_err(|error| self.failed(error))?;
        let revision = apply(&transaction, write).map_err(|error| self.failed(error))??;
        record(revision).map_err(Error::NotRecorded)?;
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(revision)
    }

    /// Some keys, sorted, and whether there are more.
    pub(super) fn list(&self, prefix: &Prefix, after: Option<&Key>) -> Result<(Vec<Listed>, bool), Error> {
        self.read(|transaction| {
            let values = transaction.open_table(VALUES)?;
            let (mut listed, mut room) = (Vec::new(), PAGE_BYTES);
            let start = after.map_or(prefix.as_str(), Key::as_str);
            for entry in values.range(start..)? {
                let (key, kept) = entry?;
                let Some(key) = named(key.value()).filter(|key| prefix.contains(key)) else { break };
                if after == Some(&key) {
                    continue;
                }
                room = match room.checked_sub(key.as_str().len() + BESIDE_BYTES) {
                    Some(room) => room,
                    None => return Ok((listed, true)),
                };
                let (version, _, _, value) = kept.value();
                listed.push(Listed { key, version, length: length(value) });
            }
            Ok((listed, false))
        })
    }

    /// What changed after a revision, the oldest first.
    pub(super) fn changes(&self, prefix: &Prefix, since: u64, base: u64) -> Result<Changes, Error> {
        let (found, horizon) = self.read(|transaction| {
            let numbers = transaction.open_table(NUMBERS)?;
            let (revision, horizon) = (number(&numbers, REVISION)?, number(&numbers, HORIZON)?);
            let begins = since == 0 && base == 0;
            // Who begins has nothing, and what was removed before need not be said.
            let base = if begins { revision } else { base };
            if base < horizon {
                return Ok((None, horizon));
            }
            let changes = after(transaction, since)?;
            let more = changes.len() > LOOKED_AT_MAX;
            let mut found = Changes { until: revision, base: revision, changes: Vec::new(), more: false };
            let mut room = PAGE_BYTES;
            let values = transaction.open_table(VALUES)?;
            let last = changes.get(LOOKED_AT_MAX - 1).map(|(revision, ..)| *revision);
            for (revision, key, is_there) in changes.into_iter().take(LOOKED_AT_MAX) {
                if !prefix.contains(&key) || (!is_there && begins) {
                    continue;
                }
                room = match room.checked_sub(key.as_str().len() + BESIDE_BYTES) {
                    Some(room) => room,
                    None => {
                        found.more = true;
                        break;
                    }
                };
                let value = values.get(key.as_str())?.filter(|_| is_there);
                let length = value.map(|kept| length(kept.value().3));
                found.changes.push(Change { key, revision, length });
            }
            if found.more {
                found.until = found.changes.last().map_or(since, |change| change.revision);
            } else if more {
                (found.more, found.until) = (true, last.unwrap_or(since));
            }
            if found.more {
                found.base = base;
            }
            Ok((Some(found), horizon))
        })?;
        found.ok_or(Error::Forgotten { horizon })
    }
}

/// The changes after a revision with what became of their keys, the oldest first: a few more than are looked at.
fn after(transaction: &ReadTransaction, since: u64) -> Result<Vec<(u64, Key, bool)>, redb::Error> {
    let mut all = Vec::new();
    for (table, is_there) in [(CHANGES, true), (REMOVALS, false)] {
        let rows = transaction.open_table(table)?;
        for row in rows.range(since.saturating_add(1)..)?.take(LOOKED_AT_MAX + 1) {
            let (revision, key) = row?;
            if let Some(key) = named(key.value()) {
                all.push((revision.value(), key, is_there));
            }
        }
    }
    all.sort_by_key(|(revision, ..)| *revision);
    all.truncate(LOOKED_AT_MAX + 1);
    Ok(all)
}

fn number(table: &impl redb::ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    Ok(table.get(name)?.map_or(0, |number| number.value()))
}

/// A key of a table: all were written by us.
fn named(key: &str) -> Option<Key> {
    key.parse().ok()
}

fn length(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}

/// Makes a change within a transaction; whoever gives that up has changed nothing.
fn apply(transaction: &WriteTransaction, write: Write<'_>) -> Result<Result<u64, Error>, redb::Error> {
    let Write { writer, now_ms, key, expected, value } = write;
    let mut values = transaction.open_table(VALUES)?;
    let mut numbers = transaction.open_table(NUMBERS)?;
    let before = values.get(key.as_str())?.map(|kept| {
        let (version, _, writer, value) = kept.value();
        (version, writer.to_owned(), bytes_of(value))
    });
    let version = before.as_ref().map_or(0, |(version, ..)| *version);
    match expected {
        Expected::Version(expected) if expected != version => return Ok(Err(Error::Conflict { version })),
        _ if version == 0 && value.is_none() => return Ok(Err(Error::NotThere)),
        _ => {}
    }
    let revision = number(&numbers, REVISION)? + 1;
    numbers.insert(REVISION, revision)?;
    let mut changes = transaction.open_table(CHANGES)?;
    if let Some((version, former, bytes)) = &before {
        changes.remove(version)?;
        account(transaction, former, -1, -*bytes)?;
    }
    match value {
        Some(value) => {
            values.insert(key.as_str(), (revision, now_ms, writer, value))?;
            changes.insert(revision, key.as_str())?;
            rise(transaction, key)?;
            account(transaction, writer, 1, bytes_of(value))?;
        }
        None => {
            values.remove(key.as_str())?;
            let horizon = bury(transaction, key, revision)?;
            if let Some(horizon) = horizon {
                numbers.insert(HORIZON, horizon)?;
            }
        }
    }
    Ok(if value.is_some() { within_quota(transaction, values.len()?, writer)? } else { Ok(()) }
        .map(|()| revision))
}

fn bytes_of(value: &[u8]) -> i64 {
    i64::try_from(value.len()).unwrap_or(i64::MAX)
}

/// A key that is there is not removed.
fn rise(transaction: &WriteTransaction, key: &Key) -> Result<(), redb::Error> {
    let removed = transaction.open_table(REMOVED)?.remove(key.as_str())?.map(|revision| revision.value());
    if let Some(revision) = removed {
        transaction.open_table(REMOVALS)?.remove(revision)?;
    }
    Ok(())
}

/// Remembers a removal; gives the newest that is forgotten for it.
fn bury(transaction: &WriteTransaction, key: &Key, revision: u64) -> Result<Option<u64>, redb::Error> {
    let (mut removals, mut removed) = (transaction.open_table(REMOVALS)?, transaction.open_table(REMOVED)?);
    removals.insert(revision, key.as_str())?;
    removed.insert(key.as_str(), revision)?;
    if removals.len()? <= REMOVALS_MAX {
        return Ok(None);
    }
    let oldest = removals.pop_first()?.map(|(revision, key)| (revision.value(), key.value().to_owned()));
    if let Some((_, key)) = &oldest {
        removed.remove(key.as_str())?;
    }
    Ok(oldest.map(|(revision, _)| revision))
}

/// Counts what a writer has.
fn account(transaction: &WriteTransaction, writer: &str, keys: i64, bytes: i64) -> Result<(), redb::Error> {
    let mut writers = transaction.open_table(WRITERS)?;
    let (had_keys, had_bytes) = writers.get(writer)?.map_or((0, 0), |has| has.value());
    let has = (had_keys.saturating_add_signed(keys), had_bytes.saturating_add_signed(bytes));
    match has {
        (0, _) => drop(writers.remove(writer)?),
        has => drop(writers.insert(writer, has)?),
    }
    Ok(())
}

/// Whether what there is now may be there.
fn within_quota(
    transaction: &WriteTransaction,
    keys: u64,
    writer: &str,
) -> Result<Result<(), Error>, redb::Error> {
    let writers = transaction.open_table(WRITERS)?;
    let (own_keys, own_bytes) = writers.get(writer)?.map_or((0, 0), |has| has.value());
    let mut bytes = 0;
    for row in writers.iter()? {
        bytes += row?.1.value().1;
    }
    let full = |what, max, of| Ok(Err(Error::Full { what, max, of }));
    let (of_one, of_all) = ("for one writer", "in all");
    match () {
        () if own_keys > KEYS_OF_ONE_MAX => full("too many keys", KEYS_OF_ONE_MAX, of_one),
        () if own_bytes > BYTES_OF_ONE_MAX => full("too many bytes", BYTES_OF_ONE_MAX, of_one),
        () if keys > KEYS_MAX => full("too many keys", KEYS_MAX, of_all),
        () if bytes > BYTES_MAX => full("too many bytes", BYTES_MAX, of_all),
        () => Ok(Ok(())),
    }
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
