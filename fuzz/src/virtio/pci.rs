//! A PCI function whose registers are memory that behaves like a virtio device's, except where the fuzzer lies.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};

use netd_virtqueue::{Feature, PciFunction};

use crate::input::Input;

/// The modern registers are in this BAR, at these offsets; the legacy ones are in BAR 0.
const MODERN_BAR: u8 = 4;
const COMMON: u64 = 0;
const DEVICE: u64 = 512;
const NOTIFY: u64 = 1024;
const BAR_BYTES: usize = 2048;

/// Where a ring lies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

struct State {
    config: [u8; 256],
    bar: Vec<u8>,
    features: u64,
    rings: [Ring; 2],
    /// How many reads there were, which of them get another answer, and whether one did.
    reads: u32,
    lies: BTreeMap<u32, u32>,
    lied: bool,
}

pub(super) struct Function {
    modern: bool,
    state: Mutex<State>,
}

impl Function {
    /// `{ ring size u16, features u32, lies u8, { which read u8, answer u32 }, changes of configuration space u8, { at u8, value u8 } }`
    pub(super) fn new(input: &mut Input<'_>, modern: bool) -> Option<Function> {
        let (size, features) = (input.u16()?, input.u32()?);
        // Most scripts get past the first check.
        let size = if size & 0x8000 != 0 { size } else { 1 << (size % 12) };
        let features =
            u64::from(features) | Feature::MAC.mask() | if modern { Feature::VERSION_1.mask() } else { 0 };
        let mut lies = BTreeMap::new();
        for _ in 0..input.u8()? % 8 {
            lies.insert(input.u8()?.into(), input.u32()?);
        }
        let mut config = if modern { capabilities() } else { [0; 256] };
        for _ in 0..input.u8()? % 8 {
            let (at, value) = (input.u8()?, input.u8()?);
            config[usize::from(at)] = value;
        }
        let mut bar = vec![0; BAR_BYTES];
        let at = if modern { DEVICE as usize } else { 20 };
        // MAC, link up, one pair of queues, an MTU.
        bar[at..at + 12].copy_from_slice(&[0x42, 1, 10, 0, 0, 2, 1, 0, 1, 0, 0xdc, 5]);
        let rings = [Ring { size, ..Ring::default() }; 2];
        let state = State { config, bar, features, rings, reads: 0, lies, lied: false };
        Some(Function { modern, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread")
    }

    /// The rings as the driver gave them.
    pub(super) fn rings(&self) -> [Ring; 2] {
        self.state().rings
    }

    /// Whether a register answered something else than it holds: a ring size, a feature that this device does not speak.
    pub(super) fn lied(&self) -> bool {
        self.state().lied
    }

    /// The device writes to its own registers: status, configuration.
    pub(super) fn change(&self, at: u16, value: u8) {
        let mut state = self.state();
        let at = usize::from(at) % state.bar.len();
        state.bar[at] = value;
    }

    fn read<const N: usize>(&self, bar: u8, offset: u64) -> io::Result<[u8; N]> {
        let mut state = self.state();
        state.reads += 1;
        let reads = state.reads;
        let mut bytes = [0; N];
        if let Some(lie) = state.lies.get(&reads).copied() {
            state.lied = true;
            bytes.copy_from_slice(&lie.to_le_bytes()[..N]);
            return Ok(bytes);
        }
        let at = self.place(bar, offset, N)?;
        bytes.copy_from_slice(&state.bar[at..at + N]);
        let special = if self.modern { modern_read(&state, offset) } else { legacy_read(&state, offset) };
        if let Some(value) = special {
            bytes.copy_from_slice(&value.to_le_bytes()[..N]);
        }
        Ok(bytes)
    }

    fn write<const N: usize>(&self, bar: u8, offset: u64, bytes: [u8; N]) -> io::Result<()> {
        let at = self.place(bar, offset, N)?;
        let mut state = self.state();
        state.bar[at..at + N].copy_from_slice(&bytes);
        if self.modern {
            modern_write(&mut state, offset)
        } else {
            legacy_write(&mut state, offset)
        }
        Ok(())
    }

    fn place(&self, bar: u8, offset: u64, len: usize) -> io::Result<usize> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.bar_len(bar));
        match end {
            Some(_) => Ok(offset as usize),
            None => panic!("the driver looks outside of BAR {bar}: {len} bytes at {offset:#x}"),
        }
    }
}

fn number(state: &State, at: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&state.bar[at as usize..at as usize + len]);
    u64::from_le_bytes(bytes)
}

