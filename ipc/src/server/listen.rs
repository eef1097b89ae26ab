//! Making the listening socket: never taking it from a live daemon, always from a dead one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, Mode, OFlags, access, flock, open};

/// Why there is no socket to listen at.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A live daemon has the path.
    #[error("another daemon is serving at {}: stop it first, or give this one another path with '[ipc] socket'", .0.display())]
    AlreadyServing(PathBuf),
    /// Something else has the path.
    #[error("{} exists and is not a socket: remove it, or choose another path with '[ipc] socket'", .0.display())]
    NotASocket(PathBuf),
    /// A step of making the socket failed.
    #[error("cannot {step} {}: {source}{hint}", path.display())]
    Failed {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What may help, or nothing.
        hint: &'static str,
    },
}

/// Where a daemon's socket is unless its configuration says otherwise: where the variable says that it is; for root, and for the package's
/// user, whose directory systemd makes, at `system`; else at `user`.
pub fn own_path(variable: &str, system: &str, user: Option<PathBuf>) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let system = PathBuf::from(system);
    let ours = system.parent().is_some_and(|directory| access(directory, Access::WRITE_OK).is_ok());
    if rustix::process::geteuid().is_root() || ours { Some(system) } else { user }
}

/// Listens at `path`, with this mode: 0660 lets the group of the daemon in and nobody else.
///
/// A socket that a dead daemon left is removed. Directories above are made if they are missing.
///
/// # Errors
/// A live daemon answers at `path`, something else is there, or the file system says no.
pub fn listen(path: &Path, mode: u32) -> Result<UnixListener, ListenError> {
    let failed = |step, hint| {
        let path = path.to_owned();
        move |source: io::Error| ListenError::Failed { step, path, source, hint }
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory of", ""))?;
    }
    // Two daemons that start at once must not both find the socket stale: the second would unlink the first one's. The
    // lock is held only while looking and binding.
    let _lock = match path.parent() {
        Some(directory) => Some(lock(directory).map_err(failed("lock the directory of", ""))?),
        None => None,
    };
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed(
        "listen at",
        "; a socket path has at most 107 bytes, in a directory that this user may write",
    ))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", ""))?;
    listener.set_nonblocking(true).map_err(failed("configure", ""))?;
    Ok(listener)
}

fn lock(directory: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let handle = open(directory, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&handle, FlockOperation::LockExclusive)?;
    Ok(handle)
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |step| move |source| ListenError::Failed { step, path: path.to_owned(), source, hint: "" };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // A full backlog is a live daemon as well, merely a busy one.
        Ok(_) => Err(ListenError::AlreadyServing(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ListenError::AlreadyServing(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) => Err(failed("ask who serves at")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_where_nothing_is_makes_directories_and_sets_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/netd.sock");
        let _listener = listen(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn listen_where_a_daemon_serves_is_refused_and_leaves_it_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        let _first = listen(&path, 0o660).unwrap();
        let message = listen(&path, 0o660).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("another daemon is serving at {}", path.display())),
            "{message}"
        );
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn listen_where_a_dead_daemon_was_takes_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        drop(listen(&path, 0o660).unwrap());
        assert!(path.exists(), "the socket file outlives its listener");
        let _second = listen(&path, 0o660).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn listen_where_a_file_is_refuses_and_keeps_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        fs::write(&path, "precious").unwrap();
        let message = listen(&path, 0o660).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{} exists and is not a socket", path.display())), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
