//! Requests as text: a capability and its target, as people ask `explain` about them and as denials are listed.

use std::net::{IpAddr, SocketAddr};

use crate::Error;
use crate::authority::Authority;
use crate::bus::{BusDevice, BusService};
use crate::capability::Capability;
use crate::request::Request;

/// The target that leaves the choice to netd, or says that there is none.
const ANY: &str = "any";
/// Between a name with its port and an address that it has.
const AT: char = '@';

impl Request {
    /// The request for `capability` about `target`:
    ///
    /// | capability | target |
    /// | --- | --- |
    /// | net.tcp.connect | an address or a name with a port: `192.0.2.1:443`, `[2001:db8::1]:443`, `example.org:443`; a name with an address that it turned out to have: `example.org:443@192.0.2.1` |
    /// | net.udp.send | `192.0.2.1:443`, `[2001:db8::1]:443` |
    /// | net.tcp.listen, net.udp.bind | a port; none or `any` is one of netd's choice |
    /// | net.icmp.ping | an address |
    /// | net.dns.resolve | a name; none or `any` is what is no host's name, such as an address |
    /// | net.raw | an EtherType: `0x88b5` |
    /// | net.http.fetch, net.tls.validate | `example.org:443`, `192.0.2.1:443`, `[2001:db8::1]:443` |
    /// | dsoftbus.session.open, dsoftbus.share.state, dsoftbus.share.state.write | a device's id; `loopback` is this machine itself |
    /// | dsoftbus.stream.open, dsoftbus.rpc.call | a device's id and a service: `camera-1/video` |
    /// | dsoftbus.share.files | a device's id and the name under which it shares files: `camera-1/recordings` |
    /// | dsoftbus.share.service | a service |
    /// | net.http.devnet, net.trust.manage, net.capture, net.admin, dsoftbus.discover | none |
    ///
    /// # Errors
    /// A target of another form.
    pub fn parse(capability: Capability, target: Option<&str>) -> Result<Request, Error> {
        let target = target.filter(|target| *target != ANY);
        let wrong = |expected: &'static str| Error::Target {
            capability,
            target: target.unwrap_or(ANY).to_owned(),
            expected,
        };
        let peer = || {
            let expected = "ADDRESS:PORT such as 192.0.2.1:443 or [2001:db8::1]:443";
            let remote = target.and_then(|text| text.parse::<SocketAddr>().ok());
            remote.filter(|remote| remote.port() != 0).ok_or_else(|| wrong(expected))
        };
        let authority = || {
            let expected = "HOST:PORT such as example.org:443 or 192.0.2.1:443";
            target.ok_or_else(|| wrong(expected)).and_then(str::parse::<Authority>)
        };
        let port = || match target.map(str::parse::<u16>) {
            None => Ok(None),
            Some(Ok(port)) if port != 0 => Ok(Some(port)),
            Some(_) => Err(wrong("a port, or 'any' for one of netd's choice")),
        };
        let device = || target.ok_or_else(|| wrong("a device's id"))?.parse::<BusDevice>();
        let of_device = |expected: &'static str| {
            let parts = target.and_then(|target| target.split_once('/'));
            let (device, name) = parts.ok_or_else(|| wrong(expected))?;
            Ok::<_, Error>((device.parse::<BusDevice>()?, name.parse::<BusService>()?))
        };
        Ok(match capability {
            Capability::TcpConnect => connection(target.unwrap_or(ANY), wrong)?,
            Capability::UdpSend => Request::UdpSend { remote: peer()? },
            Capability::TcpListen => Request::TcpListen { port: port()? },
            Capability::UdpBind => Request::UdpBind { port: port()? },
            Capability::IcmpPing => {
                let to = target.and_then(|text| text.parse().ok());
                Request::Ping { to: to.ok_or_else(|| wrong("an IP address"))? }
            }
            Capability::DnsResolve => match target {
                // The name of an address is asked for below in-addr.arpa, which is nobody's host.
                Some(text) if text.parse::<IpAddr>().is_err() => {
                    Request::Resolve { name: Some(text.parse()?) }
                }
                _ => Request::Resolve { name: None },
            },
            Capability::Raw => {
                let ether_type = target.and_then(|text| text.parse().ok());
                Request::Raw { ether_type: ether_type.ok_or_else(|| wrong("an EtherType such as 0x88b5"))? }
            }
            Capability::HttpFetch => Request::Fetch { from: authority()? },
            Capability::TlsValidate => Request::ValidateTls { of: authority()? },
            Capability::BusSessionOpen => Request::OpenBusSession { device: device()? },
            Capability::BusShareState => Request::ReadBusState { device: device()? },
            Capability::BusShareStateWrite => Request::WriteBusState { device: device()? },
            Capability::BusStreamOpen => {
                let (device, service) = of_device("DEVICE/SERVICE such as camera-1/video")?;
                Request::OpenBusStream { device, service }
            }
            Capability::BusCall => {
                let (device, service) = of_device("DEVICE/SERVICE such as camera-1/video")?;
                Request::CallBusService { device, service }
            }
            Capability::BusShareFiles => {
                let (device, share) = of_device("DEVICE/SHARE such as camera-1/recordings")?;
                Request::ReadBusShare { device, share }
            }
            Capability::BusShareService => {
                let service = target.ok_or_else(|| wrong("a service's name"))?;
                Request::ShareBusService { service: service.parse()? }
            }
            Capability::HttpDevnet
            | Capability::TrustManage
            | Capability::Capture
            | Capability::Admin
            | Capability::BusDiscover
                if target.is_some() =>
            {
                return Err(wrong("no target"));
            }
            Capability::HttpDevnet => Request::FetchReal,
            Capability::TrustManage => Request::ManageTrust,
            Capability::Capture => Request::Capture,
            Capability::Admin => Request::Operate,
            Capability::BusDiscover => Request::DiscoverBus,
        })
    }

    /// The target as [`parse`](Self::parse) reads it; none where there is none.
    pub fn target_text(&self) -> Option<String> {
        match self {
            Request::TcpConnect { remote } | Request::UdpSend { remote } => Some(remote.to_string()),
            Request::TcpConnectName { name, port, address: None } => Some(format!("{name}:{port}")),
            Request::TcpConnectName { name, port, address: Some(address) } => {
                Some(format!("{name}:{port}{AT}{address}"))
            }
            Request::TcpListen { port } | Request::UdpBind { port } => port.map(|port| port.to_string()),
            Request::Ping { to } => Some(to.to_string()),
            Request::Resolve { name } => name.as_ref().map(ToString::to_string),
            Request::Raw { ether_type } => Some(ether_type.to_string()),
            Request::Fetch { from: peer } | Request::ValidateTls { of: peer } => Some(peer.to_string()),
            Request::OpenBusSession { device }
            | Request::ReadBusState { device }
            | Request::WriteBusState { device } => Some(device.to_string()),
            Request::OpenBusStream { device, service }
            | Request::CallBusService { device, service }
            | Request::ReadBusShare { device, share: service } => Some(format!("{device}/{service}")),
            Request::ShareBusService { service } => Some(service.to_string()),
            Request::FetchReal
            | Request::ManageTrust
            | Request::Capture
            | Request::DiscoverBus
            | Request::Represent
            | Request::Observe
            | Request::Operate => None,
        }
    }
}

