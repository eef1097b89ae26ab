//! Feature negotiation: what the device offers, what we accept, and why.

use serde::Serialize;

use crate::Error;

/// A feature bit of virtio-net or of virtio itself, with the specification's name and section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    bit: u8,
    name: &'static str,
}

impl Feature {
    /// The device completes checksums of what is sent (virtio 1.3, 5.1.3).
    pub const CSUM: Feature = Feature::new(0, "VIRTIO_NET_F_CSUM");
    /// What is received may lack its checksum, or come with one that was verified (5.1.3).
    pub const GUEST_CSUM: Feature = Feature::new(1, "VIRTIO_NET_F_GUEST_CSUM");
    /// What the device does to received frames can be switched while it runs (5.1.6.5.6).
    pub const CTRL_GUEST_OFFLOADS: Feature = Feature::new(2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS");
    /// The device joins received segments of TCP over IPv4 (5.1.3).
    pub const GUEST_TSO4: Feature = Feature::new(7, "VIRTIO_NET_F_GUEST_TSO4");
    /// The device joins received segments of TCP over IPv6 (5.1.3).
    pub const GUEST_TSO6: Feature = Feature::new(8, "VIRTIO_NET_F_GUEST_TSO6");
    /// The device cuts segments of TCP over IPv4 (5.1.3).
    pub const HOST_TSO4: Feature = Feature::new(11, "VIRTIO_NET_F_HOST_TSO4");
    /// The device cuts segments of TCP over IPv6 (5.1.3).
    pub const HOST_TSO6: Feature = Feature::new(12, "VIRTIO_NET_F_HOST_TSO6");
    /// The device gives its MAC address (virtio 1.3, 5.1.3).
    pub const MAC: Feature = Feature::new(5, "VIRTIO_NET_F_MAC");
    /// Received frames may span several buffers; headers count them (5.1.3).
    pub const MRG_RXBUF: Feature = Feature::new(15, "VIRTIO_NET_F_MRG_RXBUF");
    /// The device tells the link's state (5.1.3).
    pub const STATUS: Feature = Feature::new(16, "VIRTIO_NET_F_STATUS");
    /// The device tells the largest MTU (5.1.3).
    pub const MTU: Feature = Feature::new(3, "VIRTIO_NET_F_MTU");
    /// The header of a frame may share a descriptor with its bytes, on legacy devices (6.3).
    pub const ANY_LAYOUT: Feature = Feature::new(27, "VIRTIO_F_ANY_LAYOUT");
    /// Doorbells and interrupts are asked for at an index (2.7.7, 2.7.10).
    pub const EVENT_IDX: Feature = Feature::new(29, "VIRTIO_F_EVENT_IDX");
    /// A control queue takes commands (5.1.6.5).
    pub const CTRL_VQ: Feature = Feature::new(17, "VIRTIO_NET_F_CTRL_VQ");
    /// The control queue can filter what is received (5.1.6.5.1).
    pub const CTRL_RX: Feature = Feature::new(18, "VIRTIO_NET_F_CTRL_RX");
    /// Several queue pairs (5.1.3).
    pub const MQ: Feature = Feature::new(22, "VIRTIO_NET_F_MQ");
    /// A buffer may be a table of descriptors (2.7.5.3, 2.8.7).
    pub const INDIRECT_DESC: Feature = Feature::new(28, "VIRTIO_F_INDIRECT_DESC");
    /// Packed virtqueues (2.8).
    pub const RING_PACKED: Feature = Feature::new(34, "VIRTIO_F_RING_PACKED");
    /// Buffers are used in the order in which they were made available (2.7.9, 2.8.9).
    pub const IN_ORDER: Feature = Feature::new(35, "VIRTIO_F_IN_ORDER");
    /// Doorbells carry the driver's position in the ring (2.9).
    pub const NOTIFICATION_DATA: Feature = Feature::new(38, "VIRTIO_F_NOTIFICATION_DATA");
    /// A single queue can be reset (2.6.1).
    pub const RING_RESET: Feature = Feature::new(40, "VIRTIO_F_RING_RESET");
    /// The device follows virtio 1.0 or later (6.1).
    pub const VERSION_1: Feature = Feature::new(32, "VIRTIO_F_VERSION_1");
    /// The device obeys the platform's IOMMU (6.1).
    pub const ACCESS_PLATFORM: Feature = Feature::new(33, "VIRTIO_F_ACCESS_PLATFORM");

    const fn new(bit: u8, name: &'static str) -> Self {
        Self { bit, name }
    }

    /// The bit's mask.
    pub const fn mask(self) -> u64 {
        1 << self.bit
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

/// Names of every bit that a virtio-net device may offer (virtio 1.3, 5.1.3 and 6), for people to read.
const NAMES: &[(u8, &str)] = &[
    (0, "VIRTIO_NET_F_CSUM"),
    (1, "VIRTIO_NET_F_GUEST_CSUM"),
    (2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS"),
    (3, "VIRTIO_NET_F_MTU"),
    (5, "VIRTIO_NET_F_MAC"),
    (6, "VIRTIO_NET_F_GSO"),
    (7, "VIRTIO_NET_F_GUEST_TSO4"),
    (8, "VIRTIO_NET_F_GUEST_TSO6"),
    (9, "VIRTIO_NET_F_GUEST_ECN"),
    (10, "VIRTIO_NET_F_GUEST_UFO"),
    (11, "VIRTIO_NET_F_HOST_TSO4"),
    (12, "VIRTIO_NET_F_HOST_TSO6"),
    (13, "VIRTIO_NET_F_HOST_ECN"),
    (14, "VIRTIO_NET_F_HOST_UFO"),
    (15, "VIRTIO_NET_F_MRG_RXBUF"),
    (16, "VIRTIO_NET_F_STATUS"),
    (17, "VIRTIO_NET_F_CTRL_VQ"),
    (18, "VIRTIO_NET_F_CTRL_RX"),
    (19, "VIRTIO_NET_F_CTRL_VLAN"),
    (20, "VIRTIO_NET_F_CTRL_RX_EXTRA"),
    (21, "VIRTIO_NET_F_GUEST_ANNOUNCE"),
    (22, "VIRTIO_NET_F_MQ"),
    (23, "VIRTIO_NET_F_CTRL_MAC_ADDR"),
    (24, "VIRTIO_F_NOTIFY_ON_EMPTY"),
    (27, "VIRTIO_F_ANY_LAYOUT"),
    (28, "VIRTIO_F_INDIRECT_DESC"),
    (29, "VIRTIO_F_EVENT_IDX"),
    (32, "VIRTIO_F_VERSION_1"),
    (33, "VIRTIO_F_ACCESS_PLATFORM"),
    (34, "VIRTIO_F_RING_PACKED"),
    (35, "VIRTIO_F_IN_ORDER"),
    (36, "VIRTIO_F_ORDER_PLATFORM"),
    (37, "VIRTIO_F_SR_IOV"),
    (38, "VIRTIO_F_NOTIFICATION_DATA"),
    (39, "VIRTIO_F_NOTIF_CONFIG_DATA"),
    (40, "VIRTIO_F_RING_RESET"),
    (41, "VIRTIO_F_ADMIN_VQ"),
    (52, "VIRTIO_NET_F_DEVICE_STATS"),
    (53, "VIRTIO_NET_F_VQ_NOTF_COAL"),
    (54, "VIRTIO_NET_F_NOTF_COAL"),
    (55, "VIRTIO_NET_F_GUEST_USO4"),
    (56, "VIRTIO_NET_F_GUEST_USO6"),
    (57, "VIRTIO_NET_F_HOST_USO"),
    (58, "VIRTIO_NET_F_HASH_REPORT"),
    (60, "VIRTIO_NET_F_GUEST_HDRLEN"),
    (61, "VIRTIO_NET_F_RSS"),
    (62, "VIRTIO_NET_F_RSC_EXT"),
    (63, "VIRTIO_NET_F_STANDBY"),
];

/// What became of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The specification's name, or `bit N`.
    pub name: String,
    /// The bit's number.
    pub bit: u8,
    /// Whether we accepted it.
    pub accepted: bool,
    /// Why.
    pub reason: &'static str,
}

/// The result of negotiating: the accepted set, and a choice for each bit that was offered or wanted.
#[derive(Debug, Clone, Serialize)]
pub struct Negotiation {
    /// Every bit that the device offers.
    pub offered: u64,
    /// The bits that we accept.
    pub accepted: u64,
    /// What became of each, lowest bit first.
    pub choices: Vec<Choice>,
}

/// What the circumstances demand of a negotiation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// The transport can only speak virtio 1.0 or later.
    pub modern: bool,
    /// Descriptors carry IOVAs that an IOMMU translates.
    pub translated: bool,
    /// What the operator does not want.
    pub off: Switches,
}

/// The features that can be switched off, by the names of configuration. Those that are not here are needed wherever they are offered.
pub(crate) const SWITCHES: &[(&str, Feature)] = &[
    ("tx_checksum", Feature::CSUM),
    ("tx_tso4", Feature::HOST_TSO4),
    ("tx_tso6", Feature::HOST_TSO6),
    ("rx_checksum", Feature::GUEST_CSUM),
    ("rx_tso4", Feature::GUEST_TSO4),
    ("rx_tso6", Feature::GUEST_TSO6),
    ("rx_offload_control", Feature::CTRL_GUEST_OFFLOADS),
    ("merged_buffers", Feature::MRG_RXBUF),
    ("control_queue", Feature::CTRL_VQ),
    ("rx_filter", Feature::CTRL_RX),
    ("indirect", Feature::INDIRECT_DESC),
    ("event_idx", Feature::EVENT_IDX),
    ("packed", Feature::RING_PACKED),
    ("in_order", Feature::IN_ORDER),
    ("notification_data", Feature::NOTIFICATION_DATA),
    ("ring_reset", Feature::RING_RESET),
];

/// Features that are declined though they are offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    off: u64,
}

impl Switches {
    /// Every feature that can be switched, by its name in configuration.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SWITCHES.iter().map(|(name, _)| *name)
    }

