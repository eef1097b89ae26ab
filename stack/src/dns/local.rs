//! Questions that never leave: names with a fixed meaning (RFC 6761) and the hosts file. And which names are multicast DNS's.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::finding::{Finding, Outcome, Question};
use super::hosts::Hosts;
use super::name::Name;
use super::types::{Data, Kind, Source};

/// The answer, if the question has one here.
pub(super) fn answer(question: &Question, hosts: &Hosts) -> Option<(Finding, Source)> {
    let Question { name, kind } = question;
    // The operator's file comes first: it may even say what localhost is.
    let from_hosts = match kind {
        Kind::Ptr => hosts.pointer(name).map(|target| Outcome::Records(vec![Data::Ptr(target.clone())])),
        // A name that the file has in one family only has no address in the other: the file speaks for the name.
        Kind::A | Kind::Aaaa | Kind::Addresses => hosts.addresses(name).map(|known| addresses(known, *kind)),
        Kind::Cname | Kind::Srv | Kind::Txt => None,
    };
    if let Some(outcome) = from_hosts {
        return Some((Finding::local(outcome), Source::Hosts));
    }
    let outcome = if name.ends_with(&[b"localhost"]) {
        // RFC 6761, 6.3: loopback, whatever a server says.
        addresses(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], *kind)
    } else if name.ends_with(&[b"invalid"]) || name.ends_with(&[b"onion"]) {
        // RFC 6761, 6.4; RFC 7686, 2: such a question must not be sent.
        Outcome::NoSuchName
    } else if *kind == Kind::Ptr && is_loopback_reverse(name) {
        pointer_to_localhost()
    } else {
        return None;
    };
    Some((Finding::local(outcome), Source::Literal))
}

/// The records among `known` that `kind` asks for, AAAA first.
pub(super) fn addresses(known: &[IpAddr], kind: Kind) -> Outcome {
    let mut records: Vec<Data> = known.iter().map(|&address| record(address)).collect();
    records.retain(|data| kind.matches(data));
    records.sort_by_key(|data| matches!(data, Data::A(_)));
    if records.is_empty() { Outcome::NoData } else { Outcome::Records(records) }
}

fn record(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    }
}

fn is_loopback_reverse(name: &Name) -> bool {
    let is_v4 = name.ends_with(&[b"127", b"in-addr", b"arpa"]) && name.labels().count() == 6;
    is_v4 || *name == Name::reverse(Ipv6Addr::LOCALHOST.into())
}

fn pointer_to_localhost() -> Outcome {
    match Name::from_labels([&b"localhost"[..]]) {
        Ok(name) => Outcome::Records(vec![Data::Ptr(name)]),
        Err(_) => Outcome::NoData,
    }
}

/// Whether `name` belongs to the link: `.local` (RFC 6762, 3) and the reverse names of link-local addresses (RFC 6762, 4).
pub(super) fn is_link_local(name: &Name) -> bool {
    let reverse_v6 = |nibble: &[u8]| name.ends_with(&[nibble, b"e", b"f", b"ip6", b"arpa"]);
    name.ends_with(&[b"local"])
        || name.ends_with(&[b"254", b"169", b"in-addr", b"arpa"])
        || [b"8", b"9", b"a", b"b"].into_iter().any(|nibble| reverse_v6(nibble))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: Kind, hosts: &str) -> Option<Outcome> {
        let question = Question { name: name.parse().unwrap(), kind };
        answer(&question, &Hosts::parse(hosts)).map(|(finding, _)| finding.outcome)
    }

    #[test]
    fn localhost_and_below_is_loopback() {
        let v4 = Data::A(Ipv4Addr::LOCALHOST);
        let v6 = Data::Aaaa(Ipv6Addr::LOCALHOST);
        assert_eq!(ask("LocalHost", Kind::A, ""), Some(Outcome::Records(vec![v4.clone()])));
        assert_eq!(ask("a.b.localhost", Kind::Addresses, ""), Some(Outcome::Records(vec![v6, v4])));
        assert_eq!(ask("localhost", Kind::Txt, ""), Some(Outcome::NoData));
        assert_eq!(ask("localhost.example.com", Kind::A, ""), None);
    }

    #[test]
    fn names_that_must_not_leave_do_not_exist() {
        assert_eq!(ask("x.invalid", Kind::A, ""), Some(Outcome::NoSuchName));
        assert_eq!(ask("x.onion", Kind::Srv, ""), Some(Outcome::NoSuchName));
    }

    #[test]
    fn hosts_file_answers_both_ways_and_for_missing_family() {
        let hosts = "192.0.2.1 server.example.com server";
        let v4 = Data::A(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(ask("server", Kind::A, hosts), Some(Outcome::Records(vec![v4])));
        assert_eq!(ask("server", Kind::Aaaa, hosts), Some(Outcome::NoData));
        let name = Data::Ptr("server.example.com".parse().unwrap());
        assert_eq!(ask("1.2.0.192.in-addr.arpa", Kind::Ptr, hosts), Some(Outcome::Records(vec![name])));
    }

    #[test]
    fn loopback_address_is_named_localhost() {
        let localhost = Some(Outcome::Records(vec![Data::Ptr("localhost".parse().unwrap())]));
        assert_eq!(ask("1.0.0.127.in-addr.arpa", Kind::Ptr, ""), localhost);
        assert_eq!(ask(&Name::reverse(Ipv6Addr::LOCALHOST.into()).to_string(), Kind::Ptr, ""), localhost);
    }

    #[test]
    fn link_local_names_are_told_apart() {
        let reverse = |text: &str| is_link_local(&Name::reverse(text.parse().unwrap()));
        assert!(is_link_local(&"printer.LOCAL".parse().unwrap()));
        assert!(!is_link_local(&"local.example.com".parse().unwrap()));
        assert!(reverse("169.254.3.4") && reverse("fe80::1") && reverse("febf::1"));
        assert!(!reverse("169.253.3.4") && !reverse("fec0::1"));
    }
}
