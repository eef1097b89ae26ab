//! smoltcp as it is meant to be used, with all sockets in one set: what the stack is measured against.
#![expect(
    clippy::expect_used,
    reason = "a benchmark whose steps fail has measured nothing; each says what it relies on"
)]

use std::hint::black_box;

use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, TcpControl};

use super::account::thread_time;
use super::flows::{SEGMENTS, SEGMENTS_PER_FLOW, nanoseconds, traffic};
use super::frames::{ETHERNET, GATEWAY, OURS, PORT, Peer, sent};

/// A device of one frame each way.
#[derive(Default)]
struct Slot {
    incoming: Option<Vec<u8>>,
    outgoing: Option<Vec<u8>>,
    sent: usize,
}

struct Incoming(Vec<u8>);

struct Outgoing<'a>(&'a mut Slot);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.outgoing = Some(packet);
        self.0.sent += 1;
        result
    }
}

impl Device for Slot {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        self.incoming.take().map(|packet| (Incoming(packet), Outgoing(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// One segment in with its acknowledgement out, and `poll_at`, with `flows` established connections; nanoseconds.
pub(super) fn measure(flows: usize) -> (f64, f64) {
    let now = smoltcp::time::Instant::from_micros(0);
    let mut slot = Slot::default();
    let mut interface = Interface::new(smoltcp::iface::Config::new(HardwareAddress::Ip), &mut slot, now);
    interface.update_ip_addrs(|addresses| {
        // One address fits: the list has room for several.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(OURS), 24));
    });
    // The table is fresh, so there is room for a default route.
    let _ = interface.routes_mut().add_default_ipv4_route(GATEWAY);
    let mut sockets = SocketSet::new(Vec::new());
    let mut peers: Vec<Peer> = (0..flows).map(Peer::new).collect();
    for peer in &mut peers {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        socket.listen(PORT).expect("the port is not 0");
        sockets.add(socket);
        slot.incoming = Some(peer.frame(TcpControl::Syn, &[])[ETHERNET..].to_vec());
        interface.poll_ingress_single(now, &mut slot, &mut sockets);
        interface.poll_egress(now, &mut slot, &mut sockets);
        let answer = slot.outgoing.take().and_then(|packet| sent(&packet));
        peer.hear(&answer.expect("a SYN is answered"));
        peer.sequence = peer.sequence.wrapping_add(1);
        slot.incoming = Some(peer.frame(TcpControl::None, &[])[ETHERNET..].to_vec());
        interface.poll_ingress_single(now, &mut slot, &mut sockets);
    }
    let steps = (SEGMENTS / flows.max(1)).clamp(2_000, SEGMENTS_PER_FLOW);
    let mut frames = traffic(&mut peers, steps);
    let before = slot.sent;
    let start = thread_time();
    for frame in &mut frames {
        frame.drain(..ETHERNET);
        slot.incoming = Some(std::mem::take(frame));
        interface.poll_ingress_single(now, &mut slot, &mut sockets);
        interface.poll_egress(now, &mut slot, &mut sockets);
    }
    let packet = nanoseconds(start, steps);
    assert_eq!(slot.sent - before, steps, "every segment is acknowledged");
    let start = thread_time();
    for _ in 0..steps {
        black_box(interface.poll_at(now, &sockets));
    }
    (packet, nanoseconds(start, steps))
}