    /// Whether any offload may be used: the two checksums are what all the others need.
    pub fn allow_offloads(&self) -> bool {
        let checksums = Feature::CSUM.mask() | Feature::GUEST_CSUM.mask();
        self.off & checksums != checksums
    }

    /// Switches one feature off, or on again. `false`: there is none of that name.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let Some((_, feature)) = SWITCHES.iter().find(|(known, _)| *known == name) else { return false };
        self.off = if on { self.off & !feature.mask() } else { self.off | feature.mask() };
        true
    }
}

/// Each feature that this driver knows how to use, and what it gains by it.
const USED: &[(Feature, &str)] = &[
    (Feature::CSUM, "the device computes checksums of what is sent"),
    (Feature::GUEST_CSUM, "checksums are not computed again, or not at all, within a host"),
    (Feature::CTRL_GUEST_OFFLOADS, "receive offloads are switched while the device runs"),
    (Feature::HOST_TSO4, "64 KiB of a TCP stream are one frame for the stack"),
    (Feature::HOST_TSO6, "the same over IPv6"),
    (Feature::GUEST_TSO4, "received segments come joined"),
    (Feature::GUEST_TSO6, "the same over IPv6"),
    (Feature::MTU, "frames never exceed what the link carries"),
    (Feature::MAC, "the interface keeps its address"),
    (Feature::MRG_RXBUF, "small receive buffers, large frames"),
    (Feature::STATUS, "link state is known"),
    (Feature::ANY_LAYOUT, "one descriptor per frame"),
    (Feature::CTRL_VQ, "the device takes commands"),
    (Feature::CTRL_RX, "frames for other stations stay with the device"),
    (Feature::INDIRECT_DESC, "a buffer of several parts takes one entry of its ring"),
    (Feature::EVENT_IDX, "doorbells only when the device waits"),
    (Feature::VERSION_1, "the device follows virtio 1.0 or later"),
    (Feature::ACCESS_PLATFORM, "the device obeys the IOMMU"),
    (Feature::RING_PACKED, "one cache line per buffer instead of three"),
    (Feature::IN_ORDER, "the device gives buffers back by batches"),
    (Feature::NOTIFICATION_DATA, "a doorbell says how far the driver got"),
    (Feature::RING_RESET, "one queue can be mended without the others"),
];

