//! The software device: the same driver, against a device in this process.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use netd_softdev::{Link, SocketLink, SoftDevice, SoftTransport, TapLink, create};
use netd_virtqueue::{DmaMemory, NetDevice, Options, Switches};

use crate::config;
use crate::device::{Error, random_mac};

/// A software device with its link.
pub struct Software {
    transport: SoftTransport,
    memory: Arc<DmaMemory>,
    device: SoftDevice<Box<dyn Link>>,
    switches: Switches,
}

impl Software {
    /// Opens the link and makes the device.
    pub(super) fn open(
        link: &config::Link,
        mac: Option<[u8; 6]>,
        mtu: u16,
        switches: Switches,
    ) -> Result<Self, Error> {
        let mac = mac.map_or_else(random_mac, Ok)?;
        let link: Box<dyn Link> = match link {
            config::Link::Socket { path } => Box::new(SocketLink::connect(path)?),
            config::Link::Tap { interface } => {
                Box::new(TapLink::open(interface, mtu, switches.allow_offloads())?)
            }
        };
        let (transport, memory, device) = create(mac, mtu, link)?;
        Ok(Self { transport, memory, device, switches })
    }

    pub(super) fn bring_up(&mut self) -> Result<NetDevice, Error> {
        let transport = Box::new(self.transport.clone());
        let options = Options { switches: self.switches, ..Options::default() };
        Ok(NetDevice::bring_up(transport, Arc::clone(&self.memory), &options)?)
    }

    pub(super) fn service(&mut self) -> Result<usize, Error> {
        Ok(self.device.poll()?)
    }

    pub(super) fn descriptor(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let link = self.device.link();
        link.descriptor().map(|descriptor| (descriptor, link.generation()))
    }
}
