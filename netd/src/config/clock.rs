//! `[clock]`: whether this machine's clock is believed where certificates are judged.

use std::net::IpAddr;
use std::time::Duration;

use netd_policy::file::Spanned;
use netd_stack::sntp::SERVERS_MAX;
use serde::Deserialize;

use crate::config::complaint::{Complaint, within};

/// Certificates are good for days, and issued with an hour's overlap; who runs unsynchronised is off by seconds a day.
const TOLERANCE_SECONDS: u64 = 60;

/// Whose word counts.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockTrust {
    /// The kernel's; if it does not call its clock synchronised, a time server's.
    #[default]
    Auto,
    /// A time server's alone.
    Sntp,
    /// The operator's: the clock is right, whatever anybody says.
    Host,
}

/// What is believed of the clock. A reload puts another value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// Whose word counts.
    pub trust: ClockTrust,
    /// Servers; none means those of the lease, an empty list that nobody is asked.
    pub servers: Option<Vec<IpAddr>>,
    /// How far the clock may be off from a server's.
    pub tolerance: Duration,
}

impl Default for Clock {
    fn default() -> Clock {
        let tolerance = Duration::from_secs(TOLERANCE_SECONDS);
        Clock { trust: ClockTrust::Auto, servers: None, tolerance }
    }
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawClock {
    /// Whose word counts.
    trust: ClockTrust,
    /// Time servers (NTP) by address; without the key those of the lease (option 42), with `[]` none.
    #[cfg_attr(feature = "schema", schemars(length(max = SERVERS_MAX)))]
    servers: Option<Spanned<Vec<IpAddr>>>,
    /// How far the clock may be off from a server's.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600), extend("default" = TOLERANCE_SECONDS)))]
    tolerance_seconds: Option<Spanned<u64>>,
}

pub(super) fn check(clock: RawClock) -> Result<Clock, Complaint> {
    let RawClock { trust, servers, tolerance_seconds } = clock;
    if let Some(servers) = servers.as_ref().filter(|servers| servers.get_ref().len() > SERVERS_MAX) {
        return Err(Complaint::at(servers.span(), format!("servers has more than {SERVERS_MAX} addresses")));
    }
    if let (ClockTrust::Sntp, Some(servers)) = (trust, &servers)
        && servers.get_ref().is_empty()
    {
        let message =
            "trust = \"sntp\" needs a time server: name one, or leave servers out to ask those of the lease";
        return Err(Complaint::at(servers.span(), message));
    }
    // Beyond an hour nothing would be confirmed that matters to a certificate.
    let tolerance = within("tolerance_seconds", tolerance_seconds, TOLERANCE_SECONDS, 1..=3600)?;
    Ok(Clock { trust, servers: servers.map(Spanned::into_inner), tolerance: Duration::from_secs(tolerance) })
}
