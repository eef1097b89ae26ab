//! The stack as its caller sees it: two stacks on a wire, or one stack and a peer that says what a test writes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test's helper a failure is the test's failure")]

mod conflicts;
mod dhcp;
mod dhcp6;
mod fragments;
mod hairpin;
mod hostile;
mod ipv6;
mod limits;
mod link;
mod offloads;
mod rfc1122;
mod rfc9293;
mod several;
mod sockets;
mod support;
mod tcp;
