//! The audit's log: a thread of its own that seals records and writes them, to a file or to the journal, and keeps the checkpoint.
//!
//! Whoever records never waits: the queue is bounded, and what does not fit is counted. A batch is written, synced, and only then
//! named by the checkpoint, so that after a crash the log is never behind it. A log that was found to be behind, or broken in any
//! other way, is set aside and told of; it is never continued as if nothing had been.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netd_policy::audit::{Broken, Checkpoint, Head, KEY_BYTES, Key, Verifier};
use rustix::fs::{FlockOperation, flock};

use super::applied::{self, Applied, Found};
use super::record::{Event, Record};
use crate::store::replace;

/// Records that wait to be written: some seconds of the highest rate, and a reload's worth of rules.
const QUEUE_MAX: usize = 4096;
/// Records written before they are synced.
const BATCH_MAX: usize = 256;
/// How long nothing happens before the count of what was suppressed is written by itself.
const IDLE: Duration = Duration::from_secs(1);
/// Where the journal takes records (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// How the journal's records are found: `journalctl -t netd-audit`.
const JOURNAL_IDENTIFIER: &str = "netd-audit";

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a file, which is rotated.
    File {
        /// Which.
        path: PathBuf,
        /// When to begin another one.
        bytes_max: u64,
        /// How many older ones are kept.
        kept: u32,
    },
    /// To journald.
    Journal,
}

/// What a log is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Where records go.
    pub target: Target,
    /// The checkpoint's file.
    pub checkpoint: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// What was in force when it was last recorded.
    pub applied: PathBuf,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be had.
    #[error(
        "cannot {step} {path}: {source}; '[audit]' says where it is, and without an audit netd does not run"
    )]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon writes it.
    #[error("{0} is written by another netd: give each its own '[audit] file' and '[state] directory'")]
    Taken(PathBuf),
    /// The key's file has no key.
    #[error(
        "{0} holds no key of 64 hexadecimal digits: remove it to begin with another one, with which the log so far cannot be verified"
    )]
    Key(PathBuf),
}

/// A running log. Dropping it writes what is queued and ends the thread.
#[derive(Debug)]
pub struct Log {
    queue: Option<SyncSender<Item>>,
    thread: Option<JoinHandle<()>>,
    written: Arc<AtomicU64>,
    /// Not written yet told of: the queue was full, or writing failed.
    lost: Arc<AtomicU64>,
    setup: Setup,
    key: Key,
    before: Result<Option<Found>, String>,
}

/// What the thread is given.
enum Item {
    /// To be written.
    Record(Record),
    /// Recorded by now: to be kept for the next start.
    Applied(Applied),
}

