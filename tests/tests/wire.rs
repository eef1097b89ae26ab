//! Streams between two whole machines - stack, driver, software device - over a wire that loses, delays, reorders and duplicates,
//! in virtual time. Every seed replays: what fails names its own.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use netd_softdev::{Impairment, SoftDevice, Wire, WireEnd, create};
use netd_stack::{
    Addressing, Cidr, Config, Egress, FlowId, Instant, Integrity, Left, Limits, ListenerId, Outcome, Stack,
    Static,
};
use netd_virtqueue::{Checksum, NetDevice, Offload, Options, Protocol, Segmentation, Switches, TxQueue};

/// Seeds of each combination in the plain run, and with NETD_LONG set.
const SEEDS: u64 = 200;
const SEEDS_LONG: u64 = 2_000;
/// A stream's bytes in one direction: several windows, so that losses meet a window that moves.
const BYTES: usize = 300_000;
/// Virtual time after which a stream has failed: at 1 % loss the slowest take half a minute.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often both machines turn.
const STEP: Duration = Duration::from_micros(500);

/// A machine and its end of the wire.
struct Machine {
    driver: NetDevice,
    device: SoftDevice<WireEnd>,
    stack: Stack,
}

struct Tx<'a>(&'a mut TxQueue);

impl Egress for Tx<'_> {
    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        self.transmit_leaving(len, |buffer| fill(buffer).then_some(Left::Nothing))
    }

    fn completes_checksums(&self) -> bool {
        self.0.offloads().checksum
    }

    fn long_frame_len(&self, _: bool) -> Option<usize> {
        self.0.long_frame_len().filter(|_| self.0.offloads().tso4)
    }

    fn transmit_leaving(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Option<Left>) -> bool {
        let long = len > self.0.frame_len_max();
        let lent = if long { self.0.lend_long(len) } else { self.0.lend(len) };
        let Some(mut frame) = lent else { return false };
        let Some(left) = fill(frame.bytes()) else { return false };
        let offload = match left {
            Left::Nothing => Offload::NONE,
            Left::Checksum { start, offset } => {
                Offload { checksum: Checksum::Partial { start, offset }, segmentation: None }
            }
            Left::Segments { start, offset, header_len, segment_len, .. } => {
                let segmentation = Segmentation { protocol: Protocol::Tcp4, header_len, segment_len };
                let checksum = Checksum::Partial { start, offset };
                Offload { checksum, segmentation: Some(segmentation) }
            }
        };
        frame.send_for(&offload);
        true
    }
}

/// Offloads that one side leaves alone, each pair of which meets every other over the seeds: what one side leaves to the device is
/// joined, cut or completed for the other.
const LEFT_ALONE: [&[&str]; 5] =
    [&[], &["tx_checksum", "rx_checksum"], &["rx_tso4"], &["tx_tso4"], &["rx_checksum", "packed"]];

