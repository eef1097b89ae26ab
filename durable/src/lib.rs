//! Small files that outlive a crash: replaced whole, or left as they were.
//!
//! A file is written beside its place, brought to the disk, and renamed over the old one; then its directory is brought to the disk,
//! since only that holds the new name. A process that is killed, a disk that is full and a power cut leave the old content or the new,
//! never a part of either (`tests/cut.rs` kills at every step).

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Puts `content` in the place of the file at `path`, with these permission bits whatever the umask is.
///
/// What is being written has the file's name with a dot in front and `.new` behind, so whoever lists a directory can tell. There is to
/// be one writer at a time.
///
/// # Errors
/// The system's; then the old file, if there was one, is as it was.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let draft = draft_of(path)?;
    // One that a crash left behind is of no use to anybody, and what else has the name is not written to.
    remove_if_there(&draft)?;
    let written = write(&draft, mode, content).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // Half a file would only take room; it is in nobody's way if it cannot be removed.
        let _ = remove_if_there(&draft);
    }
    written?;
    sync_directory_of(path)
}

/// Removes the file at `path`, for good; one that is not there is removed already.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path) -> io::Result<()> {
    if remove_if_there(path)? { sync_directory_of(path) } else { Ok(()) }
}

/// Brings the names in the directory of `path` to the disk: after files in it were made, renamed or removed.
///
/// # Errors
/// The system's.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let message = format!("{} has no name to be a file's", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".new");
    Ok(path.with_file_name(draft))
}

fn write(draft: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    // Before the rename: a name must not be on the disk before what it names.
    file.sync_all()
}

/// Whether it was there.
fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_replaced_has_its_content_and_mode_and_leaves_no_draft() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.json");
        // What a crash left, and what somebody put in the way.
        std::os::unix::fs::symlink("/dev/full", directory.path().join(".f.json.new")).unwrap();
        for (mode, content) in [(0o600, &b"one"[..]), (0o664, b"another"), (0o600, b"")] {
            replace(&path, mode, content).unwrap();
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            assert_eq!((fs::read(&path).unwrap().as_slice(), found), (content, mode));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn replacing_what_is_no_file_fails_and_leaves_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        fs::create_dir(&path).unwrap();
        replace(&path, 0o600, b"text").unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(replace(Path::new("/"), 0o600, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        replace(&directory.path().join("none/f"), 0o600, b"").unwrap_err();
    }
}
