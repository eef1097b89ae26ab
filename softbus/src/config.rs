//! Configuration that was checked: a machine takes `Checked<C>`, so a bound that makes no sense never reaches it.

use core::ops::{Deref, RangeInclusive};
use core::time::Duration;

use crate::error::Error;

/// A configuration whose every value lies within the bounds that its field's documentation names.
#[derive(Debug, Clone)]
pub struct Checked<C>(C);

impl<C> Checked<C> {
    /// Only for the `check` of each configuration.
    pub(crate) fn new(config: C) -> Checked<C> {
        Checked(config)
    }
}

impl<C> Deref for Checked<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

/// Fails unless `value` is within `range`.
pub(crate) fn within(key: &'static str, value: usize, range: RangeInclusive<usize>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Error::Configuration { key, value, min: *range.start(), max: *range.end() })
}

/// Fails unless `value`, in whole milliseconds, is within `range`.
pub(crate) fn within_ms(
    key: &'static str,
    value: Duration,
    range: RangeInclusive<usize>,
) -> Result<(), Error> {
    within(key, usize::try_from(value.as_millis()).unwrap_or(usize::MAX), range)
}
