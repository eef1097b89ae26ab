//! The driver on vhost-user devices that others wrote: DPDK's testpmd and Open vSwitch.

use netd_tests::testpmd::{self, Options, Testpmd};
use netd_tests::{Error, Result, ensure};
use netd_virtqueue::{
    NetDevice, Options as DriverOptions, Switches, VhostUser, VhostUserOptions, VhostUserRole,
    VhostUserSocket,
};
use std::path::Path;
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x76, 0x68, 1];
const LIMIT: Duration = Duration::from_secs(60);
/// The largest frame of jumbo Ethernet, whose MTU is 9000.
const FRAME_BYTES_MAX: usize = 9014;
/// An Ethertype for experiments (IEEE 802, 9.2.3), so that nobody takes the bytes for anything.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn expectation(error: impl std::fmt::Display) -> Error {
    Error::Expectation(error.to_string())
}

/// Our driver on the device behind `socket`, with split or packed rings.
fn driver(socket: &Path, packed: bool) -> Result<NetDevice> {
    let connection = VhostUserSocket::new(socket, VhostUserRole::Client)
        .and_then(|socket| socket.connect())
        .map_err(expectation)?;
    let options = VhostUserOptions { mac: MAC, mtu: 9000, memory_bytes: 8 << 20 };
    let session = VhostUser::open(connection, &options).map_err(expectation)?;
    let memory = session.memory();
    let mut switches = Switches::default();
    ensure!(switches.set("packed", packed), "packed rings have no switch");
    let options = DriverOptions { untrusted: true, switches, ..DriverOptions::default() };
    let driver = NetDevice::bring_up(Box::new(session), memory, &options).map_err(expectation)?;
    let rings = driver.info().rings;
    ensure!((rings == "packed") == packed, "the device agreed to {rings} rings");
    Ok(driver)
}

/// A frame of `len` bytes that can be told from every other.
fn frame(len: usize, number: u32) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&[0x52, 0x54, 0, 0x76, 0x68, 2]);
    frame[6..12].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    fastrand::Rng::with_seed(u64::from(number)).fill(&mut frame[18..]);
    frame
}

fn send(driver: &mut NetDevice, bytes: &[u8]) -> Result<()> {
    let (_, tx) = driver.queues();
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let sent = tx.lend(bytes.len()).map(|mut lent| {
            lent.bytes().copy_from_slice(bytes);
            lent.send();
        });
        if sent.is_some() {
            return tx.flush().map_err(expectation);
        }
        std::thread::yield_now();
    }
    Err(expectation("no transmit buffer came free"))
}

/// Sends each frame and waits for it to come back.
fn echo(driver: &mut NetDevice, frames: &[Vec<u8>]) -> Result<()> {
    for sent in frames {
        send(driver, sent)?;
        let deadline = Instant::now() + LIMIT;
        let mut back: Option<Vec<u8>> = None;
        while back.is_none() {
            ensure!(Instant::now() < deadline, "a frame of {} bytes did not come back", sent.len());
            let (rx, _) = driver.queues();
            rx.poll(1, |frame| back = Some(frame.to_vec())).map_err(expectation)?;
        }
        ensure!(back.as_ref() == Some(sent), "a frame of {} bytes came back changed", sent.len());
    }
    Ok(())
}

#[test]
#[ignore = "installs DPDK: cargo xtask test"]
fn frames_of_every_size_come_back_unchanged_from_a_forwarding_device() -> Result<()> {
    let directory = testpmd::directory()?;
    let socket = testpmd::socket(directory.path());
    let mut device = Testpmd::start("device", directory.path(), &Options::device(&socket, "io"))?;
    let sizes =
        (60..200).chain((200..FRAME_BYTES_MAX).step_by(97)).chain([1514, 2036, 2037, 4084, FRAME_BYTES_MAX]);
    let frames: Vec<_> = sizes.zip(1..).map(|(len, number)| frame(len, number)).collect();
    // One device, one session after the other.
    for packed in [false, true] {
        let mut driver = driver(&socket, packed)?;
        device.wait_for_link(0, true)?;
        device.command("start")?;
        let echoed = echo(&mut driver, &frames);
        echoed.map_err(|error| expectation(format!("packed {packed}: {error}\n{}", device.output())))?;
        let (received, sent) = driver.counters();
        ensure!(received.frames == frames.len() as u64, "received {received:?}");
        ensure!(received.merged > 0, "no frame came in several buffers: {received:?}");
        ensure!(sent.exhausted == 0, "sent {sent:?}");
        device.command("stop")?;
        driver.shut_down().map_err(expectation)?;
        device.wait_for_link(0, false)?;
    }
    Ok(())
}

