//! ARP (RFC 826): who has our address, and who has theirs.

use core::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use crate::egress::Egress;
use crate::ipv4;
use crate::neighbor::Mac;
use crate::network::{BROADCAST, Network};
use crate::time::Instant;

/// Bytes of an ARP packet for Ethernet and IPv4.
const ARP_LEN: usize = 28;

impl Network {
    /// Handles the payload of an ARP frame (RFC 826); true if it takes our address from us.
    pub(crate) fn handle_arp<E: Egress>(&mut self, now: Instant, payload: &[u8], egress: &mut E) -> bool {
        let parsed = ArpPacket::new_checked(payload).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        }) = parsed
        else {
            self.counters.drop_arp_malformed += 1;
            return false;
        };
        let foreign = source_hardware_addr.is_unicast() && source_hardware_addr.0 != self.mac;
        if foreign && self.contest(now, (sender, target), egress) {
            return true;
        }
        let Some(own) = self.address() else { return false };
        // A sender that claims our own addresses or a group's is mistaken or lying. RFC 5227 probes come from 0.0.0.0.
        let plausible = ipv4::is_usable_host(sender) || sender.is_unspecified();
        if !foreign || sender == own || !plausible {
            self.counters.drop_arp_malformed += 1;
            return false;
        }
        let waiting = self.neighbors.learn(now, sender.into(), source_hardware_addr.0);
        let known = waiting.is_some();
        let waiting = waiting.unwrap_or_default();
        self.release_waiting(egress, source_hardware_addr.0, EthernetProtocol::Ipv4, waiting);
        match operation {
            ArpOperation::Request if target == own => {
                self.counters.arp_replies_sent += 1;
                let mac = source_hardware_addr.0;
                self.send_arp(egress, ArpOperation::Reply, own, (mac, sender), mac);
            }
            ArpOperation::Reply if !known => self.counters.drop_arp_unsolicited += 1,
            ArpOperation::Request | ArpOperation::Reply | ArpOperation::Unknown(_) => {}
        }
        false
    }

    pub(crate) fn send_arp_request<E: Egress>(&mut self, egress: &mut E, target: Ipv4Addr, to: Option<Mac>) {
        let Some(own) = self.address() else { return };
        self.counters.arp_requests_sent += 1;
        let mac = to.unwrap_or(BROADCAST);
        self.send_arp(egress, ArpOperation::Request, own, (to.unwrap_or_default(), target), mac);
    }

    pub(crate) fn send_arp<E: Egress>(
        &mut self,
        egress: &mut E,
        operation: ArpOperation,
        sender: Ipv4Addr,
        target: (Mac, Ipv4Addr),
        to: Mac,
    ) {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac),
            source_protocol_addr: sender,
            target_hardware_addr: EthernetAddress(target.0),
            target_protocol_addr: target.1,
        };
        self.transmit(egress, to, EthernetProtocol::Arp, ARP_LEN, |buffer| {
            repr.emit(&mut ArpPacket::new_unchecked(buffer));
            true
        });
    }
}
