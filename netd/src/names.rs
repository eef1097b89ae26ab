//! Names of users and groups, from the system's databases.

use nix::unistd::{Group, User};

/// The user's number.
pub(crate) fn user(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The group's number.
pub(crate) fn group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