/// A connection, to an address or by name.
fn connection(target: &str, wrong: impl Fn(&'static str) -> Error) -> Result<Request, Error> {
    let expected = "ADDRESS:PORT or NAME:PORT, such as 192.0.2.1:443, [2001:db8::1]:443 or example.org:443";
    if let Ok(remote) = target.parse::<SocketAddr>() {
        let usable = remote.port() != 0;
        return if usable { Ok(Request::TcpConnect { remote }) } else { Err(wrong(expected)) };
    }
    let (name, address) = match target.split_once(AT) {
        Some((name, address)) => {
            let address = address.parse().map_err(|_| wrong("an IP address after the '@'"))?;
            (name, Some(address))
        }
        None => (target, None),
    };
    let (name, port) = name.rsplit_once(':').ok_or_else(|| wrong(expected))?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong(expected))?;
    Ok(Request::TcpConnectName { name: name.parse()?, port, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_a_wrong_target_says_what_would_be_right() {
        for (capability, target, wanted) in [
            (Capability::TcpConnect, Some("192.0.2.1"), "ADDRESS:PORT"),
            (Capability::TcpConnect, None, "ADDRESS:PORT"),
            (Capability::TcpConnect, Some("192.0.2.1:0"), "ADDRESS:PORT"),
            (Capability::TcpConnect, Some("example.org"), "NAME:PORT"),
            (Capability::TcpConnect, Some("example.org:0"), "NAME:PORT"),
            (Capability::TcpConnect, Some("example.org:443@home"), "an IP address after"),
            (Capability::TcpConnect, Some("127.1:443"), "looks like an address"),
            (Capability::UdpSend, Some("example.org:443"), "ADDRESS:PORT"),
            (Capability::UdpSend, Some("192.0.2.1:0"), "ADDRESS:PORT"),
            (Capability::TcpListen, Some("0"), "a port"),
            (Capability::UdpBind, Some("http"), "a port"),
            (Capability::IcmpPing, Some("example.org"), "an IP address"),
            (Capability::DnsResolve, Some("a..b"), "is not the name of a host"),
            (Capability::Capture, Some("tcp"), "no target"),
            (Capability::BusDiscover, Some("camera-1"), "no target"),
            (Capability::BusSessionOpen, None, "a device's id"),
            (Capability::BusSessionOpen, Some("camera-*"), "no spaces"),
            (Capability::BusStreamOpen, Some("camera-1"), "DEVICE/SERVICE"),
            (Capability::BusStreamOpen, Some("camera-1/"), "1 to 64 bytes"),
            (Capability::BusStreamOpen, Some("a/b/c"), "'/'"),
            (Capability::BusCall, Some("camera-1"), "DEVICE/SERVICE"),
            (Capability::BusCall, None, "DEVICE/SERVICE"),
            (Capability::BusShareService, Some("any"), "a service's name"),
            (Capability::BusShareFiles, Some("recordings"), "DEVICE/SHARE"),
            (Capability::BusShareFiles, Some("camera-1/../etc"), "'/'"),
            (Capability::BusShareState, None, "a device's id"),
            (Capability::BusShareStateWrite, Some("camera-1/key"), "'/'"),
        ] {
            let error = Request::parse(capability, target).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn parse_of_any_leaves_the_choice_to_netd() {
        let listen = Request::TcpListen { port: None };
        assert_eq!(Request::parse(Capability::TcpListen, Some("any")).unwrap(), listen);
        assert_eq!(Request::parse(Capability::TcpListen, None).unwrap(), listen);
        let reverse = Request::parse(Capability::DnsResolve, Some("192.0.2.1")).unwrap();
        assert_eq!(reverse, Request::Resolve { name: None });
    }
}