/// Features that mean nothing without another (virtio 1.3, 5.1.3.1), each after those that it needs.
const NEEDS: &[(Feature, Feature)] = &[
    (Feature::CTRL_RX, Feature::CTRL_VQ),
    (Feature::CTRL_GUEST_OFFLOADS, Feature::CTRL_VQ),
    (Feature::HOST_TSO4, Feature::CSUM),
    (Feature::HOST_TSO6, Feature::CSUM),
    (Feature::GUEST_TSO4, Feature::GUEST_CSUM),
    (Feature::GUEST_TSO6, Feature::GUEST_CSUM),
    // Not the specification's: without merged buffers each would have to hold 64 KiB (5.1.6.3.1), 16 MiB for a queue.
    (Feature::GUEST_TSO4, Feature::MRG_RXBUF),
    (Feature::GUEST_TSO6, Feature::MRG_RXBUF),
];

/// Takes out of `mask` what needs something that is not in it.
pub(crate) fn without_the_needy(mask: u64) -> u64 {
    let lacks = |mask: u64, needed: &Feature| mask & needed.mask() == 0;
    NEEDS.iter().fold(
        mask,
        |mask, (feature, needed)| {
            if lacks(mask, needed) { mask & !feature.mask() } else { mask }
        },
    )
}

impl Negotiation {
    /// Chooses from `offered`. The choice is the intersection of what is offered and what the driver uses; it fails
    /// where the circumstances make a missing feature unsafe.
    pub(crate) fn choose(offered: u64, circumstances: Circumstances) -> Result<Self, Error> {
        if circumstances.modern && offered & Feature::VERSION_1.mask() == 0 {
            // virtio 1.3, 6.1: a modern driver must not drive a device that does not offer it.
            return Err(missing(Feature::VERSION_1, "the transport is a modern one"));
        }
        if circumstances.translated && offered & Feature::ACCESS_PLATFORM.mask() == 0 {
            // Without it the device takes addresses as physical ones, past the IOMMU (virtio 1.3, 6.1): it would write anywhere.
            return Err(missing(
                Feature::ACCESS_PLATFORM,
                "the function is behind an IOMMU, and a device without it bypasses the IOMMU",
            ));
        }
        let used = USED.iter().fold(0, |mask, (feature, _)| mask | feature.mask());
        let accepted = without_the_needy(offered & used & !circumstances.off.off);
        let choices = (0..64).filter_map(|bit| choice(bit, offered, accepted, circumstances.off)).collect();
        Ok(Self { offered, accepted, choices })
    }

