//! The socket between frontend and backend: either side may be the one that listens.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::Error;

/// Which side of the socket we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VhostUserRole {
    /// The backend listens (DPDK's net_vhost, Open vSwitch's dpdkvhostuser).
    Client,
    /// We listen, and the backend connects (net_vhost with client=1, Open vSwitch's dpdkvhostuserclient).
    Server,
}

/// Where connections to a backend come from, one after the other.
#[derive(Debug)]
pub struct VhostUserSocket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl VhostUserSocket {
    /// A socket at `path`. As a server we listen from here on; a socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    ///
    /// When somebody else listens at the path, or something else lies there.
    pub fn new(path: &Path, role: VhostUserRole) -> Result<Self, Error> {
        let listener = match role {
            VhostUserRole::Client => None,
            VhostUserRole::Server => Some(listen(path)?),
        };
        Ok(Self { path: path.to_owned(), listener })
    }

    /// A connection to a backend.
    ///
    /// # Errors
    ///
    /// No socket, nobody listening at it, or nobody who has connected to ours yet; nothing is waited for.
    pub fn connect(&self) -> Result<UnixStream, Error> {
        match &self.listener {
            None => connect_to(&self.path),
            Some(listener) => self.accept(listener),
        }
    }

    fn accept(&self, listener: &UnixListener) -> Result<UnixStream, Error> {
        let failed = |source| Error::VhostUserSystem { step: "accept a backend", source };
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed)?;
                Ok(stream)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::BackendAbsent { path: self.path.clone() })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether a backend has connected to our socket and waits to be taken.
    pub fn is_awaited(&self) -> bool {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Some(listener) = &self.listener else { return false };
        // An interrupted look is made again by whoever looks repeatedly.
        poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&AT_ONCE)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for VhostUserSocket {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // Somebody else may have removed it already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn connect_to(path: &Path) -> Result<UnixStream, Error> {
    let failed = |errno: Errno| Error::BackendUnreachable {
        path: path.to_owned(),
        why: match errno {
            Errno::NOENT => "there is no such socket; is the backend running?",
            Errno::CONNREFUSED => "nobody listens at it; has the backend ended?",
            Errno::ACCESS => "its permissions do not let us",
            Errno::AGAIN => "its backlog is full; does the backend still accept?",
            _ => "the connection failed",
        },
        source: errno.into(),
    };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    // A full backlog must not block us.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    let stream = UnixStream::from(socket);
    stream
        .set_nonblocking(false)
        .map_err(|source| Error::VhostUserSystem { step: "prepare the connection", source })?;
    Ok(stream)
}

fn listen(path: &Path) -> Result<UnixListener, Error> {
    let unusable = |why, source| Error::BackendUnreachable { path: path.to_owned(), why, source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let why = "something that is no socket lies at the path, and was left alone";
            return Err(unusable(why, io::ErrorKind::AlreadyExists.into()));
        }
        Ok(_) if connect_to(path).is_ok() => {
            let why = "somebody else listens at the path";
            return Err(unusable(why, io::ErrorKind::AddrInUse.into()));
        }
        Ok(_) => {
            let why = "the socket of a predecessor cannot be removed";
            std::fs::remove_file(path).map_err(|source| unusable(why, source))?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|source| unusable("it cannot be listened at", source))?;
    listener.set_nonblocking(true).map_err(|source| unusable("it cannot be listened at", source))?;
    Ok(listener)
}
