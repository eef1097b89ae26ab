//! The machine as its files show it, below a root that tests bring themselves. What cannot be read is noted, not guessed.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use netd_vfio::Sysfs;

/// Files of the kernel and of the system.
pub(super) struct Machine {
    root: PathBuf,
    sysfs: Sysfs,
    /// What adjtimex(2) says; none where it cannot be asked.
    clock: Option<bool>,
    unread: RefCell<Vec<String>>,
}

/// Whether the kernel was built with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Built {
    /// As a module or into the kernel.
    Yes,
    No,
    /// The distribution left no configuration to be read.
    Unknown,
}

impl Machine {
    pub(super) fn new(root: impl Into<PathBuf>, clock: Option<bool>) -> Machine {
        let root = root.into();
        Machine { sysfs: Sysfs::at(&root), root, clock, unread: RefCell::default() }
    }

    pub(super) fn sysfs(&self) -> &Sysfs {
        &self.sysfs
    }

    pub(super) fn clock(&self) -> Option<bool> {
        self.clock
    }

    /// The text of a file without its line end; none if it is absent or hidden, and the latter is noted.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        match std::fs::read_to_string(self.root.join(path)) {
            Ok(text) => Some(text.trim_end().to_owned()),
            Err(error) => {
                self.note(path, &error);
                None
            }
        }
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }

    /// How many entries a directory has.
    pub(super) fn entries(&self, path: &str) -> usize {
        std::fs::read_dir(self.root.join(path)).map_or(0, Iterator::count)
    }

    /// The kernel's release, as `uname -r` has it.
    pub(super) fn release(&self) -> Option<String> {
        self.read("proc/sys/kernel/osrelease")
    }

    /// Whether the running kernel was built with `option`.
    pub(super) fn built_with(&self, option: &str) -> Built {
        let Some(release) = self.release() else { return Built::Unknown };
        let Some(configuration) = self.read(&format!("boot/config-{release}")) else { return Built::Unknown };
        let is_set = |line: &str| line.strip_prefix(option).is_some_and(|rest| rest == "=y" || rest == "=m");
        if configuration.lines().any(is_set) { Built::Yes } else { Built::No }
    }

    /// Whether a module of the running kernel can be loaded, or is part of it.
    pub(super) fn has_module(&self, name: &str) -> bool {
        let Some(release) = self.release() else { return false };
        ["modules.dep", "modules.builtin"].iter().any(|list| {
            let list = self.read(&format!("lib/modules/{release}/{list}")).unwrap_or_default();
            // "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/..."; dashes and underscores mean the same to modprobe.
            list.lines().any(|line| {
                let file = line.split(':').next().unwrap_or(line).rsplit('/').next().unwrap_or_default();
                file.split(".ko").next().is_some_and(|module| module.replace('_', "-") == name)
            })
        })
    }

    /// Whether a file is there that could not be read.
    pub(super) fn is_hidden(&self, path: &str) -> bool {
        self.unread
            .borrow()
            .iter()
            .any(|line| line.strip_prefix('/').is_some_and(|line| line.starts_with(path)))
    }

    /// What could not be read though it is there.
    pub(super) fn unread(&self) -> Vec<String> {
        self.unread.borrow().clone()
    }

    fn note(&self, path: &str, error: &io::Error) {
        if error.kind() != ErrorKind::NotFound {
            let line = format!("/{path}: {error}");
            let mut unread = self.unread.borrow_mut();
            if !unread.contains(&line) {
                unread.push(line);
            }
        }
    }
}
