//! Policy files as the daemon would read them.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use netd_policy::{Policy, Quotas};
use nix::unistd::{Group, User};

use crate::error::Error;

/// The daemon's own bound on one file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files meant: those named, and every `*.toml` of the directories named, in the order of their names.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |source| Error::Read { path: path.clone(), source };
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if file.extension().is_some_and(|extension| extension == "toml") {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// The rules of the files, with the names of this machine. Every file that is wrong is reported.
pub(super) fn compile(files: Vec<PathBuf>, devnet_enabled: bool) -> Result<Policy, Error> {
    let (mut rules, mut quotas, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        match netd_policy::file::read(&file.to_string_lossy(), &read(&file)?) {
            Ok(found) => {
                rules.extend(found.rules);
                quotas.extend(found.quotas);
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if !wrong.is_empty() {
        return Err(Error::Files(wrong));
    }
    let quotas = Quotas::new(&quotas, user, group)?;
    Ok(Policy::new(devnet_enabled, rules, user, group)?.with_quotas(quotas))
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let message = format!("longer than the {FILE_BYTES_MAX} bytes that netd reads");
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    Ok(text)
}

/// The user's number.
pub(super) fn user(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The group's number.
pub(super) fn group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
