//! DHCPv6 messages (RFC 8415, 8 and 21): the few that a client sends, and what matters of those it gets.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use crate::ip::is_usable_host;
use crate::ipv6::{Lifetime, parse_names};
use crate::neighbor::Mac;

/// Entries kept of one list, as from IPv4's server.
const LIST_MAX: usize = 8;
/// The longest DUID (RFC 8415, 11.1: 128 octets behind its type).
const DUID_MAX: usize = 130;
/// We have one interface and ask for one address on it.
const IAID: u32 = 1;

mod option {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const DNS: u16 = 23;
    pub(super) const DOMAINS: u16 = 24;
    pub(super) const REFRESH: u16 = 32;
}

/// Message types (RFC 8415, 7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Solicit = 1,
    Request = 3,
    Renew = 5,
    Rebind = 6,
    Decline = 9,
    InformationRequest = 11,
}

pub(super) const ADVERTISE: u8 = 2;
pub(super) const REPLY: u8 = 7;

/// What a message of ours says.
pub(super) struct Saying<'a> {
    pub(super) kind: Kind,
    pub(super) transaction: u32,
    pub(super) elapsed: Duration,
    pub(super) server: Option<&'a [u8]>,
    pub(super) address: Option<Ipv6Addr>,
}

/// An address that a server offers or grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    pub(super) address: Ipv6Addr,
    pub(super) t1_seconds: u32,
    pub(super) t2_seconds: u32,
    pub(super) preferred: Lifetime,
    pub(super) valid: Lifetime,
}

/// What a server says.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Heard {
    pub(super) kind: u8,
    pub(super) transaction: u32,
    pub(super) server: Vec<u8>,
    pub(super) success: bool,
    pub(super) grant: Option<Grant>,
    pub(super) dns: Vec<Ipv6Addr>,
    pub(super) search: Vec<String>,
    pub(super) refresh_seconds: Option<u32>,
}

/// Our identity: DUID-LL (RFC 8415, 11.4), which is stable without anything to be kept.
fn duid(mac: Mac) -> [u8; 10] {
    let [a, b, c, d, e, f] = mac;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

fn put(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend((data.len() as u16).to_be_bytes());
    message.extend(data);
}

impl Saying<'_> {
    pub(super) fn to_bytes(&self, mac: Mac) -> Vec<u8> {
        let mut message = (self.transaction & 0xff_ffff).to_be_bytes().to_vec();
        message[0] = self.kind as u8;
        put(&mut message, option::CLIENT_ID, &duid(mac));
        if let Some(server) = self.server {
            put(&mut message, option::SERVER_ID, server);
        }
        // RFC 8415, 21.9: in hundredths of a second.
        let elapsed = u16::try_from(self.elapsed.as_millis() / 10).unwrap_or(u16::MAX);
        put(&mut message, option::ELAPSED, &elapsed.to_be_bytes());
        if self.kind != Kind::InformationRequest {
            let mut identity = [IAID.to_be_bytes(), [0; 4], [0; 4]].concat();
            if let Some(address) = self.address {
                put(&mut identity, option::IA_ADDRESS, &[&address.octets()[..], &[0; 8]].concat());
            }
            put(&mut message, option::IA_NA, &identity);
        }
        if self.kind != Kind::Decline {
            let wanted = [option::DNS, option::DOMAINS, option::REFRESH];
            let refresh = if self.kind == Kind::InformationRequest { 3 } else { 2 };
            let codes: Vec<u8> = wanted[..refresh].iter().flat_map(|code| code.to_be_bytes()).collect();
            put(&mut message, option::REQUESTED, &codes);
        }
        message
    }
}

impl Heard {
    /// Reads a message that is meant for us; `None` if it is malformed or for somebody else (RFC 8415, 16).
    pub(super) fn parse(bytes: &[u8], mac: Mac) -> Option<Heard> {
        let (head, options) = bytes.split_first_chunk::<4>()?;
        let mut heard = Heard {
            kind: head[0],
            transaction: u32::from_be_bytes(*head) & 0xff_ffff,
            server: Vec::new(),
            success: true,
            grant: None,
            dns: Vec::new(),
            search: Vec::new(),
            refresh_seconds: None,
        };
        let mut for_us = false;
        for parsed in Options(options) {
            let (code, data) = parsed?;
            match code {
                option::CLIENT_ID => for_us = data == duid(mac),
                option::SERVER_ID => heard.server = data.to_vec(),
                option::STATUS => heard.success &= is_success(data),
                option::IA_NA => heard.read_identity(data)?,
                option::DNS => {
                    let (servers, _) = data.as_chunks::<16>();
                    let servers = servers.iter().map(|octets| Ipv6Addr::from(*octets));
                    heard
                        .dns
                        .extend(servers.filter(|&server| is_usable_host(IpAddr::V6(server))).take(LIST_MAX));
                }
                option::DOMAINS => heard.search.extend(parse_names(data).take(LIST_MAX)),
                option::REFRESH => heard.refresh_seconds = number(data, 0),
                _ => {}
            }
        }
        let known_server = !heard.server.is_empty() && heard.server.len() <= DUID_MAX;
        (for_us && known_server).then_some(heard)
    }

    /// RFC 8415, 21.4 and 21.6. `None` only if it is malformed.
    fn read_identity(&mut self, data: &[u8]) -> Option<()> {
        if number(data, 0)? != IAID {
            return Some(());
        }
        let (t1_seconds, t2_seconds) = (number(data, 4)?, number(data, 8)?);
        for parsed in Options(data.get(12..)?) {
            let (code, data) = parsed?;
            match code {
                option::STATUS => self.success &= is_success(data),
                option::IA_ADDRESS if self.grant.is_none() => {
                    let address = Ipv6Addr::from(*data.first_chunk::<16>()?);
                    let (preferred, valid) = (number(data, 16)?, number(data, 20)?);
                    let usable = is_usable_host(IpAddr::V6(address)) && !address.is_unicast_link_local();
                    // RFC 8415, 21.6: preferred beyond valid, or no lifetime at all, is no grant.
                    if usable && preferred <= valid && valid > 0 {
                        let (preferred, valid) =
                            (Lifetime::from_seconds(preferred), Lifetime::from_seconds(valid));
                        self.grant = Some(Grant { address, t1_seconds, t2_seconds, preferred, valid });
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

fn is_success(data: &[u8]) -> bool {
    data.first_chunk::<2>() == Some(&[0, 0])
}

fn number(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The options of a message; one that reaches beyond the end condemns it.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = core::mem::take(&mut self.0);
        let Some((&[a, b, c, d], rest)) = bytes.split_first_chunk::<4>() else { return Some(None) };
        let Some((data, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([c, d]))) else {
            return Some(None);
        };
        self.0 = rest;
        Some(Some((u16::from_be_bytes([a, b]), data)))
    }
}
