//! A file is replaced by a process that strace kills, or fails, at each of its system calls in turn: what is found afterwards is the old
//! content or the new one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step is a failed test, also in helpers"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const OLD: &[u8] = b"what was there\n";
/// More than fits into a page, so that a part of it would be seen.
const NEW_BYTES: usize = 50_000;
const VICTIM: &str = "NETD_DURABLE_VICTIM";
/// What a replacement is made of. A program does some of these before it begins as well, so each is cut often enough to get there.
const CALLS: [&str; 5] = ["unlink", "fchmod", "write", "fsync", "rename"];
/// More system calls of a kind than a test program does.
const CALLS_MAX: usize = 64;

fn new() -> Vec<u8> {
    (0..NEW_BYTES).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect()
}

/// The process that is cut.
#[test]
#[ignore = "is run by the other tests"]
fn victim() {
    if let Some(path) = std::env::var_os(VICTIM) {
        netd_durable::replace(Path::new(&path), 0o600, &new()).unwrap();
    }
}

struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("state")).unwrap();
        Lab { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state/f")
    }

    /// Replaces the file under strace with these options.
    fn replace(&self, options: &[&str]) -> Output {
        fs::write(self.path(), OLD).unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-o"]).arg(self.directory.path().join("trace")).args(options);
        strace.arg(std::env::current_exe().unwrap()).args([
            "victim",
            "--exact",
            "--ignored",
            "--test-threads=1",
        ]);
        strace.env(VICTIM, self.path()).output().expect("strace is there: cargo xtask test installs it")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("state")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
#[ignore = "needs strace: cargo xtask test"]
fn writer_killed_at_any_step_leaves_the_old_content_or_the_new() {
    let lab = Lab::new();
    let (mut kept, mut replaced) = (0, 0);
    for call in CALLS {
        let mut cut = 0;
        for when in 1..=CALLS_MAX {
            let inject = format!("inject={call}:signal=KILL:when={when}");
            if lab.replace(&["-e", &inject]).status.success() {
                assert_eq!(lab.content(), new(), "{inject} cut nothing");
                break;
            }
            cut += 1;
            match lab.content() {
                content if content == OLD => kept += 1,
                content if content == new() => replaced += 1,
                content => panic!("{inject} left {} bytes that are neither", content.len()),
            }
        }
        assert!((1..CALLS_MAX).contains(&cut), "{call} was cut {cut} times");
    }
    // Before the rename and after it.
    assert!(kept >= 4 && replaced >= 1, "kept {kept} times, replaced {replaced} times");
    // What a killed one left beside is in nobody's way.
    assert!(lab.replace(&[]).status.success());
    assert_eq!(lab.names(), ["f"]);
}

#[test]
#[ignore = "needs strace: cargo xtask test"]
fn writer_whose_disk_fails_says_so_and_leaves_the_old_content_alone() {
    let lab = Lab::new();
    let draft = lab.directory.path().join("state/.f.new");
    let of_draft = draft.to_str().unwrap();
    for (call, error) in [("write", "ENOSPC"), ("fsync", "EIO"), ("rename", "EDQUOT"), ("fchmod", "EPERM")] {
        // Of the draft alone: the test program itself writes as well.
        let output = lab.replace(&["-P", of_draft, "-e", &format!("inject={call}:error={error}")]);
        assert!(!output.status.success(), "{call} failed with {error}, and nobody was told");
        assert_eq!((lab.content().as_slice(), lab.names()), (OLD, vec!["f".to_owned()]), "{call}: {error}");
    }
}

#[test]
#[ignore = "needs strace: cargo xtask test"]
fn content_is_on_the_disk_before_its_name_and_the_name_before_the_end() {
    let lab = Lab::new();
    assert!(lab.replace(&["-e", "trace=fsync,rename"]).status.success());
    let trace = fs::read_to_string(lab.directory.path().join("trace")).unwrap();
    let steps: Vec<&str> = trace
        .lines()
        .filter_map(|line| match line {
            _ if line.contains("fsync(") && line.contains("/state/.f.new>") => Some("content"),
            _ if line.contains("rename(") => Some("name"),
            _ if line.contains("fsync(") && line.contains("/state>") => Some("directory"),
            _ => None,
        })
        .collect();
    assert_eq!(steps, ["content", "name", "directory"], "{trace}");
}
