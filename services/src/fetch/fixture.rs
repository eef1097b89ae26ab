//! The stub backend: what http(s)://fixture.local/ names, from files. No network, no `Date`, no compression; the ETag is of the content,
//! so the same files always give the same answers.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use netd_ipc::services::ErrorKind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::Failure;

/// Largest fixture: it is read whole, for its ETag.
const BYTES_MAX: u64 = 64 << 20;

/// A fixture's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fixture {
    pub(super) content: Vec<u8>,
    pub(super) etag: String,
}

/// Reads the fixture that the path of a URL names.
///
/// # Errors
/// `StatusRefused` with 404 for what is not there or no file, `TooLarge`, or the directory cannot be read.
pub(super) fn read(directory: &Path, path: &str) -> Result<Fixture, Failure> {
    let missing = || Failure {
        status: Some(404),
        ..Failure::new(ErrorKind::StatusRefused, format!("there is no fixture '{path}' (404)"))
    };
    let relative = relative(path).ok_or_else(missing)?;
    let unreadable = |error: io::Error| {
        Failure::new(
            ErrorKind::Internal,
            format!("cannot read the fixtures in {} ('[fetch] fixtures'): {error}", directory.display()),
        )
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat2(CWD, directory, flags, Mode::empty(), ResolveFlags::empty())
        .map_err(|error| unreadable(error.into()))?;
    // The kernel keeps every step below the directory, links included. NONBLOCK: a pipe must not make the open wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened =
        openat2(&root, &relative, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS);
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG) => {
            return Err(missing());
        }
        Err(error) => return Err(unreadable(error.into())),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(missing());
    }
    let mut content = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > BYTES_MAX {
        let message = format!("the fixture '{path}' is larger than {BYTES_MAX} bytes");
        return Err(Failure::new(ErrorKind::TooLarge, message));
    }
    let etag = format!("\"{}\"", super::hexadecimal(&Sha256::digest(&content)));
    Ok(Fixture { content, etag })
}

/// The file that a path names, below the fixtures; none if it can be no file's.
fn relative(path: &str) -> Option<PathBuf> {
    let mut file = PathBuf::new();
    for segment in path.strip_prefix('/')?.split('/') {
        let name = decoded(segment)?;
        let hidden = name.starts_with('.');
        if name.is_empty() || hidden || name.contains(['/', '\0']) {
            return None;
        }
        file.push(name);
    }
    Some(file)
}

/// Percents undone (RFC 3986, 2.1); none if that gives no text.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn read_of_a_file_gives_its_content_and_the_same_etag_each_time() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b c.txt"), "hello").unwrap();
        let fixture = read(directory.path(), "/a/b%20c.txt").unwrap();
        assert_eq!(fixture.content, b"hello");
        assert!(fixture.etag.starts_with("\"2cf24dba5fb0a30e26e83b2ac5b9e29e"), "{}", fixture.etag);
        assert_eq!(read(directory.path(), "/a/b c.txt").unwrap(), fixture);
    }

    #[test]
    fn read_of_anything_but_a_file_below_the_directory_is_404() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("fixtures");
        fs::create_dir_all(directory.join("a")).unwrap();
        fs::write(above.path().join("secret"), "x").unwrap();
        fs::write(directory.join(".hidden"), "x").unwrap();
        symlink("../secret", directory.join("link")).unwrap();
        symlink("/etc/passwd", directory.join("absolute")).unwrap();
        for path in [
            "/none",
            "/",
            "/a",
            "/a/",
            "//a",
            "/../secret",
            "/%2e%2e/secret",
            "/a/..%2f..%2fsecret",
            "/.hidden",
            "/link",
            "/absolute",
            "/%",
            "/%zz",
            "/%00",
            "/%ff",
            "a",
        ] {
            let failure = read(&directory, path).unwrap_err();
            assert_eq!((failure.kind, failure.status), (ErrorKind::StatusRefused, Some(404)), "{path}");
        }
    }
}
