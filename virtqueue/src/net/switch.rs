//! Offloads that are switched while the device runs.
//!
//! What the device does for who sends is asked for frame by frame, so that switching it off is a matter of not asking. What it does to
//! received frames it must be told (virtio 1.3, 5.1.6.5.6). Frames that were on their way keep what they have: whoever receives goes by
//! each frame's header.

use serde::Serialize;

use crate::features::{SWITCHES, without_the_needy};
use crate::net::control::Command;
use crate::net::{NetDevice, TxOffloads};
use crate::{Error, Feature, Negotiation};

/// The offloads of the transmit side.
const TRANSMIT: [Feature; 3] = [Feature::CSUM, Feature::HOST_TSO4, Feature::HOST_TSO6];
/// Those of the receive side.
const RECEIVE: [Feature; 3] = [Feature::GUEST_CSUM, Feature::GUEST_TSO4, Feature::GUEST_TSO6];

/// One offload and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OffloadInfo {
    /// Its name in configuration and commands.
    pub name: &'static str,
    /// Whether it is in use.
    pub on: bool,
    /// Whether it can be switched while the device runs.
    pub switchable: bool,
    /// Why it is as it is.
    pub reason: &'static str,
}

fn mask(features: &[Feature]) -> u64 {
    features.iter().fold(0, |mask, feature| mask | feature.mask())
}

/// What was negotiated of the offloads.
pub(super) fn negotiated(features: &Negotiation) -> u64 {
    features.accepted & (mask(&TRANSMIT) | mask(&RECEIVE))
}

/// What the transmit side makes of those that are on.
pub(super) fn transmit(on: u64) -> TxOffloads {
    let has = |feature: Feature| on & feature.mask() != 0;
    TxOffloads { checksum: has(Feature::CSUM), tso4: has(Feature::HOST_TSO4), tso6: has(Feature::HOST_TSO6) }
}

impl NetDevice {
    /// Every offload, whether it is in use, and why.
    pub fn offloads(&self) -> Vec<OffloadInfo> {
        let offloads =
            SWITCHES.iter().filter(|(_, feature)| TRANSMIT.iter().chain(&RECEIVE).any(|of| of == feature));
        offloads.map(|(name, feature)| self.offload(name, *feature)).collect()
    }

    fn offload(&self, name: &'static str, feature: Feature) -> OffloadInfo {
        let features = &self.info.features;
        let on = self.offloads_on & feature.mask() != 0;
        let switchable = features.has(feature)
            && (TRANSMIT.contains(&feature) || features.has(Feature::CTRL_GUEST_OFFLOADS));
        let choice = features.choices.iter().find(|choice| choice.name == feature.name());
        let reason = match (on, self.offloads_wanted & feature.mask() != 0, choice) {
            (true, ..) => "in use",
            (false, true, Some(choice)) if choice.accepted => "needs an offload that is off",
            (false, false, Some(choice)) if choice.accepted => "switched off",
            (_, _, Some(choice)) => choice.reason,
            (_, _, None) => "not offered by the device",
        };
        OffloadInfo { name, on, switchable, reason }
    }

    /// Switches one offload on or off. What needs it goes off with it, and comes back with it.
    ///
    /// # Errors
    ///
    /// When there is none of that name, it was not negotiated, or the device cannot be told while it runs.
    pub fn set_offload(&mut self, name: &str, on: bool) -> Result<(), Error> {
        let info = self.offloads().into_iter().find(|info| info.name == name);
        let feature = SWITCHES.iter().find(|(known, _)| *known == name).map(|(_, feature)| *feature);
        let (Some(info), Some(feature)) = (info, feature) else {
            let known = self.offloads().iter().map(|info| info.name).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownOffload { name: name.to_owned(), known });
        };
        if !self.info.features.has(feature) {
            return if on { Err(Error::OffloadAbsent { name: info.name, why: info.reason }) } else { Ok(()) };
        }
        if !info.switchable {
            return Err(Error::OffloadFixed { name: info.name });
        }
        let wanted =
            if on { self.offloads_wanted | feature.mask() } else { self.offloads_wanted & !feature.mask() };
        // Merged buffers, which joined segments need, are not switched here: that changes what every buffer is like.
        let fixed = self.info.features.accepted & !(mask(&TRANSMIT) | mask(&RECEIVE));
        let next = without_the_needy(wanted | fixed) & !fixed;
        if (next ^ self.offloads_on) & mask(&RECEIVE) != 0
            && let Some(control) = &mut self.control
        {
            control.submit(Command::ReceiveOffloads(next & mask(&RECEIVE)))?;
        }
        self.offloads_wanted = wanted;
        self.offloads_on = next;
        self.tx.set_offloads(transmit(next));
        Ok(())
    }
}