impl Machine {
    fn new(host: u8, seed: u64, end: WireEnd) -> Machine {
        let mac = [2, 0, 0, 0, 0, host];
        let (transport, memory, device) = create(mac, 1500, end).unwrap();
        let mut switches = Switches::default();
        let choice = if host == 1 { seed } else { seed / LEFT_ALONE.len() as u64 };
        let alone = LEFT_ALONE[choice as usize % LEFT_ALONE.len()];
        assert!(alone.iter().all(|name| switches.set(name, false)));
        let options = Options { switches, ..Options::default() };
        let driver = NetDevice::bring_up(Box::new(transport), memory, &options).unwrap();
        let fixed =
            Static { cidr: Cidr::new(address(host), 24).unwrap(), gateway: None, mtu: None, dns: Vec::new() };
        let mut secret = [host; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config {
            mac,
            mtu: 1500,
            addressing: Addressing::Static(fixed),
            hostname: None,
            seed: secret,
            limits: Limits::default(),
        };
        Machine { driver, device, stack: Stack::new(config, Instant::ZERO).unwrap() }
    }

    fn turn(&mut self, now: Instant) {
        self.device.poll().unwrap();
        let (rx, tx) = self.driver.queues();
        tx.reclaim();
        let mut egress = Tx(tx);
        rx.receive(256, |frame, offload| {
            let integrity = match offload.checksum {
                Checksum::Complete => Integrity::Unknown,
                Checksum::Verified => Integrity::Verified,
                Checksum::Partial { start, offset } => Integrity::Partial { start, offset },
            };
            self.stack.handle_received(now, (frame, integrity), &mut egress);
        })
        .unwrap();
        self.stack.poll(now, &mut egress);
        while self.stack.next_ready().is_some() {}
        tx.flush().unwrap();
        self.device.poll().unwrap();
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

/// What one end of a stream has sent and received. Both ends send, and finish after their last byte.
struct End {
    flow: FlowId,
    sent: usize,
    received: usize,
    finished: bool,
}

impl End {
    fn new(flow: FlowId) -> End {
        End { flow, sent: 0, received: 0, finished: false }
    }

    /// Sends and receives what there is; panics when a byte is wrong or the end of file comes early.
    fn pump(&mut self, stack: &mut Stack, salt: u8, other_salt: u8, context: &str) {
        while self.sent < BYTES {
            let fill = |room: &mut [u8]| {
                let count = room.len().min(BYTES - self.sent);
                for (offset, byte) in room[..count].iter_mut().enumerate() {
                    *byte = pattern(self.sent + offset, salt);
                }
                count
            };
            match stack.tcp_send(self.flow, fill) {
                Ok(count) if count > 0 => self.sent += count,
                _ => break,
            }
        }
        if self.sent == BYTES && !self.finished {
            self.finished = stack.tcp_finish(self.flow).is_ok();
        }
        let take = |received: &mut usize, bytes: &[u8]| {
            for (offset, byte) in bytes.iter().enumerate() {
                assert_eq!(
                    *byte,
                    pattern(*received + offset, other_salt),
                    "{context}: byte {}",
                    *received + offset
                );
            }
            *received += bytes.len();
            bytes.len()
        };
        while stack
            .tcp_receive(self.flow, |bytes| take(&mut self.received, bytes))
            .is_ok_and(|count| count > 0)
        {}
        if stack.tcp_status(self.flow).unwrap().receive_finished {
            assert_eq!(self.received, BYTES, "{context}: end of file on short data");
        }
    }

    fn closed(&self, stack: &Stack) -> Option<Outcome> {
        stack.tcp_status(self.flow).unwrap().closed
    }
}

fn pattern(at: usize, salt: u8) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 16) as u8 ^ salt
}

/// One stream over one wire. Returns how both ends see its end.
fn stream(impairment: Impairment, seed: u64) -> (Outcome, Outcome) {
    let context = format!("seed {seed}, {impairment:?}");
    let (wire, left, right) = Wire::new(impairment, seed);
    let (mut client, mut server) = (Machine::new(1, seed, left), Machine::new(2, seed, right));
    let (listener, _) = server.stack.tcp_listen(Some(80), 4).unwrap();
    let remote = SocketAddr::from((address(2), 80));
    let mut near = End::new(client.stack.tcp_connect(Instant::ZERO, remote).unwrap());
    let mut far: Option<End> = None;
    let mut elapsed = Duration::ZERO;
    while elapsed < PATIENCE {
        elapsed += STEP;
        wire.advance_to(elapsed);
        let now = Instant::from_micros(elapsed.as_micros() as u64);
        client.turn(now);
        server.turn(now);
        near.pump(&mut client.stack, 1, 2, &context);
        far = far.or_else(|| accept(&mut server.stack, listener));
        let Some(far) = &mut far else {
            if let Some(outcome) = near.closed(&client.stack) {
                return (outcome, outcome);
            }
            continue;
        };
        far.pump(&mut server.stack, 2, 1, &context);
        if let (Some(outcome), Some(other)) = (near.closed(&client.stack), far.closed(&server.stack)) {
            if [outcome, other].contains(&Outcome::Finished) {
                // One end knows that all arrived: what it sent was acknowledged, and the other's end of file came.
                assert_eq!(
                    (near.received, far.received),
                    (BYTES, BYTES),
                    "{context}: finished on short data"
                );
            }
            return (outcome, other);
        }
    }
    (Outcome::TimedOut, Outcome::TimedOut)
}

fn accept(stack: &mut Stack, listener: ListenerId) -> Option<End> {
    stack.tcp_accept(listener).unwrap().map(End::new)
}

/// Every combination of loss, reordering and duplication at one rate.
fn combinations(rate: f64) -> impl Iterator<Item = Impairment> {
    let of = move |on: bool| if on { rate } else { 0.0 };
    (0..8).map(move |bits: u8| Impairment {
        loss: of(bits & 1 != 0),
        reordering: of(bits & 2 != 0),
        duplication: of(bits & 4 != 0),
        reordering_delay: Duration::from_millis(3),
        delay: Duration::from_millis(1),
    })
}

fn seeds() -> u64 {
    if std::env::var_os("NETD_LONG").is_some() { SEEDS_LONG } else { SEEDS }
}

#[test]
fn perfect_wire_finishes_every_stream() {
    for seed in 0..seeds() {
        let perfect = Impairment { delay: Duration::from_millis(1), ..Impairment::default() };
        assert_eq!(stream(perfect, seed), (Outcome::Finished, Outcome::Finished), "seed {seed}");
    }
}

#[test]
fn one_percent_of_everything_finishes_every_stream() {
    for seed in 0..seeds() {
        for impairment in combinations(0.01) {
            let outcome = stream(impairment, seed);
            assert_eq!(outcome, (Outcome::Finished, Outcome::Finished), "seed {seed}, {impairment:?}");
        }
    }
}

#[test]
fn five_percent_of_everything_fails_streams_by_time_out_only() {
    for seed in 0..seeds() {
        for impairment in combinations(0.05) {
            let (near, far) = stream(impairment, seed);
            // Three solicitations for the peer's address timed out (RFC 4861, 7.2.2, for ARP too) before there was a stream.
            if (near, far) == (Outcome::Unreachable, Outcome::Unreachable) {
                continue;
            }
            // An end that timed out may tell the other with a reset, and so does one whose TIME-WAIT is over (ten seconds, docs/rfc.md,
            // MUST-13) when its last acknowledgements were lost.
            let fits = |end| matches!(end, Outcome::Finished | Outcome::TimedOut);
            let told = |one, other| fits(one) && (fits(other) || other == Outcome::ConnectionReset);
            assert!(told(near, far) || told(far, near), "seed {seed}, {impairment:?}: {near:?}, {far:?}");
        }
    }
}
