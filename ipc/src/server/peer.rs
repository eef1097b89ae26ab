//! Who a client is, as the kernel says: SO_PEERCRED, and the systemd unit of the process.
//!
//! The credentials are those of the process that called connect(2), and cannot be forged. The unit comes from
//! `/proc/PID/cgroup`, by process id, and ids are used again: it counts only if the process is there before and after
//! the read with one and the same start time, under the user of the credentials. A process that is gone has no unit.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id when it connected.
    pub pid: u32,
    /// systemd unit, if the process runs in one below system.slice.
    pub unit: Option<String>,
}

impl Peer {
    /// Who is at the other end of a connected Unix socket.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(socket: impl AsFd) -> Result<Peer, Errno> {
        let credentials = rustix::net::sockopt::socket_peercred(socket)?;
        let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
        let uid = credentials.uid.as_raw();
        Ok(Peer { uid, gid: credentials.gid.as_raw(), pid, unit: unit(Path::new("/proc"), pid, uid) })
    }
}

/// The systemd system unit of process `pid`, provided that it belongs to `uid` and stays the same process meanwhile.
fn unit(proc: &Path, pid: u32, uid: u32) -> Option<String> {
    let process = proc.join(pid.to_string());
    let before = start_time(&process)?;
    let owner = fs::metadata(&process).ok()?.uid();
    let cgroup = fs::read_to_string(process.join("cgroup")).ok()?;
    // A process that is not dumpable belongs to root in /proc, whoever runs it (proc(5)).
    let same = start_time(&process)? == before && (owner == uid || owner == 0);
    same.then(|| unit_of_cgroup(&cgroup)).flatten()
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
fn start_time(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // Field 2, the command's name, may hold spaces and parentheses; the last ')' ends it. Field 3 comes after it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(22 - 3)?.parse().ok()
}

/// The first component under `/system.slice` of the unified hierarchy (the line `0::PATH`, cgroups(7)).
///
/// Only the first: what is below it is of the unit's own making. A nested slice (`/system.slice/system-getty.slice/…`)
/// names no unit by that component, and gives none rather than a guess.
fn unit_of_cgroup(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let first = path.strip_prefix("/system.slice/")?.split('/').next()?;
    (!first.is_empty() && !first.ends_with(".slice")).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peer_of_a_pair_is_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let subject = Peer::of(&a).unwrap();
        assert_eq!(subject.pid, std::process::id());
        assert_eq!(subject.uid, rustix::process::geteuid().as_raw());
        assert_eq!(subject.gid, rustix::process::getegid().as_raw());
    }

    #[test]
    fn unit_is_the_first_component_below_system_slice() {
        for (cgroup, unit) in [
            ("0::/system.slice/backup.service\n", Some("backup.service")),
            ("0::/system.slice/backup.service/other.service\n", Some("backup.service")),
            (
                "1:name=systemd:/system.slice/fake.service\n0::/system.slice/real.service\n",
                Some("real.service"),
            ),
            ("0::/user.slice/user-1000.slice/system.slice/backup.service\n", None),
            ("0::/system.slice/system-getty.slice/getty@tty1.service\n", None),
            ("0::/system.slice\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of_cgroup(cgroup).as_deref(), unit, "{cgroup}");
        }
    }

    fn fake_process(proc: &Path, stat: &str) {
        let process = proc.join("7");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("stat"), stat).unwrap();
        fs::write(process.join("cgroup"), "0::/system.slice/a.service\n").unwrap();
    }

    const STAT: &str = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2 3";

    #[test]
    fn unit_of_a_live_process_of_the_user_is_found() {
        let proc = tempfile::tempdir().unwrap();
        fake_process(proc.path(), STAT);
        assert_eq!(start_time(&proc.path().join("7")), Some(123_456));
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(unit(proc.path(), 7, me).as_deref(), Some("a.service"));
    }

    #[test]
    fn unit_of_a_process_that_is_gone_or_garbled_is_none() {
        let proc = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(unit(proc.path(), 7, me), None);
        fake_process(proc.path(), "7 (a");
        assert_eq!(unit(proc.path(), 7, me), None);
    }
}