    /// Whether `feature` was accepted.
    pub fn has(&self, feature: Feature) -> bool {
        self.accepted & feature.mask() != 0
    }
}

fn choice(bit: u8, offered: u64, accepted: u64, off: Switches) -> Option<Choice> {
    let use_of = USED.iter().find(|(feature, _)| feature.bit == bit).map(|(_, gain)| *gain);
    let reason = match (offered >> bit & 1 == 1, use_of) {
        (true, Some(_)) if off.off >> bit & 1 == 1 => "switched off by configuration",
        (true, Some(_)) if accepted >> bit & 1 == 0 => "needs a feature that is not in use",
        (true, Some(gain)) => gain,
        (true, None) => "this driver does not use it",
        (false, Some(_)) => "not offered by the device",
        (false, None) => return None,
    };
    let name = NAMES.iter().find(|(number, _)| *number == bit);
    let name = name.map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned());
    Some(Choice { name, bit, accepted: accepted >> bit & 1 == 1, reason })
}

fn missing(feature: Feature, why: &'static str) -> Error {
    Error::FeatureMissing { name: feature.name(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Circumstances = Circumstances { modern: false, translated: false, off: Switches { off: 0 } };

    #[test]
    fn unknown_offers_are_declined_by_name() {
        let negotiation = Negotiation::choose(1 << 10 | 1 << 5 | 1 << 50, PLAIN).unwrap();
        assert_eq!(negotiation.accepted, Feature::MAC.mask());
        let names: Vec<_> =
            negotiation.choices.iter().filter(|c| !c.accepted).map(|c| c.name.as_str()).collect();
        assert!(names.contains(&"VIRTIO_NET_F_GUEST_UFO"));
        assert!(names.contains(&"bit 50"));
        assert!(names.contains(&"VIRTIO_NET_F_STATUS"));
    }

    #[test]
    fn feature_that_is_switched_off_is_declined_with_what_needs_it() {
        let mut off = Switches::default();
        assert!(off.set("control_queue", false) && off.set("packed", false) && off.set("packed", true));
        assert!(!off.set("warp", false));
        let offered = Feature::CTRL_VQ.mask() | Feature::CTRL_RX.mask() | Feature::RING_PACKED.mask();
        let negotiation = Negotiation::choose(offered, Circumstances { off, ..PLAIN }).unwrap();
        assert_eq!(negotiation.accepted, Feature::RING_PACKED.mask());
        let reason = |feature: Feature| {
            negotiation.choices.iter().find(|choice| choice.name == feature.name()).unwrap().reason
        };
        assert_eq!(reason(Feature::CTRL_VQ), "switched off by configuration");
        assert_eq!(reason(Feature::CTRL_RX), "needs a feature that is not in use");
    }

    #[test]
    fn offload_without_what_it_needs_is_declined() {
        let offered = Feature::HOST_TSO4.mask() | Feature::GUEST_TSO6.mask() | Feature::GUEST_CSUM.mask();
        assert_eq!(Negotiation::choose(offered, PLAIN).unwrap().accepted, Feature::GUEST_CSUM.mask());
        let whole = offered | Feature::CSUM.mask() | Feature::MRG_RXBUF.mask();
        assert_eq!(Negotiation::choose(whole, PLAIN).unwrap().accepted, whole);
    }

    #[test]
    fn every_switch_is_a_feature_that_the_driver_uses() {
        for (name, feature) in SWITCHES {
            assert!(USED.iter().any(|(used, _)| used == feature), "{name}");
        }
    }

    #[test]
    fn modern_device_without_version_1_is_refused() {
        let result = Negotiation::choose(Feature::MAC.mask(), Circumstances { modern: true, ..PLAIN });
        assert!(matches!(result, Err(Error::FeatureMissing { name: "VIRTIO_F_VERSION_1", .. })));
    }

    #[test]
    fn device_that_bypasses_the_iommu_is_refused() {
        let offered = Feature::VERSION_1.mask() | Feature::MAC.mask();
        let result = Negotiation::choose(offered, Circumstances { modern: true, translated: true, ..PLAIN });
        assert!(matches!(result, Err(Error::FeatureMissing { name: "VIRTIO_F_ACCESS_PLATFORM", .. })));
    }
}
