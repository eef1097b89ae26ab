//! The device: takes frames from the transmit queue to the link, and from the link to the receive queue.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use netd_virtqueue::{DmaMemory, DmaSegment, Feature, RingAddresses, status};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion};

use crate::registers::{QUEUE_SIZE_MAX, Shared, SoftTransport};
use crate::{Error, FRAME_LEN_MAX, Link};

/// Memory for rings and frames: two rings of 1,024 entries take 54 KiB, two times 256 frames of 2 KiB one MiB.
const MEMORY_BYTES: usize = 4 << 20;
/// Frames moved in each direction by one poll, so that neither starves the other.
const POLL_BUDGET: usize = 256;
/// `struct virtio_net_hdr` with `num_buffers` (virtio 1.3, 5.1.6.1).
const HEADER: usize = 12;
const RECEIVEQ: usize = 0;
const TRANSMITQ: usize = 1;

/// A software device in operation.
pub struct SoftDevice<L> {
    shared: Arc<Shared>,
    memory: Arc<GuestMemoryMmap>,
    link: L,
    queues: Option<[Queue; 2]>,
    generation: u64,
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
    let shared = Arc::new(Shared::new(mac, mtu));
    shared.lock().link_up = link.is_up();
    let device = SoftDevice {
        shared: Arc::clone(&shared),
        memory: Arc::new(memory),
        link,
        queues: None,
        generation: 0,
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
        let moved = match self.queues.take() {
            Some(mut queues) => {
                let sent = self.transmit(&mut queues[TRANSMITQ]);
                self.link.flush();
                let received = self.receive(&mut queues[RECEIVEQ]);
                self.queues = Some(queues);
                sent? + received?
            }
            None => 0,
        };
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

    /// Notices a reset, or that the driver is ready.
    fn take_over_registers(&mut self) -> Result<(), Error> {
        let registers = self.shared.lock();
        if registers.generation == self.generation {
            return Ok(());
        }
        self.generation = registers.generation;
        self.queues = None;
        self.congested = None;
        if registers.status & status::DRIVER_OK == 0 {
            return Ok(());
        }
        let event_idx = registers.driver_features & Feature::EVENT_IDX.mask() != 0;
        if let [Some(rx), Some(tx)] = &registers.rings {
            let queue = |index: usize, ring| queue(ring, event_idx, &self.memory).ok_or(Error::Driver(index));
            self.queues = Some([queue(RECEIVEQ, rx)?, queue(TRANSMITQ, tx)?]);
        }
        Ok(())
    }

    /// From the driver to the link.
    fn transmit(&mut self, queue: &mut Queue) -> Result<usize, Error> {
        if let Some(frame) = self.congested.take()
            && !self.link.send(&frame)
        {
            self.congested = Some(frame);
            return Ok(0);
        }
        let broken = |_| Error::Driver(TRANSMITQ);
        let mut moved = 0;
        while moved < POLL_BUDGET && self.congested.is_none() {
            let Some(chain) = queue.pop_descriptor_chain(&*self.memory) else { break };
            let head = chain.head_index();
            let mut reader = chain.reader(&self.memory).map_err(broken)?;
            let len = reader.available_bytes().min(self.outgoing.len());
            reader.read_exact(&mut self.outgoing[..len]).map_err(|_| Error::Driver(TRANSMITQ))?;
            queue.add_used(&*self.memory, head, 0).map_err(broken)?;
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
    fn receive(&mut self, queue: &mut Queue) -> Result<usize, Error> {
        let mut moved = 0;
        while moved < POLL_BUDGET {
            if self.waiting == 0 {
                let Some(len) = self.link.receive(&mut self.incoming[HEADER..]) else { break };
                self.waiting = HEADER + len;
            }
            if !self.deliver(queue)? {
                break;
            }
            self.waiting = 0;
            moved += 1;
        }
        Ok(moved)
    }

    /// Writes the waiting frame into as many receive buffers as it needs. `false` when there are not enough; then none is used.
    fn deliver(&mut self, queue: &mut Queue) -> Result<bool, Error> {
        let broken = |_| Error::Driver(RECEIVEQ);
        let before = queue.next_avail();
        let mut chains = Vec::with_capacity(1);
        let mut room = 0;
        while room < self.waiting {
            let Some(chain) = queue.pop_descriptor_chain(&*self.memory) else {
                queue.set_next_avail(before);
                return Ok(false);
            };
            let head = chain.head_index();
            let writer = chain.writer(&self.memory).map_err(broken)?;
            let bytes = writer.available_bytes();
            if bytes == 0 {
                return Err(Error::Driver(RECEIVEQ));
            }
            room += bytes;
            chains.push((head, bytes, writer));
        }
        let count = chains.len() as u16;
        self.incoming[HEADER - 2..HEADER].copy_from_slice(&count.to_le_bytes());
        let mut rest = &self.incoming[..self.waiting];
        for (head, bytes, mut writer) in chains {
            let (part, after) = rest.split_at(bytes.min(rest.len()));
            rest = after;
            writer.write_all(part).map_err(|_| Error::Driver(RECEIVEQ))?;
            // The driver runs on the thread that called us, so it sees all buffers of a merged frame at once (5.1.6.4).
            queue.add_used(&*self.memory, head, part.len() as u32).map_err(broken)?;
        }
        Ok(true)
    }
}

/// The device's side of a ring, if the ring makes sense.
fn queue(ring: &RingAddresses, event_idx: bool, memory: &GuestMemoryMmap) -> Option<Queue> {
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let mut queue = Queue::new(QUEUE_SIZE_MAX).ok()?;
    queue.set_size(ring.size);
    let (low, high) = halves(ring.descriptors);
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(ring.avail);
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(ring.used);
    queue.set_used_ring_address(low, high);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    // Our driver polls us; we ask for doorbells all the same, since they tell the loop that there is work.
    queue.enable_notification(memory).ok()?;
    queue.is_valid(memory).then_some(queue)
}
