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
