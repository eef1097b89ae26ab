//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use netd_policy::file::Spanned;

/// Something wrong at a place in the text.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

impl Complaint {
    pub(super) fn at(span: Range<usize>, message: impl fmt::Display) -> Self {
        Self { span, message: message.to_string() }
    }
}

/// The parser's message, with the line that it is about.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| {
        let (number, _) = position(text, span.start);
        text.lines().nth(number - 1)
    });
    match line.map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!("{} (in `{line}`)", error.message().trim_end()),
        None => error.message().trim_end().to_owned(),
    }
}

/// Line and column of a byte, counted from 1.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

pub(super) fn parse_at<T: FromStr<Err: fmt::Display>>(
    text: &Spanned<String>,
    key: &str,
) -> Result<T, Complaint> {
    text.get_ref().parse().map_err(|error: T::Err| Complaint::at(text.span(), format!("{key}{error}")))
}

/// A number within its bounds; `key` is how it is called in the file.
pub(super) fn within(
    key: &str,
    value: Option<Spanned<u64>>,
    default: u64,
    bounds: RangeInclusive<u64>,
) -> Result<u64, Complaint> {
    let Some(value) = value else { return Ok(default) };
    let (low, high) = bounds.clone().into_inner();
    match *value.get_ref() {
        given if bounds.contains(&given) => Ok(given),
        given => {
            let message =
                format!("{key} is {given}, and must be between {low} and {high} (default: {default})");
            Err(Complaint::at(value.span(), message))
        }
    }
}
