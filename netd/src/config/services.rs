//! `[services]`: who netd-services is.

use netd_policy::file::Spanned;
use serde::Deserialize;

use super::complaint::Complaint;
use crate::names;

/// The user that the package makes for it.
const USER: &str = "netd-services";

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServices {
    /// The user that may ask for decisions about others: a name or a number. Without the key `netd-services`, or netd's own if there is no such user.
    user: Option<Spanned<RawUser>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected the name of a user or its number")]
enum RawUser {
    /// A number.
    Number(u32),
    /// A name.
    Name(String),
}

/// The number of the user that may ask for decisions about others: as configured, else the package's user if there is one, else our own.
pub(super) fn check(services: RawServices) -> Result<u32, Complaint> {
    let own = || rustix::process::geteuid().as_raw();
    let Some(user) = services.user else { return Ok(names::user(USER).unwrap_or_else(own)) };
    match user.get_ref() {
        RawUser::Number(uid) => Ok(*uid),
        RawUser::Name(name) => names::user(name).ok_or_else(|| {
            let message = format!("there is no user '{name}' on this machine: create it, or give its number");
            Complaint::at(user.span(), message)
        }),
    }
}