impl Log {
    /// Opens the log, continues its chain, and starts the thread.
    ///
    /// # Errors
    /// A file cannot be had, or is another daemon's.
    pub fn open(setup: Setup) -> Result<Log, Error> {
        let (written, lost) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let writer = Writer::open(&setup, Arc::clone(&written), Arc::clone(&lost))?;
        let key = writer.key.clone();
        let before = applied::read(&key, &setup.applied);
        let (queue, items) = mpsc::sync_channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&items));
        let thread = thread.map_err(file("start the thread that writes", &setup.checkpoint))?;
        Ok(Log { queue: Some(queue), thread: Some(thread), written, lost, setup, key, before })
    }

    /// Records that this happened, without waiting.
    pub(super) fn record(&self, event: Event) {
        if !self.send(Item::Record(Record::now(event))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps what is in force, whose changes were recorded. If there is no room they will be recorded once more at the next start.
    pub(super) fn keep(&self, applied: Applied) {
        self.send(Item::Applied(applied));
    }

    fn send(&self, item: Item) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(item).is_ok())
    }

    /// What was in force when it was last recorded, before this start; or why that is not known.
    pub(super) fn before(&self) -> &Result<Option<Found>, String> {
        &self.before
    }

    /// Whether these are the rules of a digest.
    pub(super) fn has_digest(&self, applied: &Applied, digest: &str) -> bool {
        applied.digest(&self.key) == digest
    }

    /// Counts something that is not recorded, since too much came at once.
    pub(super) fn suppress(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many records were written, and how many are lost and not yet told of.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Where it is.
    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It panicked, which it has told.
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct Writer {
    output: Output,
    key: Key,
    head: Head,
    first: u64,
    checkpoint: PathBuf,
    applied: PathBuf,
    written: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    /// Whether the last batch failed, so that the log is told of it once.
    failing: bool,
}

enum Output {
    File { file: File, path: PathBuf, len: u64, bytes_max: u64, kept: u32 },
    Journal(UnixDatagram),
}

impl Writer {
    fn open(setup: &Setup, written: Arc<AtomicU64>, lost: Arc<AtomicU64>) -> Result<Writer, Error> {
        for path in [&setup.key, &setup.checkpoint] {
            make_directory(path)?;
        }
        let key = open_key(&setup.key)?;
        let checkpoint = read_checkpoint(&key, &setup.checkpoint)?;
        let (output, head, first, broken) = match &setup.target {
            Target::Journal => {
                let socket =
                    UnixDatagram::unbound().map_err(file("make a socket for", Path::new(JOURNAL)))?;
                let (at, broken) = match checkpoint {
                    Ok(known) => (known.unwrap_or(Checkpoint { first: 1, head: Head::NONE }), None),
                    Err(broken) => (Checkpoint { first: 1, head: Head::NONE }, Some((broken, String::new()))),
                };
                (Output::Journal(socket), at.head, at.first, broken)
            }
            Target::File { path, bytes_max, kept } => {
                make_directory(path)?;
                let opened = open_log(path)?;
                let (file, len, head, first, broken) = resume(opened, path, &key, checkpoint)?;
                let output =
                    Output::File { file, path: path.clone(), len, bytes_max: *bytes_max, kept: *kept };
                (output, head, first, broken)
            }
        };
        let (checkpoint, applied) = (setup.checkpoint.clone(), setup.applied.clone());
        let mut writer =
            Writer { output, key, head, first, checkpoint, applied, written, lost, failing: false };
        if let Some((reason, set_aside)) = broken {
            tracing::error!(%reason, set_aside, "the audit log is not as it was left, and is begun anew");
            writer.write(vec![Record::now(Event::Broken { reason: reason.to_string(), set_aside })]);
        }
        Ok(writer)
    }

    fn run(mut self, items: &Receiver<Item>) {
        loop {
            let mut batch = match items.recv_timeout(IDLE) {
                Ok(item) => vec![item],
                Err(RecvTimeoutError::Timeout) if self.lost.load(Ordering::Relaxed) == 0 => continue,
                // Nothing more happens, and what was suppressed is to be told all the same.
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            batch.extend(items.try_iter().take(BATCH_MAX));
            let (mut records, mut kept) = (Vec::new(), None);
            for item in batch {
                match item {
                    Item::Record(record) => records.push(record),
                    // The latest.
                    Item::Applied(applied) => kept = Some(applied),
                }
            }
            self.write(records);
            if let Some(applied) = kept.filter(|_| !self.failing) {
                self.keep(&applied);
            }
        }
    }

    fn keep(&self, applied: &Applied) {
        let text = applied.to_text(&self.key).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| replace(&self.applied, text.as_bytes())) {
            let file = self.applied.display();
            tracing::warn!(%file, %error, "what is in force cannot be kept: the next start will record it as new");
        }
    }

    /// Writes a batch, or counts it as lost.
    fn write(&mut self, mut batch: Vec<Record>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if batch.is_empty() && lost == 0 {
            return;
        }
        if lost > 0 {
            batch.push(Record::now(Event::Suppressed { count: lost }));
        }
        let before = self.head;
        match self.try_write(&batch) {
            Ok(()) => {
                self.failing = false;
                self.written.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                self.head = before;
                let records = batch.len() as u64 - u64::from(lost > 0);
                self.lost.fetch_add(lost + records, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the audit log cannot be written; what is lost is counted");
                }
            }
        }
    }

    fn try_write(&mut self, batch: &[Record]) -> io::Result<()> {
        self.rotate()?;
        let lines: Vec<String> =
            batch.iter().map(|record| self.head.append(&self.key, record)).collect::<Result<_, _>>()?;
        match &mut self.output {
            Output::File { file, len, .. } => {
                let mut text = lines.join("\n");
                text.push('\n');
                let done = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
                if let Err(error) = done {
                    // A torn line would look like tampering. If this fails as well, the next start sets the log aside.
                    let _ = file.set_len(*len);
                    return Err(error);
                }
                *len += text.len() as u64;
            }
            Output::Journal(socket) => {
                for line in &lines {
                    let message =
                        format!("MESSAGE={line}\nPRIORITY=5\nSYSLOG_IDENTIFIER={JOURNAL_IDENTIFIER}\n");
                    socket.send_to(message.as_bytes(), JOURNAL)?;
                }
            }
        }
        let checkpoint = Checkpoint { first: self.first, head: self.head };
        replace(&self.checkpoint, checkpoint.to_text(&self.key).as_bytes())
    }

    /// Begins another file when the one there is long enough.
    fn rotate(&mut self) -> io::Result<()> {
        let Output::File { file, path, len, bytes_max, kept } = &mut self.output else { return Ok(()) };
        if *len < *bytes_max {
            return Ok(());
        }
        for number in (1..*kept).rev() {
            rename_if_there(&rotated(path, number), &rotated(path, number + 1))?;
        }
        match *kept {
            0 => fs::remove_file(&*path)?,
            _ => fs::rename(&*path, rotated(path, 1))?,
        }
        (*file, *len) = (new_file(path)?, 0);
        // What is the oldest now begins the chain.
        let oldest = (1..=*kept).rev().map(|number| rotated(path, number)).find(|path| path.exists());
        self.first = match oldest {
            Some(oldest) => first_number(&oldest)?.unwrap_or(self.head.number + 1),
            None => self.head.number + 1,
        };
        Ok(())
    }
}

/// Continues the chain of the file, or sets a broken one aside: the file, its length, where the chain goes on and where it begins.
#[expect(
    clippy::type_complexity,
    reason = "all of it is the state of one writer, which takes it apart at once"
)]
fn resume(
    file: File,
    path: &Path,
    key: &Key,
    checkpoint: Result<Option<Checkpoint>, Broken>,
) -> Result<(File, u64, Head, u64, Option<(Broken, String)>), Error> {
    let mut text = fs::read_to_string(path).map_err(self::file("read", path))?;
    // A crash in the middle of a batch tears its last line; what was whole and synced is before it.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text.truncate(whole);
    if text.is_empty() {
        // Just rotated: the chain ends with the file before.
        text = fs::read_to_string(rotated(path, 1)).unwrap_or_default();
    }
    let (broken, known) = match checkpoint {
        // The rotated files begin before this one, and only the end is looked at here.
        Ok(known) => match verify(key, known, &text) {
            Ok(head) => {
                file.set_len(whole as u64).map_err(self::file("mend the end of", path))?;
                let first = known.map_or(1, |known| known.first);
                return Ok((file, whole as u64, head, first, None));
            }
            Err(broken) => (broken, known),
        },
        Err(broken) => (broken, None),
    };
    let now = super::record::timestamp(std::time::SystemTime::now());
    let aside = path.with_extension(format!("broken-{now}"));
    fs::rename(path, &aside).map_err(self::file("set aside", path))?;
    let file = open_log(path)?;
    let last = known.map_or(0, |known| known.head.number);
    Ok((file, 0, Head::after_loss(last), last + 1, Some((broken, aside.display().to_string()))))
}

