//! bus files: what devices share, listed, told of, and brought here whole or not at all.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netd_ipc::services::{BusFile, BusFileKind, BusFileReader, BusFileReading, BusFileStat, Client};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::cli::{BusFile as Wanted, BusFileGet, BusFilesCommand};
use crate::error::Error;
use crate::fetch::{Part, bar, hexadecimal, pass};
use crate::output::{Output, bytes, fields, span, table};

pub(super) fn run(client: &Client, output: &Output, command: &BusFilesCommand) -> Result<(), Error> {
    match command {
        BusFilesCommand::List { device, place } => {
            let (share, path) = match place {
                Some(place) => (Some(place.share.as_str()), place.path.as_str()),
                None => (None, ""),
            };
            let files = client.bus_files(device, share, path)?;
            output.result(&files, || files_text(&files))
        }
        BusFilesCommand::Stat { file, hash, timeout } => {
            let Wanted { device, place } = file;
            let stat = client.stat_bus_file(device, &place.share, &place.path, *hash, Some(*timeout))?;
            output.result(&stat, || stat_text(&stat))
        }
        BusFilesCommand::Get(get) => match &get.output {
            Some(path) => to_file(client, output, get, path),
            None => to_standard_output(client, output, get),
        },
    }
}

fn read(client: &Client, get: &BusFileGet, from: Option<(u64, &str)>) -> Result<BusFileReader, Error> {
    let BusFileGet { file: Wanted { device, place }, timeout, .. } = get;
    Ok(client.read_bus_file(device, &place.share, &place.path, from, Some(*timeout))?)
}

fn to_standard_output(client: &Client, output: &Output, get: &BusFileGet) -> Result<(), Error> {
    let mut reader = read(client, get, None)?;
    let mut digest = Sha256::new();
    let mut out = io::stdout().lock();
    pass(&mut reader, &mut digest, &indicatif::ProgressBar::hidden(), |piece| {
        out.write_all(piece).map_err(Error::Output)
    })?;
    out.flush().map_err(Error::Output)?;
    let BusFileReading { file, sha256, .. } = reader.reading();
    checked(sha256, digest)?;
    if output.is_json() {
        output.note(&json!({ "bytes": file.size, "sha256": sha256 }).to_string());
    }
    Ok(())
}

fn to_file(client: &Client, output: &Output, get: &BusFileGet, path: &Path) -> Result<(), Error> {
    let Wanted { device, place } = &get.file;
    // What a partial file is a part of; no URL begins so.
    let mut part = Part::open(path, &format!("dsoftbus:{device}/{place}"))?;
    let before = part.resumable();
    let from = before.as_ref().map(|(offset, sha256)| (*offset, sha256.as_str()));
    let mut reader = read(client, get, from)?;
    let BusFileReading { file, sha256, offset, .. } = reader.reading().clone();
    let mut digest = part.begin(offset, Some(&sha256))?;
    let bar = bar(output, get.quiet, offset, Some(file.size));
    let passed = pass(&mut reader, &mut digest, &bar, |piece| part.write(piece));
    bar.finish_and_clear();
    if let Err(error) = passed {
        part.keep();
        return Err(error);
    }
    if let Err(error) = checked(&sha256, digest) {
        part.discard();
        return Err(error);
    }
    part.finish()?;
    let value = json!({ "file": path, "bytes": file.size, "resumed_from": offset, "sha256": sha256 });
    output.result(&value, || {
        let resumed = match offset {
            0 => String::new(),
            offset => format!(", {} of them from before", bytes(offset)),
        };
        format!("{}: {}{resumed}, sha256 {sha256}\n", path.display(), bytes(file.size))
    })
}

fn checked(expected: &str, digest: Sha256) -> Result<(), Error> {
    let found = hexadecimal(digest);
    if found == expected { Ok(()) } else { Err(Error::Digest { expected: expected.to_owned(), found }) }
}

/// How long ago that was, by this machine's clock; of what has no time, nothing.
fn changed(modified_ms: u64) -> String {
    let Some(then) = UNIX_EPOCH.checked_add(Duration::from_millis(modified_ms)).filter(|_| modified_ms > 0)
    else {
        return "-".to_owned();
    };
    match SystemTime::now().duration_since(then) {
        Ok(ago) => format!("{} ago", span(ago.as_secs())),
        Err(_) => "in the future".to_owned(),
    }
}

fn files_text(files: &[BusFile]) -> String {
    if files.is_empty() {
        return "nothing is there, or not for this machine\n".to_owned();
    }
    let row = |file: &BusFile| {
        let (size, mark) = match file.kind {
            BusFileKind::File => (file.size.to_string(), ""),
            BusFileKind::Directory => ("-".to_owned(), "/"),
        };
        // A name that another device chose, which a terminal is not to obey.
        [size, changed(file.modified_ms), format!("{}{mark}", file.name.escape_debug())]
    };
    table([">SIZE", "CHANGED", "NAME"], &files.iter().map(row).collect::<Vec<_>>())
}

fn stat_text(stat: &BusFileStat) -> String {
    let BusFileStat { file, sha256 } = stat;
    let kind = match file.kind {
        BusFileKind::File => "file",
        BusFileKind::Directory => "directory",
    };
    let mut lines = vec![("kind", kind.to_owned())];
    if file.kind == BusFileKind::File {
        lines.push(("size", format!("{} ({} bytes)", bytes(file.size), file.size)));
    }
    lines.push(("changed", changed(file.modified_ms)));
    lines.extend(sha256.iter().map(|sha256| ("sha256", sha256.clone())));
    fields(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, kind: BusFileKind) -> BusFile {
        BusFile { name: name.to_owned(), kind, size: 2048, modified_ms: 1_700_000_000_000 }
    }

    #[test]
    fn list_shows_names_as_a_terminal_may_have_them() {
        let share = BusFile { modified_ms: 0, ..file("in", BusFileKind::Directory) };
        let future = BusFile { modified_ms: u64::MAX / 2, ..file("a\u{1b}[2J", BusFileKind::File) };
        let text = files_text(&[share, future]);
        assert!(text.contains("   -  -              in/\n"), "{text}");
        assert!(text.contains("2048  in the future  a\\u{1b}[2J\n"), "{text}");
        assert!(files_text(&[]).contains("nothing is there"));
    }

    #[test]
    fn stat_shows_the_hash_where_it_was_asked_for() {
        let stat = BusFileStat { file: file("a", BusFileKind::File), sha256: Some("ab".into()) };
        let text = stat_text(&stat);
        assert!(text.contains("2.0 KiB (2048 bytes)") && text.contains("sha256   ab"), "{text}");
    }
}