/// The queue that is selected, of the two that there are.
fn selected(state: &State, register: u64) -> Option<usize> {
    usize::try_from(number(state, register, 2)).ok().filter(|queue| *queue < 2)
}

/// Registers that answer something else than what was written last (virtio 1.3, 4.1.4.3).
fn modern_read(state: &State, offset: u64) -> Option<u64> {
    let queue = selected(state, COMMON + 22);
    match offset.checked_sub(COMMON)? {
        4 if number(state, COMMON, 4) == 0 => Some(state.features & 0xffff_ffff),
        4 => Some(state.features >> 32),
        24 => Some(queue.map_or(0, |queue| state.rings[queue].size.into())),
        30 => Some(queue.unwrap_or_default() as u64),
        _ => None,
    }
}

fn modern_write(state: &mut State, offset: u64) {
    let Some(queue) = selected(state, COMMON + 22) else { return };
    let ring = Ring {
        size: if offset == COMMON + 24 {
            number(state, COMMON + 24, 2) as u16
        } else {
            state.rings[queue].size
        },
        descriptors: number(state, COMMON + 32, 8),
        avail: number(state, COMMON + 40, 8),
        used: number(state, COMMON + 48, 8),
    };
    match offset - COMMON {
        24 => state.rings[queue].size = ring.size,
        28 => state.rings[queue] = ring,
        _ => {}
    }
}

/// The same of a legacy device (4.1.4.10).
fn legacy_read(state: &State, offset: u64) -> Option<u64> {
    match offset {
        0 => Some(state.features & 0xffff_ffff),
        12 => Some(selected(state, 14).map_or(0, |queue| state.rings[queue].size.into())),
        _ => None,
    }
}

fn legacy_write(state: &mut State, offset: u64) {
    let Some(queue) = selected(state, 14).filter(|_| offset == 8) else { return };
    let (size, descriptors) = (state.rings[queue].size, number(state, 8, 4) * 4096);
    let avail = descriptors + 16 * u64::from(size);
    // Flags, index, entries and used_event (2.7.2).
    let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4096);
    state.rings[queue] = Ring { size, descriptors, avail, used };
}

/// The vendor capabilities of a modern device (4.1.4): common, notification, device.
fn capabilities() -> [u8; 256] {
    let mut config = [0; 256];
    config[6] = 0x10;
    config[0x34] = 0x40;
    let structures = [(1, COMMON, 64u32), (2, NOTIFY, 64), (4, DEVICE, 64)];
    for (index, (kind, offset, len)) in structures.into_iter().enumerate() {
        let at = 0x40 + 20 * index;
        let next = if index + 1 < structures.len() { at as u8 + 20 } else { 0 };
        config[at..at + 5].copy_from_slice(&[9, next, 20, kind, MODERN_BAR]);
        config[at + 8..at + 12].copy_from_slice(&(offset as u32).to_le_bytes());
        config[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
        config[at + 16..at + 20].copy_from_slice(&4u32.to_le_bytes());
    }
    config
}

impl PciFunction for Function {
    fn config_read(&self, offset: u16, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::from(offset);
        let bytes = self.state().config.get(at..at + buffer.len()).map(<[u8]>::to_vec);
        buffer.copy_from_slice(
            &bytes.unwrap_or_else(|| panic!("the driver looks outside of configuration space: {at:#x}")),
        );
        Ok(())
    }
    fn bar_len(&self, bar: u8) -> u64 {
        match (self.modern, bar) {
            (true, MODERN_BAR) => BAR_BYTES as u64,
            (false, 0) => 64,
            _ => 0,
        }
    }
    fn read_u8(&self, bar: u8, offset: u64) -> io::Result<u8> {
        self.read(bar, offset).map(u8::from_le_bytes)
    }
    fn read_u16(&self, bar: u8, offset: u64) -> io::Result<u16> {
        self.read(bar, offset).map(u16::from_le_bytes)
    }
    fn read_u32(&self, bar: u8, offset: u64) -> io::Result<u32> {
        self.read(bar, offset).map(u32::from_le_bytes)
    }
    fn write_u8(&self, bar: u8, offset: u64, value: u8) -> io::Result<()> {
        self.write(bar, offset, value.to_le_bytes())
    }
    fn write_u16(&self, bar: u8, offset: u64, value: u16) -> io::Result<()> {
        self.write(bar, offset, value.to_le_bytes())
    }
    fn write_u32(&self, bar: u8, offset: u64, value: u32) -> io::Result<()> {
        self.write(bar, offset, value.to_le_bytes())
    }
}
