//! A DHCP server that says anything, to a client that may have asked it.

use core::net::Ipv4Addr;
use core::time::Duration;

use netd_stack::{AddressState, Addressing, Lease, Options};

use super::{check, wait};
use crate::input::Input;
use crate::support::{A, MAC_A, Queue, Scripted, config, ip_packets, udp_between};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OFFERED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

/// Steps: a message `{ 0..6, type u8, address u8, options len u16 }`, a wait, anything else as a message that is right but for
/// one byte.
pub fn dhcp4(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let mut config = config(MAC_A, A);
    config.addressing = Addressing::Dhcp { fallback: None, timeout: Duration::from_secs(10) };
    let mut peer = Scripted::with_options(config, Options::default());
    peer.poll();
    let mut transaction = [0; 4];
    while let Some(step) = input.u8() {
        if let Some(last) = last_transaction(&peer.queue) {
            transaction = last;
        }
        check(&mut peer);
        match step % 8 {
            0..6 => {
                let (kind, address) = (input.u8()?, input.u8()?);
                let offered = if address & 1 == 0 { OFFERED } else { input.u32()?.into() };
                let options = input.long()?;
                let mut message = message(transaction, offered, kind % 10, options);
                if step & 0x80 != 0 {
                    let (at, value) = (input.u16()?, input.u8()?);
                    let at = usize::from(at) % message.len();
                    message[at] = value;
                }
                peer.frame(&udp_between((SERVER, 67), (OFFERED, 68), &message));
            }
            _ => wait(&mut peer, input.u8()?),
        }
        if let AddressState::Bound(lease) = peer.stack.lease() {
            plausible(&lease);
        }
    }
    Some(())
}

/// A lease that was taken is one that can be used.
fn plausible(lease: &Lease) {
    let address = lease.cidr.address();
    assert!(
        !address.is_unspecified()
            && !address.is_broadcast()
            && !address.is_multicast()
            && !address.is_loopback()
    );
    assert!(lease.mtu.is_none_or(|mtu| mtu >= netd_stack::MTU_MIN));
    // As many routes as the routing table takes: option 121 may come in several pieces (RFC 3396).
    assert!(lease.dns.len() <= 8 && lease.routes.len() <= 64, "{lease:?}");
}

/// The transaction of the client's last message.
fn last_transaction(queue: &Queue) -> Option<[u8; 4]> {
    let packets = ip_packets(&queue.frames, smoltcp::wire::IpProtocol::Udp);
    packets.last().and_then(|(_, packet)| packet.get(32..36)?.try_into().ok())
}

/// BOOTREPLY with this message type, our server's name, and these options behind it (RFC 2131, 2).
fn message(transaction: [u8; 4], offered: Ipv4Addr, kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0];
    message.extend(transaction);
    message.extend([0; 8]);
    message.extend(offered.octets());
    message.extend(SERVER.octets());
    message.extend([0; 4]);
    message.extend(MAC_A);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 54, 4]);
    message.extend(SERVER.octets());
    message.extend_from_slice(options);
    message
}