/// How many frames are on their way at once.
const WINDOW: u32 = 64;
/// Frames sent before and after the device is killed.
const FRAMES_BEFORE: u32 = 20_000;

/// Keeps [`WINDOW`] frames on their way until `until` were sent or the device fails; counts what comes back by its number.
fn pump(driver: &mut NetDevice, sent: &mut u32, until: u32, back: &mut Vec<u32>) -> Result<()> {
    let lost_before = *sent - back.len() as u32;
    let deadline = Instant::now() + LIMIT;
    loop {
        let on_their_way = *sent - lost_before - back.len() as u32;
        if *sent == until && on_their_way == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{on_their_way} of {} frames did not come back", *sent);
        let (rx, tx) = driver.queues();
        if *sent < until && on_their_way < WINDOW {
            let bytes = frame(60, *sent);
            if let Some(mut lent) = tx.lend(bytes.len()) {
                lent.bytes().copy_from_slice(&bytes);
                lent.send();
                *sent += 1;
            }
        }
        tx.flush().map_err(expectation)?;
        rx.poll(WINDOW as usize, |frame| {
            let number = frame.get(14..18).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            back.push(number.unwrap_or(u32::MAX));
        })
        .map_err(expectation)?;
        driver.check_health().map_err(expectation)?;
    }
}

#[test]
#[ignore = "installs DPDK: cargo xtask test"]
fn device_killed_under_load_and_started_again_loses_nothing_but_what_was_in_flight() -> Result<()> {
    let directory = testpmd::directory()?;
    let socket = testpmd::socket(directory.path());
    let options = Options::device(&socket, "io");
    let (mut sent, mut back) = (0, Vec::new());

    let mut device = Testpmd::start("first", directory.path(), &options)?;
    let mut first = driver(&socket, false)?;
    device.wait_for_link(0, true)?;
    device.command("start")?;
    pump(&mut first, &mut sent, FRAMES_BEFORE, &mut back)?;
    let killer = std::thread::spawn(move || device.kill());
    let failure = pump(&mut first, &mut sent, u32::MAX, &mut back).err().map(|error| error.to_string());
    killer.join().map_err(|_| expectation("the killer panicked"))?;
    ensure!(failure.as_deref().is_some_and(|text| text.contains("is gone")), "it failed by {failure:?}");
    let in_flight = sent - back.len() as u32;
    ensure!(in_flight <= WINDOW, "{in_flight} frames were in flight");
    // Its memory is gone with the session; what the driver still counts as unsent is part of what was in flight.
    let unsent = u32::from(first.unsent());
    ensure!(unsent <= in_flight, "{unsent} unsent, {in_flight} in flight");
    first.shut_down().map_err(expectation)?;

    std::fs::remove_file(&socket).map_err(expectation)?;
    let mut device = Testpmd::start("second", directory.path(), &options)?;
    let mut second = driver(&socket, false)?;
    device.wait_for_link(0, true)?;
    device.command("start")?;
    let until = sent + FRAMES_BEFORE;
    pump(&mut second, &mut sent, until, &mut back)?;
    let mut seen = back.clone();
    seen.sort_unstable();
    seen.dedup();
    ensure!(seen.len() == back.len(), "a frame came twice");
    ensure!(
        seen.len() as u32 == sent - in_flight,
        "{} of {sent} frames came back, {in_flight} were lost",
        seen.len()
    );
    second.shut_down().map_err(expectation)
}
