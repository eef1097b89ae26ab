//! The device: takes frames from the transmit queue to the link, and from the link to the receive queue.

use std::fs::File;
use std::io;
use std::sync::Arc;

use netd_virtqueue::{DmaMemory, DmaSegment, Feature, status};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion};

use crate::registers::{FEATURES, QUEUES, Shared, SoftTransport};
use crate::{Broken, Buffer, DeviceRing, Error, FRAME_LEN_MAX, Link};

/// Memory for rings and frames: three rings of 1,024 entries with their tables take 0.2 MiB, two times 256 frames of 2 KiB one MiB.
const MEMORY_BYTES: usize = 4 << 20;
/// Frames moved in each direction by one poll, so that neither starves the other.
const POLL_BUDGET: usize = 256;
/// `struct virtio_net_hdr` with `num_buffers` (virtio 1.3, 5.1.6.1).
const HEADER: usize = 12;
const RECEIVEQ: usize = 0;
const TRANSMITQ: usize = 1;
const CONTROLQ: usize = 2;
/// Class and command of the longest control command that is understood, and its data (5.1.6.5.1).
const COMMAND: usize = 3;
/// `VIRTIO_NET_CTRL_RX`, of which promiscuous and all-multicast are understood; OK and ERR.
const CTRL_RX: u8 = 0;
const CTRL_RX_ALLMULTI: u8 = 1;
const CTRL_OK: u8 = 0;
const CTRL_ERR: u8 = 1;

/// A software device in operation.
pub struct SoftDevice<L> {
    shared: Arc<Shared>,
    memory: Arc<GuestMemoryMmap>,
    link: L,
    /// The rings in use, each with the generation since when.
    rings: [Option<(DeviceRing, u64)>; QUEUES],
    generation: u64,
    /// MRG_RXBUF was negotiated.
    may_merge: bool,
    mac: [u8; 6],
    /// Whether frames for other stations are passed on, as they are after a reset (5.1.6.5.1.1).
    promiscuous: bool,
    /// The buffer at hand, and those of a merged frame.
    buffer: Buffer,
    merged: Vec<Buffer>,
    /// Header and frame on their way from the driver.
    outgoing: Vec<u8>,
    /// Header and frame on their way to the driver; kept while no buffer is posted for them.
    incoming: Vec<u8>,
    /// Length of what is in `incoming`, header included; 0 when nothing is.
    waiting: usize,
    /// A frame that the link would not take yet.
    congested: Option<Vec<u8>>,
}

/// Makes a device on `link`: its transport and memory for the driver, and the device itself.
pub fn create<L: Link>(
    mac: [u8; 6],
    mtu: u16,
    link: L,
) -> Result<(SoftTransport, Arc<DmaMemory>, SoftDevice<L>), Error> {
    create_offering(FEATURES, mac, mtu, link)
}

