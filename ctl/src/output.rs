//! Printing: tables and units for people, JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::Error;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: as JSON, or as `text` has it.
    pub(crate) fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))?;
            return self.write(&(json + "\n"));
        }
        self.write(&text())
    }

    /// Prints a line as something happens; with JSON the result alone is printed, at the end.
    pub(crate) fn progress(&self, line: &str) -> Result<(), Error> {
        if self.json { Ok(()) } else { self.write(&format!("{line}\n")) }
    }

    /// Prints one of many results as it comes.
    pub(crate) fn line(&self, line: &str) -> Result<(), Error> {
        self.write(&format!("{line}\n"))
    }

    /// Prints to standard error, where data has standard output.
    pub(crate) fn note(&self, line: &str) {
        // There is nowhere left to complain to.
        let _ = writeln!(io::stderr(), "{line}");
    }

    pub(crate) fn error(&self, error: &Error) {
        if self.json {
            return self.note(&error.to_json().to_string());
        }
        let mut line = format!("netctl: {error}");
        // Sources that the text above does not repeat.
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !line.contains(&cause_text) {
                line.push_str(&format!(": {cause_text}"));
            }
            source = cause.source();
        }
        self.note(&line);
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
    }
}

/// Lines of a name and a value, values aligned.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A table with a heading; columns whose heading begins with `>` are aligned to the right.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let names = headings.map(|heading| heading.trim_start_matches('>'));
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([names[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: [&str; N]| {
        let cells = cells.iter().zip(&widths).zip(headings).map(|((cell, width), heading)| {
            if heading.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let mut out = line(names);
    out.extend(rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str()))));
    out
}

/// Bytes with a binary unit: `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths, in integers: no unit is so large that ten times its remainder overflows 128 bits.
    let (mut tenths, mut unit) = (u128::from(count) * 10 / 1024, 0);
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A time span with its largest two units: `2 h 5 min`.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Microseconds as milliseconds: `0.123 ms`.
pub(crate) fn milliseconds(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

/// A value, or a dash.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Values separated by commas, or a dash.
pub(crate) fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An enum of the interface by its name there, with spaces and hyphens as people write them.
pub(crate) fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name.replace('_', "-"),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn span_has_two_units() {
        for (seconds, text) in [(59, "59 s"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn table_aligns_both_ways_without_trailing_space() {
        let rows = [["1".to_owned(), "tcp".to_owned()], ["100".to_owned(), "u".to_owned()]];
        assert_eq!(table([">ID", "KIND"], &rows), " ID  KIND\n  1  tcp\n100  u\n");
    }

    #[test]
    fn fields_align_their_values() {
        assert_eq!(fields(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }
}
