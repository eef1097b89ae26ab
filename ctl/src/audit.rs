//! audit: the record of what was denied and which rules changed; shown, and checked.
//!
//! Checking reads the files itself and trusts no daemon with it; whoever checks has to be able to read the key.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use netd_ipc::{AuditReport, Client};
use netd_policy::audit::{Broken, Checkpoint, Head, Key, Verifier};
use serde_json::{Value, json};

use crate::cli;
use crate::error::Error;
use crate::output::Output;

/// How often a log that is followed is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);
/// Older files looked for: more than a daemon may be told to keep.
const FILES_MAX: u32 = 1000;

pub(crate) fn run(
    connect: impl FnOnce() -> Result<Client, Error>,
    output: &Output,
    command: &cli::Audit,
) -> Result<ExitCode, Error> {
    match command {
        cli::Audit::Tail { lines, follow, file } => {
            let path = match file {
                Some(path) => path.clone(),
                None => log_of(&connect()?.audit()?)?,
            };
            tail(output, &path, *lines, *follow)?;
        }
        cli::Audit::Verify(arguments) => {
            let (logs, checkpoint, key) = what_to_verify(connect, arguments)?;
            verify(output, &logs, &checkpoint, &key)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn log_of(report: &AuditReport) -> Result<PathBuf, Error> {
    let in_journal = "the records are in the journal: journalctl -t netd-audit -o cat";
    report.file.as_ref().map(PathBuf::from).ok_or(Error::Usage(in_journal))
}

fn tail(output: &Output, path: &Path, count: usize, follow: bool) -> Result<(), Error> {
    let (mut reader, mut inode) = open(path)?;
    let mut last = VecDeque::new();
    while let Some(line) = next_line(&mut reader, path)? {
        last.push_back(line);
        if last.len() > count {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|line| show(output, line))?;
    if !follow {
        return Ok(());
    }
    loop {
        match next_line(&mut reader, path)? {
            Some(line) => show(output, &line)?,
            None => {
                thread::sleep(FOLLOW_INTERVAL);
                // Rotated: what was written to the old file until then has been read.
                if path.metadata().is_ok_and(|metadata| metadata.ino() != inode) {
                    (reader, inode) = open(path)?;
                }
            }
        }
    }
}

fn open(path: &Path) -> Result<(BufReader<File>, u64), Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let inode = file.metadata().map_err(unreadable)?.ino();
    Ok((BufReader::new(file), inode))
}

/// The next whole line, if it is there.
fn next_line(reader: &mut BufReader<File>, path: &Path) -> Result<Option<String>, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let mut line = String::new();
    let count = reader.read_line(&mut line).map_err(unreadable)?;
    if line.ends_with('\n') {
        line.pop();
        return Ok(Some(line));
    }
    // Being written: read again, from its beginning.
    reader.seek(SeekFrom::Current(-(count as i64))).map_err(unreadable)?;
    Ok(None)
}

fn show(output: &Output, line: &str) -> Result<(), Error> {
    match output.is_json() {
        true => output.line(line),
        false => output.line(&text(line)),
    }
}

/// A record for people: the time, what happened, and all that is there of the rest.
fn text(line: &str) -> String {
    let Ok(Value::Object(mut record)) = serde_json::from_str::<Value>(line) else {
        return format!("(no record) {line}");
    };
    let mut take = |name: &str| record.remove(name).map(|value| plain(&value)).unwrap_or_default();
    let (time, event) = (take("time"), take("event"));
    for chain in ["number", "previous", "seal"] {
        take(chain);
    }
    let rest = record.iter().filter(|(_, value)| !value.is_null());
    let rest: Vec<String> = rest.map(|(name, value)| format!("{name}={}", plain(value))).collect();
    format!("{time} {event} {}", rest.join(" ")).trim().to_owned()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains([' ', '\n']) => format!("{text:?}"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The log's files from the oldest on, its checkpoint and its key.
fn what_to_verify(
    connect: impl FnOnce() -> Result<Client, Error>,
    arguments: &cli::AuditVerify,
) -> Result<(Vec<PathBuf>, PathBuf, PathBuf), Error> {
    let cli::AuditVerify { file, checkpoint, key } = arguments.clone();
    let (log, checkpoint, key) = match (file, checkpoint, key) {
        (Some(file), Some(checkpoint), Some(key)) => (file, checkpoint, key),
        (_, checkpoint, key) => {
            let report = connect()?.audit()?;
            let log = log_of(&report)?;
            (
                log,
                checkpoint.unwrap_or_else(|| report.checkpoint.into()),
                key.unwrap_or_else(|| report.key.into()),
            )
        }
    };
    let older = |number: &u32| {
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut logs: Vec<PathBuf> =
        (1..=FILES_MAX).map(|number| older(&number)).take_while(|path| path.exists()).collect();
    logs.reverse();
    logs.push(log);
    Ok((logs, checkpoint, key))
}

fn verify(output: &Output, logs: &[PathBuf], checkpoint: &Path, key: &Path) -> Result<(), Error> {
    let no_key = Error::Usage("the key's file holds no key of 64 hexadecimal digits");
    let key = Key::parse(&read(key)?).ok_or(no_key)?;
    // Before the log: what the daemon writes meanwhile comes after it.
    let known = Checkpoint::parse(&key, &read(checkpoint)?)
        .map_err(|source| Error::Tampered { file: checkpoint.display().to_string(), source })?;
    let mut verifier = Verifier::new(&key, Some(known));
    let mut records = 0u64;
    for log in logs {
        let mut take = |line: &str| {
            records += 1;
            verifier.line(line)
        };
        for_each_line(log, &mut take)?;
    }
    let last = logs.last().map(|log| log.display().to_string()).unwrap_or_default();
    let Head { number, .. } = verifier.finish().map_err(|source| Error::Tampered { file: last, source })?;
    let value = json!({ "records": records, "first": known.first, "last": number, "files": logs });
    output.result(&value, || {
        format!("{records} records, {} to {number}: all as netd wrote them, none missing\n", known.first)
    })
}

fn for_each_line(path: &Path, take: &mut impl FnMut(&str) -> Result<(), Broken>) -> Result<(), Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let mut reader: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(path).map_err(unreadable)?)),
    };
    let mut line = String::new();
    while reader.read_line(&mut line).map_err(unreadable)? > 0 {
        // The last line may be under way at this moment.
        if let Some(whole) = line.strip_suffix('\n') {
            take(whole).map_err(|source| Error::Tampered { file: path.display().to_string(), source })?;
        }
        line.clear();
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_record_leaves_out_the_chain_and_what_is_null() {
        let line = r#"{"time":"2026-01-01T00:00:00.000Z","event":"denied","uid":7,"unit":null,"rule":"deny by default","number":1,"previous":"00","seal":"11"}"#;
        assert_eq!(text(line), "2026-01-01T00:00:00.000Z denied rule=\"deny by default\" uid=7");
        assert_eq!(text("garbage"), "(no record) garbage");
    }
}
