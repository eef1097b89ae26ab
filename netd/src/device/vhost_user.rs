//! A device in another process, over vhost-user: DPDK's net_vhost, or Open vSwitch.
//!
//! Each time it is brought up is a session of its own, with a fresh connection and fresh memory. What the backend of the last one held is
//! lost; the worker counts it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netd_virtqueue::{NetDevice, Options, Switches, VhostUser, VhostUserOptions, VhostUserSocket};

use crate::config::VhostUserDevice;
use crate::device::{Error, random_mac};

/// Memory for both rings and their frames: 256 receive buffers of 2 KiB and 240 transmit buffers of the largest MTU (9216) take 2.7 MiB, 16
/// for long segments one MiB, two rings of 1,024 entries 54 KiB.
const MEMORY_BYTES: usize = 6 << 20;

/// The way to a backend, and the session with it.
pub struct Backend {
    device: VhostUserDevice,
    socket: VhostUserSocket,
    options: VhostUserOptions,
    switches: Switches,
    session: Option<Session>,
    sessions: u64,
}

/// What is known of the session while the driver has it.
struct Session {
    interrupt: OwnedFd,
    protocol_features: Vec<String>,
}

impl Backend {
    /// Prepares the socket. As a server we listen from here on.
    pub(super) fn open(device: &VhostUserDevice, switches: Switches) -> Result<Self, Error> {
        let socket = VhostUserSocket::new(&device.socket, device.role)?;
        // One address for all sessions: the network must not meet a new station after each.
        let mac = device.mac.map_or_else(random_mac, Ok)?;
        let options = VhostUserOptions { mac, mtu: device.mtu, memory_bytes: MEMORY_BYTES };
        Ok(Self { device: device.clone(), socket, options, switches, session: None, sessions: 0 })
    }

    pub(super) fn bring_up(&mut self) -> Result<NetDevice, Error> {
        self.session = None;
        let session = VhostUser::open(self.socket.connect()?, &self.options)?;
        let (interrupt, protocol_features) = (session.interrupt()?, session.protocol_features());
        let memory = session.memory();
        let options = Options { untrusted: true, switches: self.switches, ..Options::default() };
        let driver = NetDevice::bring_up(Box::new(session), memory, &options)?;
        self.session = Some(Session { interrupt, protocol_features });
        self.sessions += 1;
        Ok(driver)
    }

    pub(super) fn descriptor(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.session.as_ref().map(|session| (session.interrupt.as_fd(), self.sessions))
    }

    /// Whether a backend waits at our socket.
    pub(super) fn is_awaited(&self) -> bool {
        self.socket.is_awaited()
    }

    /// Where and how the backend is met.
    pub fn device(&self) -> &VhostUserDevice {
        &self.device
    }

    /// What was negotiated beside the features of virtio.
    pub fn protocol_features(&self) -> &[String] {
        self.session.as_ref().map_or(&[], |session| &session.protocol_features)
    }
}
