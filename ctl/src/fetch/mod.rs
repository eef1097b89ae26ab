//! fetch: asks netd-services for what a URL names, and writes it where it belongs, whole or not at all.

mod part;
mod report;

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netd_ipc::services::{Client, ErrorKind, FetchOptions};
use serde_json::json;
use sha2::{Digest, Sha256};

pub(crate) use self::part::Part;
use crate::cli;
use crate::error::Error;
use crate::output::{Output, bytes};

/// What is read from the pipe at once.
const PIECE_BYTES: usize = 256 * 1024;

/// A SHA-256 digest as text, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sha256Text(String);

impl Sha256Text {
    /// 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Result<Sha256Text, String> {
        match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Sha256Text(text.to_ascii_lowercase())),
            false => Err("expected 64 hexadecimal digits, as sha256sum(1) prints them".to_owned()),
        }
    }
}

/// Bytes with a unit: 100, 64K, 10M, 2G; units are of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
    count.ok_or_else(|| "expected a number of bytes such as 1000, 64K, 10M or 2G".to_owned())
}

pub(crate) fn run(output: &Output, arguments: &cli::Fetch) -> Result<ExitCode, Error> {
    let client = match &arguments.services_socket {
        Some(path) => Client::at(path),
        None => Client::default_paths(),
    };
    match &arguments.output {
        Some(path) => to_file(&client, output, arguments, path)?,
        None => to_standard_output(&client, output, arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &cli::Fetch) -> FetchOptions {
    FetchOptions {
        from: None,
        validator: None,
        compressed: arguments.compressed,
        size_max: arguments.max_size,
        connect: arguments.connect_timeout,
        first_byte: arguments.first_byte_timeout,
        idle: arguments.idle_timeout,
    }
}

fn to_standard_output(client: &Client, output: &Output, arguments: &cli::Fetch) -> Result<(), Error> {
    let mut fetching = client.fetch(&arguments.url, &options(arguments))?;
    let head = fetching.head().clone();
    if arguments.verbose {
        report::hops(output, &head);
    }
    let mut digest = Sha256::new();
    let mut out = io::stdout().lock();
    pass(&mut fetching, &mut digest, &ProgressBar::hidden(), |piece| {
        out.write_all(piece).map_err(Error::Output)
    })?;
    out.flush().map_err(Error::Output)?;
    let end = fetching.finish()?;
    if arguments.verbose {
        report::end(output, end);
    }
    if output.is_json() {
        let sha256 = hexadecimal(digest);
        output.note(&json!({ "bytes": end.bytes, "sha256": sha256, "hops": head.hops }).to_string());
    }
    Ok(())
}

fn to_file(client: &Client, output: &Output, arguments: &cli::Fetch, path: &Path) -> Result<(), Error> {
    let mut part = Part::open(path, &arguments.url)?;
    let mut options = options(arguments);
    if let Some((from, validator)) = part.resumable().filter(|_| !arguments.compressed) {
        (options.from, options.validator) = (Some(from), Some(validator));
    }
    let mut fetching = client.fetch(&arguments.url, &options)?;
    let head = fetching.head().clone();
    if arguments.verbose {
        report::hops(output, &head);
    }
    let mut digest = part.begin(head.offset, head.validator.as_deref())?;
    let whole = head.length.map(|length| head.offset + length);
    let bar = bar(output, arguments.quiet, head.offset, whole);
    let passed = pass(&mut fetching, &mut digest, &bar, |piece| part.write(piece));
    bar.finish_and_clear();
    let end = match passed.and_then(|()| fetching.finish().map_err(Error::from)) {
        Ok(end) => end,
        Err(error) => {
            // What cannot be gone on with, or should not be, is of no use.
            let lasting = matches!(&error, Error::Services(error)
                if !matches!(error.kind(), None | Some(ErrorKind::Truncated | ErrorKind::TimedOut)));
            match lasting {
                true => part.discard(),
                false => part.keep(),
            }
            return Err(error);
        }
    };
    let sha256 = hexadecimal(digest);
    if let Some(Sha256Text(expected)) = arguments.sha256.as_ref().filter(|expected| expected.0 != sha256) {
        part.discard();
        return Err(Error::Digest { expected: expected.clone(), found: sha256 });
    }
    part.finish()?;
    if arguments.verbose {
        report::end(output, end);
    }
    let total = head.offset + end.bytes;
    let value = json!({
        "file": path, "bytes": total, "resumed_from": head.offset, "sha256": sha256, "hops": head.hops,
    });
    output.result(&value, || {
        let resumed = match head.offset {
            0 => String::new(),
            offset => format!(", {} of them from before", bytes(offset)),
        };
        format!("{}: {}{resumed}, sha256 {sha256}\n", path.display(), bytes(total))
    })
}

/// Passes a body on as it comes.
pub(crate) fn pass(
    body: &mut impl Read,
    digest: &mut Sha256,
    bar: &ProgressBar,
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match body.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(netd_ipc::services::Error::Body(error).into()),
        };
        let piece = piece.get(..count).unwrap_or_default();
        digest.update(piece);
        write(piece)?;
        bar.inc(count as u64);
    }
}

/// Progress from byte `offset` on, to the `whole` length if that is known; for people at a terminal.
pub(crate) fn bar(output: &Output, quiet: bool, offset: u64, whole: Option<u64>) -> ProgressBar {
    if output.is_json() || quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(whole, ProgressDrawTarget::stderr());
    let template = match whole {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_position(offset);
    bar
}

pub(crate) fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_and_refuse_nonsense() {
        assert_eq!(
            [size("7"), size("64K"), size("10m"), size("2G")],
            [Ok(7), Ok(65_536), Ok(10 << 20), Ok(2 << 30)]
        );
        for text in ["", "K", "-1", "1T", "1.5M", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn digests_are_64_digits_in_either_case() {
        assert_eq!(Sha256Text::parse(&"aB".repeat(32)).unwrap().0, "ab".repeat(32));
        for text in ["", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(Sha256Text::parse(text).is_err(), "{text}");
        }
    }
}
