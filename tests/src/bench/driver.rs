//! The driver against DPDK's: frames of 64 bytes per second on the same vhost-user device, the two in turn.
//!
//! The device is one testpmd with net_vhost for all rounds of a direction; its forwarding core is core 1, and its own clock and
//! counters say how many frames it received and sent. The driver runs on core 0: ours, which is the loop of this file on
//! the driver's crate without the daemon, or a second testpmd with net_virtio_user.
//!
//! - `tx`: the device swallows what it gets (`rxonly`).
//! - `rx`: the device sends as fast as it can (`txonly`), the driver swallows.
//! - `forward`: each side sends back what it gets (`io`); a fixed number of frames goes round and round.

use super::report::{Console, Report};
use crate::ensure;
use crate::error::{Attempt, Error, Result};
use crate::testpmd::{self, Options, Testpmd};
use netd_virtqueue::{
    NetDevice, Options as DriverOptions, Switches, VhostUser, VhostUserOptions, VhostUserRole,
    VhostUserSocket,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Each driver is measured this often in each cell.
const ROUNDS: usize = 5;
/// Frames are counted for this long.
const WINDOW: Duration = Duration::from_secs(2);
/// What goes before it: both sides reach their pace within milliseconds.
const SETTLE: Duration = Duration::from_millis(300);
/// A frame's length without its checksum, which virtio does not carry: 64 bytes on a wire.
const FRAME_BYTES: usize = 60;
const RING: u16 = 256;
/// Frames per burst, as testpmd has it.
const BURST: usize = 32;
/// Bursts that go round in `forward`: half a ring, so that none is ever dropped for want of room.
const CIRCULATING_BURSTS: usize = 4;

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// From the driver to the device.
    Tx,
    /// From the device to the driver.
    Rx,
    /// Round and round.
    Forward,
}

impl Way {
    const ALL: [Way; 3] = [Way::Tx, Way::Rx, Way::Forward];

    fn device_mode(self) -> &'static str {
        match self {
            Way::Tx => "rxonly",
            Way::Rx => "txonly",
            Way::Forward => "io",
        }
    }

    fn driver_mode(self) -> &'static str {
        match self {
            Way::Tx => "txonly",
            Way::Rx => "rxonly",
            Way::Forward => "io",
        }
    }
}

/// One cell of the table: medians in frames per second.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    /// The layout of both rings.
    pub(super) ring: &'static str,
    /// Which way frames go.
    pub(super) way: Way,
    /// Our driver as netd drives a vhost-user device: frames are copied out and in.
    pub(super) netd: u64,
    /// The same in place, as on a PCI function.
    pub(super) netd_in_place: u64,
    /// DPDK's net_virtio_user.
    pub(super) dpdk: u64,
    /// Ours, copying, by DPDK's.
    pub(super) ratio: f64,
    /// Ours, in place, by DPDK's.
    pub(super) ratio_in_place: f64,
    /// Every round: netd, in place, DPDK.
    pub(super) rounds: Vec<[u64; 3]>,
}

/// Measures every cell, and prints each row as it is there.
pub(super) fn run(console: &Console) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    ensure!(cores >= 2, "the driver and the device need a core each, and there is {cores}");
    console.progress("the driver and DPDK's on a vhost-user device, in millions of frames per second");
    let table =
        console.table(&["ring  ", "frames ", "netd", "in place", "net_virtio_user", "ratio", "in place"]);
    let mut cells = Vec::new();
    for packed in [false, true] {
        for way in Way::ALL {
            let cell = measure(way, packed)?;
            table.row(&row(&cell));
            cells.push(cell);
        }
    }
    console.finish(&Report::new("driver", cells))
}

fn row(cell: &Cell) -> [String; 7] {
    let millions = |rate: u64| format!("{:.2}", rate as f64 / 1e6);
    [
        cell.ring.to_owned(),
        match cell.way {
            Way::Tx => "sent",
            Way::Rx => "received",
            Way::Forward => "forwarded",
        }
        .to_owned(),
        millions(cell.netd),
        millions(cell.netd_in_place),
        millions(cell.dpdk),
        format!("{:.2}", cell.ratio),
        format!("{:.2}", cell.ratio_in_place),
    ]
}

fn measure(way: Way, packed: bool) -> Result<Cell> {
    let directory = testpmd::directory()?;
    let socket = testpmd::socket(directory.path());
    let mut device =
        Testpmd::start("device", directory.path(), &Options::device(&socket, way.device_mode()))?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let netd = with_ours(&mut device, &socket, (way, packed), true)?;
        let in_place = with_ours(&mut device, &socket, (way, packed), false)?;
        let dpdk = with_dpdk(&mut device, directory.path(), &socket, (way, packed))?;
        rounds.push([netd, in_place, dpdk]);
    }
    let [netd, netd_in_place, dpdk] =
        [0, 1, 2].map(|driver| median(rounds.iter().map(|round| round[driver])));
    ensure!(netd > 0 && netd_in_place > 0 && dpdk > 0, "no frames were counted: {rounds:?}");
    let ratio = |rate: u64| rate as f64 / dpdk as f64;
    Ok(Cell {
        ring: if packed { "packed" } else { "split" },
        way,
        netd,
        netd_in_place,
        dpdk,
        ratio: ratio(netd),
        ratio_in_place: ratio(netd_in_place),
        rounds,
    })
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// What the device counts while a driver is at work.
fn count(device: &mut Testpmd, way: Way) -> Result<u64> {
    device.wait_for_link(0, true)?;
    device.command(&match way {
        Way::Forward => format!("start tx_first {CIRCULATING_BURSTS}"),
        Way::Tx | Way::Rx => "start".to_owned(),
    })?;
    thread::sleep(SETTLE);
    device.rates(0)?;
    thread::sleep(WINDOW);
    let rates = device.rates(0)?;
    device.command("stop")?;
    Ok(match way {
        Way::Tx | Way::Forward => rates.received,
        Way::Rx => rates.sent,
    })
}

