//! `[services]`: who netd-services is.

use serde::Deserialize;
use toml::Spanned;

use super::complaint::Complaint;
use crate::names;

/// The user that the package makes for it.
const USER: &str = "netd-services";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServices {
    user: Option<Spanned<RawUser>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected the name of a user or its number")]
enum RawUser {
    Number(u32),
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
