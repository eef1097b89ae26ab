//! The stack, and hosts on its link that say anything. All run in virtual time, with the scripted peer of the stack's own scenarios.

mod dhcp4;
mod dhcp6;
mod fragments;
mod frames;
mod icmp;
mod nd;
mod tcp;
mod wire;

pub use dhcp4::dhcp4;
pub use dhcp6::dhcp6;
pub use fragments::fragments;
pub use frames::frames;
pub use icmp::icmp;
pub use nd::nd;
pub use tcp::tcp;

use core::net::Ipv6Addr;
use core::time::Duration;

use crate::support::Scripted;

/// The link-local addresses that the two hardware addresses make.
const A6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// How long a step may wait, from a moment to beyond every retry.
const WAITS: [Duration; 8] = [
    Duration::from_micros(1),
    Duration::from_millis(1),
    Duration::from_millis(50),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(20),
    Duration::from_secs(130),
];

fn wait(peer: &mut Scripted, how_long: u8) {
    peer.advance(WAITS[usize::from(how_long) % WAITS.len()]);
}

/// What holds whatever arrived: no connection's engine failed, every table is within its bounds, and every frame that was sent
/// is a right one.
fn check(peer: &mut Scripted) {
    let stack = &peer.stack;
    assert_eq!(stack.counters().tcp_engine_faults, 0, "the guard let something through");
    let limits = netd_stack::Limits::default();
    assert!(stack.neighbors().count() <= limits.neighbors);
    // Sixteen of IPv6 and one of IPv4; on-link prefixes, routes, and routers.
    assert!(stack.addresses().count() <= 17, "{:?}", stack.addresses().collect::<Vec<_>>());
    for frame in peer.queue.take() {
        wire::verify(&frame);
    }
}
