//! Routers, neighbours and multicast queriers that say anything: ICMPv6 on the link, with everything around it right.

use core::net::Ipv6Addr;
use core::time::Duration;

use netd_stack::{Options, Stack};

use super::{A6, ALL_NODES, B6, check, wait};
use crate::input::Input;
use crate::support::{A, MAC_A, Scripted, config, icmp6};

/// On-link prefixes, routes of routers, default routers and IPv4's, as `netctl routes` would list them.
const ROUTES_MAX: usize = 64;

/// Router and neighbour messages, redirect, MLD query and report.
const TYPES: [u8; 8] = [133, 134, 134, 135, 136, 137, 130, 143];

/// `{ kind u8, how u8, body len u16 }` or a wait.
pub fn nd(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let mut peer = Scripted::with_options(config(MAC_A, A), Options::default());
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.advance(Duration::from_secs(3));
    while let Some(step) = input.u8() {
        match step % 10 {
            kind @ 0..8 => {
                let how = input.u8()?;
                let body = input.long()?;
                peer.frame(&message(TYPES[usize::from(kind)], how, body));
            }
            8 => {
                // Makes neighbours, resolves and probes.
                let to = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, input.u8()?.into()), 7).into();
                let _refused = peer.stack.udp_send(peer.now, socket, to, None, b"hello", &mut peer.queue);
            }
            _ => wait(&mut peer, input.u8()?),
        }
        peer.poll();
        within_bounds(&peer.stack);
        check(&mut peer);
    }
    Some(())
}

fn message(kind: u8, how: u8, body: &[u8]) -> Vec<u8> {
    let source = match how & 3 {
        0 | 1 => B6,
        2 => Ipv6Addr::UNSPECIFIED,
        _ => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, (how >> 4).into()),
    };
    let destination = match how >> 2 & 3 {
        0 | 1 => ALL_NODES,
        2 => A6,
        _ => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1),
    };
    let hop_limit = match kind {
        // RFC 2710, 3 and RFC 4861, 6.1.2.
        130 | 143 => 1,
        _ => 255,
    };
    icmp6((source, destination), hop_limit, (kind, 0), body)
}

fn within_bounds(stack: &Stack) {
    assert!(stack.routes().count() <= ROUTES_MAX, "{} routes", stack.routes().count());
}
