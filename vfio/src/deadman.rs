//! The dead man's switch of a take-over: the function is given back at a deadline unless somebody said that all is well.
//!
//! # Theory of operation
//!
//! [`arm`] writes a pledge to disk before anything is changed: which function, until when, and a token that tells this take-over
//! from earlier ones. [`confirm`] removes it. Whoever keeps the time (a timer of systemd's, or a process of its own) calls [`fire`]:
//! without the pledge, or with that of a later take-over, it has nothing to do; before the deadline it says how long to wait; after
//! it gives the function back, which ends whoever holds it, and removes the pledge last. Each of these is alone at it (the
//! function's lock), so a confirmation comes before the giving back or is told that it came too late. Whoever is killed half way leaves the
//! pledge, and firing again finishes the work. The pledge lives where a boot forgets it, as it forgets the binding.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bind::VFIO_PCI;
use crate::give_back::give_back_locked;
use crate::{Bdf, Error, GiveBackOptions, GivenBack, Sysfs, state};

/// The promise to give a function back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pledge {
    /// Which function.
    pub function: Bdf,
    /// Of the take-over that it belongs to.
    pub token: String,
    /// When, in milliseconds since the machine was started (CLOCK_BOOTTIME, which no one sets).
    pub deadline_ms: u64,
}

impl Pledge {
    /// How long until the deadline.
    pub fn left(&self, sysfs: &Sysfs) -> Duration {
        Duration::from_millis(self.deadline_ms).saturating_sub(sysfs.kernel.since_boot())
    }
}

/// What came of firing.
#[derive(Debug)]
pub enum Fired {
    /// The take-over was confirmed, or ended otherwise.
    Nothing,
    /// The deadline is so far away.
    Early(Duration),
    /// The function is the kernel's again.
    GivenBack(GivenBack),
}

/// Promises to give a function back after `time`. An earlier promise about it is replaced.
///
/// # Errors
///
/// The promise cannot be written, or somebody else is at the function.
pub fn arm(
    sysfs: &Sysfs,
    function: Bdf,
    token: &str,
    time: Duration,
    state_dir: &Path,
) -> Result<Pledge, Error> {
    let _alone = state::lock(state_dir, function)?;
    let deadline = sysfs.kernel.since_boot() + time;
    // 2^64 ms are half a billion years.
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    let pledge = Pledge { function, token: token.to_owned(), deadline_ms };
    state::write_whole(state_dir, &path(state_dir, function), &pledge)?;
    Ok(pledge)
}

/// The promise about a function that stands, if there is one.
///
/// # Errors
///
/// It cannot be read.
pub fn pledge(state_dir: &Path, function: Bdf) -> Result<Option<Pledge>, Error> {
    let path = path(state_dir, function);
    match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|source| Error::file("read", path, source.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", path, source)),
    }
}

/// Takes back the promise of a take-over that ended before it had taken anything, as that of a caller who was killed: it would end
/// a later take-over, which promised nothing. The promise that stands, about a function that is taken, is returned.
///
/// # Errors
///
/// It cannot be read or removed, or somebody else is at the function.
pub fn withdraw(sysfs: &Sysfs, function: Bdf, state_dir: &Path) -> Result<Option<Pledge>, Error> {
    let _alone = state::lock(state_dir, function)?;
    if sysfs.driver(function)?.as_deref() == Some(VFIO_PCI) {
        return pledge(state_dir, function);
    }
    forget(state_dir, function)?;
    Ok(None)
}

/// Says that all is well: the function stays with VFIO.
///
/// # Errors
///
/// [`Error::NothingToConfirm`] without a promise, or after it was kept.
pub fn confirm(sysfs: &Sysfs, function: Bdf, state_dir: &Path) -> Result<Pledge, Error> {
    let _alone = state::lock(state_dir, function)?;
    let taken = sysfs.driver(function)?.as_deref() == Some(VFIO_PCI);
    let pledge =
        pledge(state_dir, function)?.filter(|_| taken).ok_or(Error::NothingToConfirm { function })?;
    forget(state_dir, function)?;
    Ok(pledge)
}

/// How long until the take-over `token` is to be ended; none when it is confirmed, or ended already.
///
/// # Errors
///
/// The promise cannot be read.
pub fn left(sysfs: &Sysfs, function: Bdf, token: &str, state_dir: &Path) -> Result<Option<Duration>, Error> {
    let pledge = pledge(state_dir, function)?.filter(|pledge| pledge.token == token);
    Ok(pledge.map(|pledge| pledge.left(sysfs)))
}

/// Keeps the promise of the take-over `token`, if it stands and its time has come.
///
/// # Errors
///
/// Those of giving back; the promise stands then, and firing again is another try.
pub fn fire(sysfs: &Sysfs, function: Bdf, token: &str, options: &GiveBackOptions) -> Result<Fired, Error> {
    let lock = state::lock(&options.state_dir, function)?;
    let Some(pledge) = pledge(&options.state_dir, function)?.filter(|pledge| pledge.token == token) else {
        return Ok(Fired::Nothing);
    };
    let left = pledge.left(sysfs);
    if !left.is_zero() {
        return Ok(Fired::Early(left));
    }
    give_back_locked(sysfs, function, options, &lock).map(Fired::GivenBack)
}

/// Removes the promise, if there is one.
pub(crate) fn forget(state_dir: &Path, function: Bdf) -> Result<(), Error> {
    state::remove_file(&path(state_dir, function))
}

fn path(state_dir: &Path, function: Bdf) -> PathBuf {
    state_dir.join(format!("takeover-{function}.json"))
}

#[cfg(test)]
#[path = "deadman_tests.rs"]
mod tests;
