//! Moments as certificates have them: to the second, in UTC, printed as RFC 3339.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;
use serde::Serialize;
use x509_parser::time::ASN1Time;

/// Seconds since 1970; before it they are negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(i64);

impl Date {
    /// From seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Date {
        Date(seconds)
    }

    /// As webpki takes it. What was before 1970 was then.
    pub(crate) fn to_unix(self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(self.0).unwrap_or(0)))
    }
}

impl From<UnixTime> for Date {
    fn from(time: UnixTime) -> Date {
        Date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    }
}

impl From<SystemTime> for Date {
    fn from(time: SystemTime) -> Date {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Date(seconds(since)),
            Err(before) => Date(-seconds(before.duration())),
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What has no date in this calendar is shown in seconds.
        let Ok(time) = ASN1Time::from_timestamp(self.0) else { return write!(f, "@{}", self.0) };
        let time = time.to_datetime();
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        write!(f, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
    }
}

impl Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