fn with_dpdk(
    device: &mut Testpmd,
    directory: &Path,
    socket: &Path,
    (way, packed): (Way, bool),
) -> Result<u64> {
    let packed = u8::from(packed);
    let port = format!("net_virtio_user0,path={},queue_size={RING},packed_vq={packed}", socket.display());
    let size = RING.to_string();
    let options = Options {
        devices: vec![port],
        cores: (1, 0),
        arguments: [&format!("--forward-mode={}", way.driver_mode()), "--rxd", &size, "--txd", &size]
            .map(str::to_owned)
            .to_vec(),
    };
    let mut driver = Testpmd::start("driver", directory, &options)?;
    driver.command("start")?;
    let counted = count(device, way)?;
    driver.command("stop")?;
    drop(driver);
    device.wait_for_link(0, false)?;
    Ok(counted)
}

fn with_ours(
    device: &mut Testpmd,
    socket: &Path,
    (way, packed): (Way, bool),
    untrusted: bool,
) -> Result<u64> {
    let driver = Ours::start(socket, way, packed, untrusted)?;
    let counted = count(device, way);
    driver.stop()?;
    device.wait_for_link(0, false)?;
    counted
}

/// Our driver in a loop on core 0.
struct Ours {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Ours {
    fn start(socket: &Path, way: Way, packed: bool, untrusted: bool) -> Result<Ours> {
        let virtio = |error: netd_virtqueue::Error| Error::Expectation(error.to_string());
        let connection =
            VhostUserSocket::new(socket, VhostUserRole::Client).and_then(|socket| socket.connect());
        let options = VhostUserOptions { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, memory_bytes: 4 << 20 };
        let session = VhostUser::open(connection.map_err(virtio)?, &options).map_err(virtio)?;
        let memory = session.memory();
        let mut switches = Switches::default();
        ensure!(switches.set("packed", packed), "packed rings have no switch");
        let options = DriverOptions {
            rx_frames: RING,
            tx_frames: RING,
            untrusted,
            switches,
            ..DriverOptions::default()
        };
        let driver = NetDevice::bring_up(Box::new(session), memory, &options).map_err(virtio)?;
        let rings = driver.info().rings;
        ensure!((rings == "packed") == packed, "the device agreed to {rings} rings");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || drive(driver, way, &flag));
        Ok(Ours { stop, thread })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(Error::Expectation("the driver's thread panicked".to_owned())))
    }
}

fn drive(mut driver: NetDevice, way: Way, stop: &AtomicBool) -> Result<()> {
    let mut core = CpuSet::new();
    core.set(0);
    sched_setaffinity(None, &core).attempt(|| "stay on core 0".to_owned())?;
    let fault = |fault: netd_virtqueue::Fault| Error::Expectation(fault.to_string());
    let mut sink = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        match way {
            Way::Tx => transmit(&mut driver).map_err(fault)?,
            Way::Rx => sink = sink.wrapping_add(receive(&mut driver).map_err(fault)?),
            Way::Forward => forward(&mut driver).map_err(fault)?,
        }
    }
    std::hint::black_box(sink);
    driver.shut_down().map_err(|error| Error::Expectation(error.to_string()))
}

/// One burst, each frame written anew, as testpmd does.
fn transmit(driver: &mut NetDevice) -> std::result::Result<(), netd_virtqueue::Fault> {
    let (_, tx) = driver.queues();
    for _ in 0..BURST {
        let Some(mut frame) = tx.lend(FRAME_BYTES) else { break };
        frame.bytes().copy_from_slice(&TEMPLATE);
        frame.send();
    }
    tx.flush()
}

/// One burst; the first bytes of each frame are read.
fn receive(driver: &mut NetDevice) -> std::result::Result<u64, netd_virtqueue::Fault> {
    let (rx, _) = driver.queues();
    let mut sum = 0_u64;
    rx.poll(BURST, |frame| sum = sum.wrapping_add(frame.first().copied().unwrap_or(0).into()))?;
    Ok(sum)
}

/// One burst, from the receive queue into the transmit queue.
fn forward(driver: &mut NetDevice) -> std::result::Result<(), netd_virtqueue::Fault> {
    let (rx, tx) = driver.queues();
    rx.poll(BURST, |frame| {
        if let Some(mut copy) = tx.lend(frame.len()) {
            copy.bytes().copy_from_slice(frame);
            copy.send();
        }
    })?;
    tx.flush()
}

/// UDP from nobody to nobody, as testpmd's `txonly` sends it but for the numbers.
const TEMPLATE: [u8; FRAME_BYTES] = {
    let mut frame = [0; FRAME_BYTES];
    frame[0] = 2;
    frame[6] = 2;
    frame[11] = 1;
    // IPv4.
    frame[12] = 8;
    frame[14] = 0x45;
    frame
};
