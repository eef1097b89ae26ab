//! Time servers that say anything, and who forges them: no clock is confirmed by what the server did not say, and no server is asked
//! more often than it likes.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::Instant;
use netd_stack::sntp::{Client, Transmit, Verdict};

use crate::input::Input;

/// What the clock in question says at the beginning; some day in 2026.
const WALL: Duration = Duration::from_secs(1_795_000_000);
const TOLERANCE: Duration = Duration::from_secs(60);
const SERVERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];
/// RFC 4330, 10.
const PAUSE_MIN: Duration = Duration::from_secs(15);

struct Script {
    client: Client,
    now: Instant,
    /// Whether anything repeated the nonce, so that the server may have said it.
    answered: bool,
    /// The request under way.
    asked: Option<(u64, SocketAddr, Vec<u8>)>,
    /// When each server was asked last.
    last: [Option<Instant>; 2],
}

/// Steps: wait; a reply, its header, root and timestamps from the script, with the nonce or without; raw bytes; an error; other servers.
pub fn sntp(data: &[u8]) {
    let mut client = Client::new(TOLERANCE, &[7; 32]);
    client.set_servers(Instant::ZERO, &SERVERS);
    client.set_wanted(Instant::ZERO, true);
    let mut script = Script { client, now: Instant::ZERO, answered: false, asked: None, last: [None; 2] };
    let mut input = Input::new(data);
    script.collect();
    while script.step(&mut input).is_some() {
        script.collect();
        if !script.answered {
            assert!(
                !matches!(script.verdict(), Verdict::Confirmed { .. } | Verdict::Differs { .. }),
                "nobody who saw the request has said anything"
            );
        }
    }
}

impl Script {
    fn wall(&self) -> Duration {
        WALL + self.now.saturating_duration_since(Instant::ZERO)
    }

    fn verdict(&self) -> Verdict {
        self.client.verdict(self.now, self.wall())
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let step = input.u8()?;
        match step % 8 {
            0 => self.now = self.now + Duration::from_millis(u64::from(input.u16()?) * 100),
            1 => {
                let socket = self.asked.as_ref().map_or(0, |(socket, ..)| *socket);
                self.client.handle_error(self.now, socket);
            }
            2 => self.deliver(step & 0x80 != 0, input.short()?),
            3 => {
                let count = usize::from(step >> 3) % 3;
                self.client.set_servers(self.now, &SERVERS[..count]);
            }
            _ => {
                let mut packet = vec![0; 48];
                packet[..4].copy_from_slice(&input.u32()?.to_le_bytes());
                packet[4..8].copy_from_slice(&u32::from(input.u16()?).to_be_bytes());
                packet[8..12].copy_from_slice(&u32::from(input.u16()?).to_be_bytes());
                packet[12..16].copy_from_slice(&input.u32()?.to_le_bytes());
                for at in [32, 40] {
                    packet[at..at + 8].copy_from_slice(&input.u64()?.to_le_bytes());
                }
                if let Some((_, _, payload)) = self.asked.as_ref().filter(|_| step & 0x80 != 0) {
                    packet[24..32].copy_from_slice(&payload[40..]);
                }
                self.deliver(step & 0x40 == 0, &packet);
            }
        }
        Some(())
    }

    fn deliver(&mut self, from_server: bool, bytes: &[u8]) {
        let Some((socket, server, payload)) = self.asked.clone() else { return };
        // The fuzzer reads comparisons, and may find the nonce out as nobody off the path can.
        self.answered |= bytes.get(24..32) == payload.get(40..48);
        let from = if from_server { server } else { SocketAddr::from(([203, 0, 113, 9], 123)) };
        self.client.handle_datagram(self.now, self.wall(), socket, from, bytes);
    }

    fn collect(&mut self) {
        self.client.poll(self.now, self.wall());
        while let Some(transmit) = self.client.poll_transmit() {
            match transmit {
                Transmit::Send { socket, server, payload } => {
                    assert_ne!(payload[40..], [0; 8], "a nonce that anybody guesses");
                    let index = usize::from(server.ip() == SERVERS[1]);
                    let pause = self.last[index].map(|at| self.now.saturating_duration_since(at));
                    assert!(pause.is_none_or(|pause| pause >= PAUSE_MIN), "asked again after {pause:?}");
                    self.last[index] = Some(self.now);
                    self.asked = Some((socket, server, payload.to_vec()));
                }
                Transmit::Close { socket } => {
                    self.asked.take_if(|(asked, ..)| *asked == socket);
                }
            }
        }
    }
}
