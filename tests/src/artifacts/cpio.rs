//! A writer for the archive format that the kernel unpacks as its initramfs ("newc").
//!
//! Documentation/driver-api/early-userspace/buffer-format.rst: per entry a 110-byte ASCII header, the name with its NUL padded
//! to 4 bytes, the content padded to 4 bytes; the entry `TRAILER!!!` ends the archive. Everything is written with the
//! same times and inode numbers every time, so that equal content gives an equal archive.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

/// An archive in memory.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds an executable file, with the directories above it; `path` has no leading slash.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, EXECUTABLE, content);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK, target.as_bytes());
    }

    /// Adds a directory, with those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        self.parents(path);
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, &[]);
        }
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, checksum (unused)
        let fields =
            [self.entries, mode, 0, 0, links, 0, length(content), 0, 0, 0, 0, length(name.as_bytes()) + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The format has 32-bit sizes; a guest of 1 GiB could not unpack more anyway.
#[expect(clippy::expect_used, reason = "a file of 4 GiB in an initramfs is a mistake of this crate")]
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("an initramfs holds only files below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::{fs, io::Write as _};

    /// cpio(1) is an independent reader of the format.
    #[test]
    fn archive_unpacked_by_cpio_holds_what_was_put_in() {
        let mut archive = Archive::default();
        archive.file("usr/lib/odd", b"12345");
        archive.symlink("bin/sh", "busybox");
        archive.directory("usr/lib");
        archive.file("init", b"#!/bin/sh\n");
        let target = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-id", "--quiet"])
            .current_dir(&target)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        assert!(cpio.wait().unwrap().success());
        assert_eq!(fs::read(target.path().join("usr/lib/odd")).unwrap(), b"12345");
        assert_eq!(fs::read(target.path().join("init")).unwrap(), b"#!/bin/sh\n");
        assert_eq!(fs::read_link(target.path().join("bin/sh")).unwrap().to_str(), Some("busybox"));
    }
}