/// The same, for a device that offers only some of its [`FEATURES`].
///
/// # Errors
///
/// When there is no memory to share.
pub fn create_offering<L: Link>(
    offered: u64,
    mac: [u8; 6],
    mtu: u16,
    link: L,
) -> Result<(SoftTransport, Arc<DmaMemory>, SoftDevice<L>), Error> {
    let failed = |source: io::Error| Error::Memory { bytes: MEMORY_BYTES, source };
    let descriptor =
        memfd_create("netd-softdev", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    ftruncate(&descriptor, MEMORY_BYTES as u64).map_err(|errno| failed(errno.into()))?;
    let file = File::from(descriptor);
    // Two mappings of the same pages, as for a device in another process: each side has its own view.
    let region = MmapRegion::from_file(FileOffset::new(file.try_clone().map_err(failed)?, 0), MEMORY_BYTES)
        .map_err(|error| failed(io::Error::other(error)))?;
    let whole = DmaSegment { offset: 0, len: MEMORY_BYTES, device_address: 0 };
    let dma =
        DmaMemory::new(Arc::new(region), vec![whole]).map_err(|error| failed(io::Error::other(error)))?;
    let memory = GuestMemoryMmap::from_ranges_with_files([(
        GuestAddress(0),
        MEMORY_BYTES,
        Some(FileOffset::new(file, 0)),
    )])
    .map_err(|error| failed(io::Error::other(error)))?;
    let shared = Arc::new(Shared::new(mac, mtu, offered & FEATURES));
    shared.lock().link_up = link.is_up();
    let device = SoftDevice {
        shared: Arc::clone(&shared),
        memory: Arc::new(memory),
        link,
        rings: [const { None }; QUEUES],
        generation: 0,
        may_merge: false,
        mac,
        promiscuous: true,
        buffer: Buffer::default(),
        merged: Vec::new(),
        outgoing: vec![0; HEADER + FRAME_LEN_MAX],
        incoming: vec![0; HEADER + FRAME_LEN_MAX],
        waiting: 0,
        congested: None,
    };
    Ok((SoftTransport { shared }, Arc::new(dma), device))
}

impl<L: Link> SoftDevice<L> {
    /// What lies behind the device.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// Moves frames both ways, as many as are there but a bounded number. Returns how many moved.
    pub fn poll(&mut self) -> Result<usize, Error> {
        self.take_over_registers()?;
        self.link.maintain();
        let moved = self.transmit()?;
        self.link.flush();
        let moved = moved + self.receive()?;
        self.obey()?;
        let up = self.link.is_up();
        let mut registers = self.shared.lock();
        if registers.link_up != up {
            registers.link_up = up;
        }
        Ok(moved)
    }

    /// Whether the driver rang since the last call, that is, whether a poll would find something.
    pub fn take_bell(&self) -> bool {
        self.shared.take_bell()
    }

    /// Where the driver said it was when it last rang the bell of queue `index` (virtio 1.3, 2.9).
    pub fn bell_position(&self, index: usize) -> Option<u16> {
        self.shared.position(index)
    }

    /// Notices a reset of the device or of a queue, or that the driver is ready.
    fn take_over_registers(&mut self) -> Result<(), Error> {
        let registers = self.shared.lock();
        if registers.generation == self.generation {
            return Ok(());
        }
        self.generation = registers.generation;
        self.may_merge = registers.driver_features & Feature::MRG_RXBUF.mask() != 0;
        if registers.status == 0 {
            self.promiscuous = true;
        }
        let live = registers.status & status::DRIVER_OK != 0;
        for (index, slot) in self.rings.iter_mut().enumerate() {
            let told = registers.rings[index].as_ref().filter(|_| live);
            let since = told.map(|(_, since)| *since);
            if slot.as_ref().map(|(_, since)| *since) == since {
                continue;
            }
            *slot = None;
            if index == TRANSMITQ {
                self.congested = None;
            }
            if let Some((addresses, since)) = told {
                let ring = DeviceRing::new(addresses, registers.driver_features, &self.memory);
                *slot = Some((ring.map_err(|Broken| Error::Driver(index))?, *since));
            }
        }
        Ok(())
    }

    /// From the driver to the link.
    fn transmit(&mut self) -> Result<usize, Error> {
        let broken = |Broken| Error::Driver(TRANSMITQ);
        if let Some(frame) = self.congested.take()
            && !self.link.send(&frame)
        {
            self.congested = Some(frame);
            return Ok(0);
        }
        let Some((ring, _)) = &mut self.rings[TRANSMITQ] else { return Ok(0) };
        let mut moved = 0;
        while moved < POLL_BUDGET && self.congested.is_none() {
            if !ring.take(&self.memory, &mut self.buffer).map_err(broken)? {
                break;
            }
            let len = self.buffer.read(&self.memory, &mut self.outgoing).map_err(broken)?;
            ring.give(&self.memory, &self.buffer, 0).map_err(broken)?;
            if let Some(frame) = self.outgoing[..len].get(HEADER..)
                && !self.link.send(frame)
            {
                self.congested = Some(frame.to_vec());
            }
            moved += 1;
        }
        Ok(moved)
    }

    /// From the link to the driver.
    fn receive(&mut self) -> Result<usize, Error> {
        let mut moved = 0;
        while moved < POLL_BUDGET && self.rings[RECEIVEQ].is_some() {
            if self.waiting == 0 {
                let Some(len) = self.link.receive(&mut self.incoming[HEADER..]) else { break };
                if !self.is_for_us(&self.incoming[HEADER..HEADER + len]) {
                    moved += 1;
                    continue;
                }
                self.waiting = HEADER + len;
            }
            if !self.deliver().map_err(|Broken| Error::Driver(RECEIVEQ))? {
                break;
            }
            self.waiting = 0;
            moved += 1;
        }
        Ok(moved)
    }

    /// Whether a frame passes the filter; groups always do.
    fn is_for_us(&self, frame: &[u8]) -> bool {
        self.promiscuous || frame.first().is_none_or(|first| first & 1 == 1) || frame.starts_with(&self.mac)
    }

    /// Writes the waiting frame into as many receive buffers as it needs. `false` when there are not enough; then none is used.
    fn deliver(&mut self) -> Result<bool, Broken> {
        let Some((ring, _)) = &mut self.rings[RECEIVEQ] else { return Ok(false) };
        let before = ring.mark();
        let (mut count, mut room) = (0, 0);
        while room < self.waiting {
            if self.merged.len() == count {
                self.merged.push(Buffer::default());
            }
            let buffer = &mut self.merged[count];
            if !ring.take(&self.memory, buffer)? {
                ring.rewind(before);
                return Ok(false);
            }
            if buffer.room() == 0 {
                return Err(Broken);
            }
            room += buffer.room();
            count += 1;
            if !self.may_merge && room < self.waiting {
                // One buffer for each frame was agreed on: what does not fit is dropped (5.1.6.4).
                ring.rewind(before);
                return Ok(true);
            }
        }
        self.incoming[HEADER - 2..HEADER].copy_from_slice(&(count as u16).to_le_bytes());
        let mut rest = &self.incoming[..self.waiting];
        for buffer in &self.merged[..count] {
            let written = buffer.write(&self.memory, rest)?;
            rest = &rest[written..];
            // The driver runs on the thread that called us, so it sees all buffers of a merged frame at once (5.1.6.4).
            ring.give(&self.memory, buffer, written as u32)?;
        }
        Ok(true)
    }

    /// Obeys commands, and answers them. Groups are never filtered, so that "all multicast" is what happens anyway.
    fn obey(&mut self) -> Result<(), Error> {
        let broken = |Broken| Error::Driver(CONTROLQ);
        let Some((ring, _)) = &mut self.rings[CONTROLQ] else { return Ok(()) };
        while ring.take(&self.memory, &mut self.buffer).map_err(broken)? {
            let mut command = [0; COMMAND];
            let len = self.buffer.read(&self.memory, &mut command).map_err(broken)?;
            let known = len == COMMAND && command[0] == CTRL_RX && command[1] <= CTRL_RX_ALLMULTI;
            if known && command[1] != CTRL_RX_ALLMULTI {
                self.promiscuous = command[2] != 0;
            }
            let answer = if known { CTRL_OK } else { CTRL_ERR };
            let written = self.buffer.write(&self.memory, &[answer]).map_err(broken)?;
            ring.give(&self.memory, &self.buffer, written as u32).map_err(broken)?;
        }
        Ok(())
    }
}
