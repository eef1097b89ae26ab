//! Who may have a session at all: nobody, unless a rule says so.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::error::Error;
use crate::name::{DeviceId, ServiceName};
use crate::remote::share::ShareName;
use crate::remote::state::Prefix;

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

/// What else of ours a rule allows: nothing, unless it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Files that are shared under these names may be read.
    pub files: BTreeSet<ShareName>,
    /// These keys of the state may be read ...
    pub state: Vec<Prefix>,
    /// ... and these changed.
    pub state_write: Vec<Prefix>,
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
    /// What else of ours they may use.
    pub shared: Shared,
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

    /// What the rules about a device share with it.
    fn shared(&self, device: &DeviceId, transport: Transport) -> impl Iterator<Item = &Shared> {
        let about = move |rule: &&Rule| rule.devices.contains(device) && rule.transports.contains(&transport);
        self.rules.iter().filter(about).map(|rule| &rule.shared)
    }

    /// The shares whose files a session that is there may read.
    #[must_use]
    pub fn shares(&self, device: &DeviceId, transport: Transport) -> BTreeSet<ShareName> {
        self.shared(device, transport).flat_map(|shared| &shared.files).cloned().collect()
    }

    /// Whether a session that is there may read, or change, all of these keys.
    #[must_use]
    pub fn state(&self, device: &DeviceId, transport: Transport, keys: &Prefix, write: bool) -> bool {
        let mut shared = self.shared(device, transport);
        shared.any(|Shared { state, state_write, .. }| {
            let prefixes = if write { state_write } else { state };
            prefixes.iter().any(|prefix| prefix.covers(keys))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(devices: Devices, services: Services) -> Rule {
        Rule { devices, transports: [Transport::Tcp].into(), services, shared: Shared::default() }
    }

    #[test]
    fn acl_shares_files_and_state_with_those_alone_whom_a_rule_names_for_it() {
        let shared = Shared {
            files: ["firmware".parse().unwrap()].into(),
            state: alloc::vec!["/state/shared/".parse().unwrap()],
            state_write: alloc::vec!["/state/shared/cameras/".parse().unwrap()],
        };
        let cameras = Rule { shared, ..rule(Devices::Prefix("cam-".parse().unwrap()), Services::All) };
        let acl = Acl::new(alloc::vec![cameras, rule(Devices::Exact("hub".parse().unwrap()), Services::All)]);
        let (acl, tcp) = (acl.unwrap(), Transport::Tcp);
        let device = |name: &str| name.parse::<DeviceId>().unwrap();
        let keys = |name: &str| [crate::remote::state::KEY_ROOT, name].concat().parse::<Prefix>().unwrap();
        assert_eq!(acl.shares(&device("cam-1"), tcp), ["firmware".parse().unwrap()].into());
        assert!(acl.shares(&device("hub"), tcp).is_empty());
        assert!(acl.shares(&device("cam-1"), Transport::Quic).is_empty());
        assert!(acl.state(&device("cam-1"), tcp, &keys(""), false));
        assert!(!acl.state(&device("cam-1"), tcp, &keys(""), true));
        assert!(acl.state(&device("cam-1"), tcp, &keys("cameras/1"), true));
        for outside in ["cameras", "cameras2/1", "camera", "hub"] {
            assert!(!acl.state(&device("cam-1"), tcp, &keys(outside), true), "{outside}");
        }
        assert!(!acl.state(&device("hub"), tcp, &keys("a"), false));
        assert!(!acl.state(&device("cam"), tcp, &keys("a"), false));
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
