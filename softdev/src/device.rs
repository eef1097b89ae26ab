//! The device: takes frames from the transmit queue to the link, and from the link to the receive queue.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;

use netd_virtqueue::{Checksum, DmaMemory, DmaSegment, Feature, OFFLOAD_BYTES, Offload, Protocol, status};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion};

use crate::registers::{FEATURES, OFFLOADS, QUEUES, Shared, SoftTransport};
use crate::{Broken, Buffer, DeviceRing, Error, FRAME_LEN_MAX, Link, segment};

/// Memory for rings and frames: three rings of 1,024 entries with their tables take 0.2 MiB, 256 receive buffers of 2 KiB half a MiB, 240
/// transmit buffers of the largest MTU (9216) 2.2 MiB, and 16 for long segments one MiB.
const MEMORY_BYTES: usize = 6 << 20;
/// Frames moved in each direction by one poll, so that neither starves the other.
const POLL_BUDGET: usize = 256;
/// `struct virtio_net_hdr` with `num_buffers` (virtio 1.3, 5.1.6.1).
const HEADER: usize = 12;
const RECEIVEQ: usize = 0;
const TRANSMITQ: usize = 1;
const CONTROLQ: usize = 2;
/// Class and command of a control command, and the longest data of one that is understood (5.1.6.5.6).
const COMMAND: usize = 2;
const COMMAND_DATA: usize = 8;
/// `VIRTIO_NET_CTRL_RX`, of which promiscuous and all-multicast are understood; OK and ERR.
const CTRL_RX: u8 = 0;
const CTRL_RX_ALLMULTI: u8 = 1;
/// `VIRTIO_NET_CTRL_GUEST_OFFLOADS` and its one command.
const CTRL_GUEST_OFFLOADS: u8 = 5;
const CTRL_GUEST_OFFLOADS_SET: u8 = 0;
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
    /// What was negotiated.
    features: u64,
    /// What of it may be done to received frames now.
    receive_offloads: u64,
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
    /// What the waiting frame lacks, for the driver.
    waiting_offload: Offload,
    /// Frames that came as one segment, which the driver did not agree to.
    pieces: VecDeque<Vec<u8>>,
    /// A frame that the link would not take yet.
    congested: Option<(Vec<u8>, Offload)>,
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
    let possible = if link.carries_offloads() { FEATURES } else { FEATURES & !OFFLOADS };
    let shared = Arc::new(Shared::new(mac, mtu, offered & possible));
    shared.lock().link_up = link.is_up();
    let device = SoftDevice {
        shared: Arc::clone(&shared),
        memory: Arc::new(memory),
        link,
        rings: [const { None }; QUEUES],
        generation: 0,
        features: 0,
        receive_offloads: 0,
        mac,
        promiscuous: true,
        buffer: Buffer::default(),
        merged: Vec::new(),
        outgoing: vec![0; HEADER + FRAME_LEN_MAX],
        incoming: vec![0; HEADER + FRAME_LEN_MAX],
        waiting: 0,
        waiting_offload: Offload::NONE,
        pieces: VecDeque::new(),
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
        if self.features != registers.driver_features {
            self.features = registers.driver_features;
            // All that was negotiated is on until the driver says otherwise (5.1.6.5.6).
            self.receive_offloads = self.features;
        }
        if registers.status == 0 {
            self.promiscuous = true;
            self.pieces.clear();
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
        if let Some((frame, offload)) = self.congested.take()
            && !self.link.send(&frame, &offload)
        {
            self.congested = Some((frame, offload));
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
            moved += 1;
            let Some((header, frame)) = self.outgoing[..len].split_at_checked(HEADER) else { continue };
            // A header that no driver of this device may write is one of a frame that nobody gets.
            let Some(offload) = sent_with(header, frame.len(), self.features) else { continue };
            if !self.link.send(frame, &offload) {
                self.congested = Some((frame.to_vec(), offload));
            }
        }
        Ok(moved)
    }

    /// From the link to the driver.
    fn receive(&mut self) -> Result<usize, Error> {
        let mut moved = 0;
        while moved < POLL_BUDGET && self.rings[RECEIVEQ].is_some() {
            if self.waiting == 0 && !self.fetch() {
                break;
            }
            if self.waiting == 0 {
                moved += 1;
                continue;
            }
            if !self.deliver().map_err(|Broken| Error::Driver(RECEIVEQ))? {
                break;
            }
            self.waiting = 0;
            moved += 1;
        }
        Ok(moved)
    }

    /// Takes the next frame from the link and makes it one that the driver agreed to. `false`: there is none. Nothing waits afterwards if
    /// it is not for this station, or no frame at all.
    fn fetch(&mut self) -> bool {
        if self.fetch_piece() {
            return true;
        }
        let Some((len, offload)) = self.link.receive(&mut self.incoming[HEADER..]) else { return false };
        let has = |feature: Feature| self.receive_offloads & feature.mask() != 0;
        let joined = match offload.segmentation.map(|segmentation| segmentation.protocol) {
            None => true,
            Some(Protocol::Tcp4) => has(Feature::GUEST_TSO4),
            Some(Protocol::Tcp6) => has(Feature::GUEST_TSO6),
            Some(Protocol::Udp) => false,
        };
        let unchecked = offload.checksum == Checksum::Complete || has(Feature::GUEST_CSUM);
        let frame = &mut self.incoming[HEADER..HEADER + len];
        if !is_for_us(frame, &self.mac, self.promiscuous) {
            return true;
        }
        if joined && unchecked {
            self.wait(len, offload, |_| {});
            return true;
        }
        let pieces = &mut self.pieces;
        // A frame whose headers are not what the link says is dropped, as on any wire.
        let _ = segment::finish(frame, &offload, |piece| pieces.push_back(piece.to_vec()));
        self.fetch_piece();
        true
    }

    /// Lets the next piece of a segment wait for buffers; `false`: there is none.
    fn fetch_piece(&mut self) -> bool {
        let Some(piece) = self.pieces.pop_front() else { return false };
        self.wait(piece.len(), Offload::NONE, |room| room.copy_from_slice(&piece));
        true
    }

    /// Lets a frame of `len` bytes, which `write` writes, wait for buffers.
    fn wait(&mut self, len: usize, offload: Offload, write: impl FnOnce(&mut [u8])) {
        write(&mut self.incoming[HEADER..HEADER + len]);
        self.waiting = HEADER + len;
        self.waiting_offload = offload;
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
            if self.features & Feature::MRG_RXBUF.mask() == 0 && room < self.waiting {
                // One buffer for each frame was agreed on: what does not fit is dropped (5.1.6.4).
                ring.rewind(before);
                return Ok(true);
            }
        }
        self.incoming[..OFFLOAD_BYTES].copy_from_slice(&self.waiting_offload.encode());
        self.incoming[OFFLOAD_BYTES..HEADER].copy_from_slice(&(count as u16).to_le_bytes());
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
            let mut command = [0; COMMAND + COMMAND_DATA];
            let len = self.buffer.read(&self.memory, &mut command).map_err(broken)?;
            let [class, code, data @ ..] = command;
            let known = match (class, code, len - len.min(COMMAND)) {
                (CTRL_RX, CTRL_RX_ALLMULTI, 1) => true,
                (CTRL_RX, 0, 1) => {
                    self.promiscuous = data[0] != 0;
                    true
                }
                (CTRL_GUEST_OFFLOADS, CTRL_GUEST_OFFLOADS_SET, COMMAND_DATA) => {
                    let wanted = u64::from_le_bytes(data);
                    let possible = self.features & OFFLOADS;
                    if wanted & !possible == 0 {
                        self.receive_offloads = wanted;
                    }
                    wanted & !possible == 0
                }
                _ => false,
            };
            let answer = if known { CTRL_OK } else { CTRL_ERR };
            let written = self.buffer.write(&self.memory, &[answer]).map_err(broken)?;
            ring.give(&self.memory, &self.buffer, written as u32).map_err(broken)?;
        }
        Ok(())
    }
}

/// What a driver leaves to the device with a frame. `None`: it may not, or it makes no sense.
fn sent_with(header: &[u8], frame_len: usize, features: u64) -> Option<Offload> {
    let has = |feature: Feature| features & feature.mask() != 0;
    // Without the feature the fields mean nothing (5.1.6.2).
    if !has(Feature::CSUM) {
        return Some(Offload::NONE);
    }
    let offload = Offload::decode(header.first_chunk::<OFFLOAD_BYTES>()?, frame_len).ok()?;
    let allowed = match offload.segmentation.map(|segmentation| segmentation.protocol) {
        None => true,
        Some(Protocol::Tcp4) => has(Feature::HOST_TSO4),
        Some(Protocol::Tcp6) => has(Feature::HOST_TSO6),
        Some(Protocol::Udp) => false,
    };
    allowed.then_some(offload)
}

/// Whether a frame passes the filter; groups always do.
fn is_for_us(frame: &[u8], mac: &[u8; 6], promiscuous: bool) -> bool {
    promiscuous || frame.first().is_none_or(|first| first & 1 == 1) || frame.starts_with(mac)
}
