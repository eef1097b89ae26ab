//! Who answers a URL: a host by name or by address, and a port (RFC 3986, 3.2).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::Error;
use crate::host::HostName;

/// The host that the fetcher's stub backend answers for. Nothing leaves the machine for it.
pub const FIXTURE_HOST: &str = "fixture.local";

/// A host, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// By name.
    Name(HostName),
    /// By address; IPv4 addresses mapped into IPv6 are the IPv4 addresses.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = Error;

    /// A name, an IPv4 address, or an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Host, Error> {
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(inner) = bracketed {
            let why = "between brackets stands an IPv6 address, without a zone";
            let address: Ipv6Addr =
                inner.parse().map_err(|_| Error::HostName { name: text.to_owned(), why })?;
            return Ok(Host::Address(IpAddr::V6(address).to_canonical()));
        }
        match text.parse::<std::net::Ipv4Addr>() {
            Ok(address) => Ok(Host::Address(address.into())),
            Err(_) => text.parse().map(Host::Name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Address(IpAddr::V4(address)) => address.fmt(f),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    /// Whom.
    pub host: Host,
    /// Where; never 0.
    pub port: u16,
}

impl Authority {
    /// Whether the stub backend answers.
    pub fn is_fixture(&self) -> bool {
        matches!(&self.host, Host::Name(name) if name.as_str() == FIXTURE_HOST)
    }

    /// The address, if the host is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Address(address) => Some(address.to_canonical()),
            Host::Name(_) => None,
        }
    }
}

impl FromStr for Authority {
    type Err = Error;

    fn from_str(text: &str) -> Result<Authority, Error> {
        let why = "expected HOST:PORT such as example.org:443, 192.0.2.1:443 or [2001:db8::1]:443";
        let wrong = || Error::HostName { name: text.to_owned(), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Authority { host: host.parse()?, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_parsed_and_printed_is_the_same() {
        for text in ["example.org:443", "192.0.2.1:8080", "[2001:db8::1]:443"] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
        let mapped: Authority = "[::ffff:192.0.2.1]:80".parse().unwrap();
        assert_eq!(mapped.to_string(), "192.0.2.1:80");
        assert_eq!("BÜCHER.example.:1".parse::<Authority>().unwrap().to_string(), "xn--bcher-kva.example:1");
    }

    #[test]
    fn authority_without_a_port_or_with_a_disguised_address_is_refused() {
        for text in
            ["example.org", "example.org:0", "127.1:80", "0x7f000001:80", "[::1%1]:80", "::1:80", ":80"]
        {
            assert!(text.parse::<Authority>().is_err(), "{text}");
        }
    }
}
