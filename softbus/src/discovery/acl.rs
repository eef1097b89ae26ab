//! Who may have a session at all: nobody, unless a rule says so.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::error::Error;
use crate::name::{DeviceId, ServiceName};

/// The most rules; each is compared on every attempt.
pub const RULES_MAX: usize = 1024;

/// How a session travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Records over a TCP connection.
    Tcp,
    /// RFC 9000.
    Quic,
    /// Records in datagrams.
    UdpSec,
}

impl Transport {
    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Quic => "quic",
            Transport::UdpSec => "udp-sec",
        }
    }
}

/// Which devices a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// The one of this name.
    Exact(DeviceId),
    /// Those whose names begin so. An empty prefix would be everybody, so there is none.
    Prefix(DeviceId),
}

impl Devices {
    fn contains(&self, device: &DeviceId) -> bool {
        match self {
            Devices::Exact(name) => name == device,
            Devices::Prefix(prefix) => device.as_str().starts_with(prefix.as_str()),
        }
    }
}

/// Which services a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// All, also those that come later.
    All,
    /// These.
    Named(BTreeSet<ServiceName>),
}

/// What some devices may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which devices.
    pub devices: Devices,
    /// Over what.
    pub transports: BTreeSet<Transport>,
    /// To which of our services, and which of theirs we may use.
    pub services: Services,
}

/// All rules. The first that allows is enough; the empty list, which is the default, allows nothing.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    rules: Vec<Rule>,
}

impl Acl {
    /// At most [`RULES_MAX`] rules.
    pub fn new(rules: Vec<Rule>) -> Result<Acl, Error> {
        if rules.len() > RULES_MAX {
            return Err(Error::TooMany { what: "rules", count: rules.len(), max: RULES_MAX });
        }
        Ok(Acl { rules })
    }

    /// Whether there may be a session; says which rule allows it.
    pub fn session(&self, device: &DeviceId, transport: Transport) -> Result<usize, Error> {
        let allows = |rule: &Rule| rule.devices.contains(device) && rule.transports.contains(&transport);
        let denied = || Error::PeerDenied { device: device.clone(), transport: transport.as_str() };
        self.rules.iter().position(allows).ok_or_else(denied)
    }

    /// Whether a session that is there may reach this service; says which rule allows it.
    pub fn service(
        &self,
        device: &DeviceId,
        transport: Transport,
        service: &ServiceName,
    ) -> Result<usize, Error> {
        self.session(device, transport)?;
        let allows = |rule: &Rule| {
            let named = match &rule.services {
                Services::All => true,
                Services::Named(names) => names.contains(service),
            };
            named && rule.devices.contains(device) && rule.transports.contains(&transport)
        };
        let denied = || Error::ServiceDenied { device: device.clone(), service: service.clone() };
        self.rules.iter().position(allows).ok_or_else(denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(devices: Devices, services: Services) -> Rule {
        Rule { devices, transports: [Transport::Tcp].into(), services }
    }

    #[test]
    fn acl_without_rules_denies_everybody() {
        let device: DeviceId = "cam-1".parse().unwrap();
        let denied = Error::PeerDenied { device: device.clone(), transport: "tcp" };
        assert_eq!(Acl::default().session(&device, Transport::Tcp), Err(denied));
    }

    #[test]
    fn acl_with_rules_allows_what_they_say_and_nothing_else() {
        let video: ServiceName = "video".parse().unwrap();
        let named = Services::Named([video.clone()].into());
        let cameras = rule(Devices::Prefix("cam-".parse().unwrap()), named);
        let hub = rule(Devices::Exact("hub".parse().unwrap()), Services::All);
        let acl = Acl::new(alloc::vec![cameras, hub]).unwrap();
        let device = |name: &str| name.parse::<DeviceId>().unwrap();
        assert_eq!(acl.session(&device("cam-7"), Transport::Tcp), Ok(0));
        assert!(acl.session(&device("cam-7"), Transport::Quic).is_err());
        assert!(acl.session(&device("hub2"), Transport::Tcp).is_err());
        assert_eq!(acl.service(&device("hub"), Transport::Tcp, &video), Ok(1));
        let state = "state".parse().unwrap();
        let denied = Error::ServiceDenied { device: device("cam-7"), service: "state".parse().unwrap() };
        assert_eq!(acl.service(&device("cam-7"), Transport::Tcp, &state), Err(denied));
    }
}
