//! ARP (RFC 826): who has our addresses, and who has theirs.

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
    /// Handles the payload of an ARP frame (RFC 826); returns the address of ours that it takes from us.
    pub(crate) fn handle_arp<E: Egress>(
        &mut self,
        now: Instant,
        payload: &[u8],
        egress: &mut E,
    ) -> Option<Ipv4Addr> {
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
            return None;
        };
        let foreign = source_hardware_addr.is_unicast() && source_hardware_addr.0 != self.mac;
        if foreign && let Some(lost) = self.contest(now, (sender, target), egress) {
            return Some(lost);
        }
        let routing = self.routing.as_ref()?;
        let (claims_ours, asks_for_ours) = (routing.is_own(sender), routing.is_own(target));
        // A sender that claims our own addresses or a group's is mistaken or lying. RFC 5227 probes come from 0.0.0.0.
        let plausible = ipv4::is_usable_host(sender) || sender.is_unspecified();
        if !foreign || claims_ours || !plausible {
            self.counters.drop_arp_malformed += 1;
            return None;
        }
        let waiting = self.neighbors.learn(now, sender.into(), source_hardware_addr.0);
        let known = waiting.is_some();
        let waiting = waiting.unwrap_or_default();
        self.release_waiting(egress, source_hardware_addr.0, EthernetProtocol::Ipv4, waiting);
        match operation {
            ArpOperation::Request if asks_for_ours => {
                self.counters.arp_replies_sent += 1;
                let mac = source_hardware_addr.0;
                self.send_arp(egress, ArpOperation::Reply, target, (mac, sender), mac);
            }
            ArpOperation::Reply if !known => self.counters.drop_arp_unsolicited += 1,
            ArpOperation::Request | ArpOperation::Reply | ArpOperation::Unknown(_) => {}
        }
        None
    }

    pub(crate) fn send_arp_request<E: Egress>(&mut self, egress: &mut E, target: Ipv4Addr, to: Option<Mac>) {
        let own = self.routing.as_ref().and_then(|routing| routing.source_for(target));
        let Some(own) = own else { return };
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
