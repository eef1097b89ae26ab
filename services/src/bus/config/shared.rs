//! What of `[bus]` is about files and state: shares, who reads them, and who keeps the state.

use std::path::PathBuf;

use netd_policy::BusDevice;
use netd_policy::file::Spanned;
use netd_softbus::DeviceId;
use netd_softbus::discovery::Shared;
use netd_softbus::remote::share::ShareName;
use serde::Deserialize;

use super::super::remote::Directories;

/// Directories that one machine shares; as many as a reply has room for, with names of the longest.
const SHARES_MAX: usize = 64;

/// A directory that is shared.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShare {
    /// What it is called on the bus.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 32)))]
    name: String,
    /// Where it is.
    path: PathBuf,
}

pub(super) fn check_shares<E>(
    given: Vec<Spanned<RawShare>>,
    wrong: impl Fn(usize, String) -> E,
) -> Result<Directories, E> {
    let mut shares = Directories::new();
    for share in given {
        let at = share.span().start;
        let RawShare { name, path } = share.into_inner();
        let named: ShareName = name.parse().map_err(|error| wrong(at, format!("name: {error}")))?;
        if !path.is_absolute() {
            let message = format!("path is '{}': give an absolute one, such as /srv/{name}", path.display());
            return Err(wrong(at, message));
        }
        if shares.insert(named, path).is_some() {
            return Err(wrong(at, format!("'{name}' is shared twice: each share has a name of its own")));
        }
        if shares.len() > SHARES_MAX {
            return Err(wrong(at, format!("more than {SHARES_MAX} shares: share a directory above them")));
        }
    }
    Ok(shares)
}

/// Which device keeps the state; `loopback` is this one by another name.
pub(super) fn check_keeper<E>(
    given: Option<&Spanned<String>>,
    own: &DeviceId,
    wrong: impl Fn(usize, String) -> E,
) -> Result<Option<DeviceId>, E> {
    let Some(given) = given else { return Ok(None) };
    let at = given.span().start;
    let named =
        given.get_ref().parse::<BusDevice>().map_err(|error| wrong(at, format!("keeper: {error}")))?;
    if named.is_loopback() {
        return Ok(Some(own.clone()));
    }
    named.as_str().parse().map(Some).map_err(|error| wrong(at, format!("keeper: {error}")))
}

/// What a rule shares; otherwise what is wrong with it.
pub(super) fn check_shared(
    shares: &[String],
    state: &[String],
    state_write: &[String],
) -> Result<Shared, String> {
    let prefixes = |key: &str, given: &[String]| {
        let parse = |prefix: &String| prefix.parse().map_err(|error| format!("{key}: '{prefix}': {error}"));
        given.iter().map(parse).collect::<Result<Vec<_>, String>>()
    };
    let name = |name: &String| name.parse().map_err(|error| format!("shares: '{name}': {error}"));
    Ok(Shared {
        files: shares.iter().map(name).collect::<Result<_, String>>()?,
        state: prefixes("state", state)?,
        state_write: prefixes("state_write", state_write)?,
    })
}
