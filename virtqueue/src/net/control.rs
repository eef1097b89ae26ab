//! The control queue (virtio 1.3, 5.1.6.5): commands to the device, one at a time, each with its answer.
//!
//! Nothing waits here: a software device answers on the very thread that asks. Commands go out one after the other, and what became of
//! each is kept to be shown.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::net::ring_bell;
use crate::ring::area::Area;
use crate::{DmaArena, Doorbell, Error, Fault, Part, Ring};

/// Class, command and data, and where the device answers: a cache line each.
const DATA: usize = 8;
const ANSWER: usize = 64;
const MEMORY: usize = 128;

/// A command has a header, data and an answer, each in a descriptor of its own: legacy devices insist on it (6.3).
pub(super) const PARTS: usize = 3;

/// `VIRTIO_NET_OK` (5.1.6.5).
const OK: u16 = 0;
/// What stands in the answer until the device wrote it; no answer of the specification.
const UNANSWERED: u16 = 0xff;

/// What a device can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Receive frames for every station, or only for this one and groups (5.1.6.5.1).
    Promiscuous(bool),
    /// Receive every multicast frame.
    AllMulticast(bool),
    /// Do to received frames what these features stand for, and nothing else (5.1.6.5.6).
    ReceiveOffloads(u64),
}

impl Command {
    /// Class, command and the data with its length (5.1.6.5).
    fn wire(self) -> (u8, u8, u64, u32) {
        match self {
            Command::Promiscuous(on) => (0, 0, on.into(), 1),
            Command::AllMulticast(on) => (0, 1, on.into(), 1),
            Command::ReceiveOffloads(features) => (5, 0, features, 8),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Command::Promiscuous(true) => "promiscuous on",
            Command::Promiscuous(false) => "promiscuous off",
            Command::AllMulticast(true) => "all multicast on",
            Command::AllMulticast(false) => "all multicast off",
            Command::ReceiveOffloads(_) => "receive offloads",
        }
    }
}

/// A command that was given to the device, and what it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CommandInfo {
    /// What it was told.
    pub command: &'static str,
    /// `done`, `refused`, or `waiting`.
    pub outcome: &'static str,
}

/// The control queue.
pub(super) struct ControlQueue {
    index: u16,
    /// Tokens are places in `log`.
    ring: Ring<usize>,
    /// The command in flight, as the device sees it.
    memory: Area,
    doorbell: Box<dyn Doorbell>,
    waiting: VecDeque<(usize, Command)>,
    log: Vec<CommandInfo>,
}

/// Commands that are remembered; of what is told again and again, the beginning is enough.
const LOG_MAX: usize = 64;

impl ControlQueue {
    pub(super) fn new(
        index: u16,
        ring: Ring<usize>,
        doorbell: Box<dyn Doorbell>,
        arena: &mut DmaArena,
    ) -> Result<Self, Error> {
        let memory = Area::new(arena.allocate(MEMORY, ANSWER)?);
        Ok(Self { index, ring, memory, doorbell, waiting: VecDeque::new(), log: Vec::new() })
    }

    /// Gives the device a command, after those that it has not answered yet.
    pub(super) fn submit(&mut self, command: Command) -> Result<(), Fault> {
        // Beyond the end of the log nothing is noted.
        self.waiting.push_back((self.log.len(), command));
        if self.log.len() < LOG_MAX {
            self.log.push(CommandInfo { command: command.name(), outcome: "waiting" });
        }
        self.poll()
    }

    /// Takes the device's answer, if it gave one, and lets the next command out.
    pub(super) fn poll(&mut self) -> Result<(), Fault> {
        while let Some(used) = self.ring.pop()? {
            // The length is not looked at: devices got it wrong for years (virtio 1.3, 2.7.4.1 says the same of legacy ones).
            let answer = self.memory.load_u16(ANSWER, Ordering::Relaxed);
            if let Some(entry) = self.log.get_mut(used.token) {
                entry.outcome = if answer == OK { "done" } else { "refused" };
            }
        }
        if self.ring.outstanding() == 0
            && let Some((number, command)) = self.waiting.pop_front()
        {
            self.post(number, command)?;
        }
        Ok(())
    }

    /// Every command so far.
    pub(super) fn commands(&self) -> &[CommandInfo] {
        &self.log
    }

    fn post(&mut self, number: usize, command: Command) -> Result<(), Fault> {
        let (class, code, data, data_len) = command.wire();
        self.memory.store_u16(0, u16::from_le_bytes([class, code]), Ordering::Relaxed);
        self.memory.store_u64(DATA, data, Ordering::Relaxed);
        self.memory.store_u16(ANSWER, UNANSWERED, Ordering::Relaxed);
        let base = self.memory.device_address();
        let part = |offset: usize, len, device_writes| Part {
            device_address: base + offset as u64,
            len,
            device_writes,
        };
        let parts = [part(0, 2, false), part(DATA, data_len, false), part(ANSWER, 1, true)];
        // Nothing else is in the ring, which has room for one command.
        let posted = self.ring.push(&parts, number);
        debug_assert!(posted.is_ok());
        ring_bell(&*self.doorbell, self.ring.publish(), self.index)?;
        Ok(())
    }
}