/// Whether the file's records go up to the checkpoint, and where they end.
fn verify(key: &Key, checkpoint: Option<Checkpoint>, text: &str) -> Result<Head, Broken> {
    let begun = text.lines().next().and_then(number_of);
    let Some(first) = begun else {
        let mut verifier = Verifier::new(key, checkpoint);
        text.lines().try_for_each(|line| verifier.line(line))?;
        return verifier.finish();
    };
    // Without a checkpoint nobody knows whether this is all.
    let known = checkpoint.ok_or(Broken::Checkpoint)?;
    let mut verifier = Verifier::new(key, Some(Checkpoint { first, ..known }));
    text.lines().try_for_each(|line| verifier.line(line))?;
    verifier.finish()
}

fn number_of(line: &str) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Number {
        number: u64,
    }
    serde_json::from_str::<Number>(line).ok().map(|place| place.number)
}

fn first_number(path: &Path) -> io::Result<Option<u64>> {
    use std::io::BufRead as _;
    let mut line = String::new();
    io::BufReader::new(File::open(path)?).read_line(&mut line)?;
    Ok(number_of(line.trim_end()))
}

/// The path of an older file: `audit.jsonl.1` is the one before `audit.jsonl`.
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

fn open_log(path: &Path) -> Result<File, Error> {
    new_file(path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => Error::Taken(path.to_owned()),
        _ => Error::File { step: "open", path: path.to_owned(), source },
    })
}

fn open_key(path: &Path) -> Result<Key, Error> {
    match fs::read_to_string(path) {
        Ok(text) => return Key::parse(&text).ok_or_else(|| Error::Key(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::File { step: "read", path: path.to_owned(), source }),
    }
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| file("make a key for", path)(error.into()))?;
    let key = Key::new(bytes);
    replace(path, key.to_hex().as_bytes()).map_err(file("write", path))?;
    Ok(key)
}

/// The checkpoint that was left, none if there is no file; or that it was tampered with.
fn read_checkpoint(key: &Key, path: &Path) -> Result<Result<Option<Checkpoint>, Broken>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Checkpoint::parse(key, &text).map(Some)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
        Err(source) => Err(Error::File { step: "read", path: path.to_owned(), source }),
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    fs::create_dir_all(directory).map_err(file("make the directory of", path))
}

fn file<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + use<'a> {
    move |source| Error::File { step, path: path.to_owned(), source }
}
