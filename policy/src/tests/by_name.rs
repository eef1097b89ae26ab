//! Connections by name: what grants for names say before and after the name is resolved.

use super::{policy, reason, send, subject};
use crate::*;

fn by_name(name: &str, port: u16, address: Option<&str>) -> Request {
    let address = address.map(|address| address.parse().expect("an address"));
    Request::TcpConnectName { name: name.parse().expect("a name"), port, address }
}

/// Decisions under one grant of net.tcp.connect with these lines, and whatever follows it.
fn under(lines: &str) -> Policy {
    policy(true, &format!("[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\n{lines}\n")).unwrap()
}

fn terms(policy: &Policy, request: &Request) -> Option<Terms> {
    policy.decide(&subject(1), request).terms()
}

#[test]
fn name_within_the_pattern_is_allowed_and_its_address_alone_is_not() {
    let policy = under("hosts = [\"*.example.com\", \"bücher.example\"]\nports = [\"443\"]");
    for name in ["www.example.com", "A.B.EXAMPLE.com.", "xn--bcher-kva.example"] {
        assert_eq!(terms(&policy, &by_name(name, 443, None)), Some(Terms::Tls), "{name}");
        assert_eq!(terms(&policy, &by_name(name, 443, Some("203.0.113.7"))), Some(Terms::Tls), "{name}");
    }
    for (name, port) in [
        ("example.com", 443),
        ("wwwexample.com", 443),
        ("www.example.com.evil.net", 443),
        ("www.example.com", 80),
    ] {
        assert_eq!(terms(&policy, &by_name(name, port, None)), None, "{name}");
    }
    let raw = Request::TcpConnect { remote: "203.0.113.7:443".parse().unwrap() };
    assert!(
        reason(policy.decide(&subject(1), &raw))
            .ends_with("but only by name: connect to the name, and netd finds the address")
    );
}

#[test]
fn tls_is_demanded_on_443_unless_said_otherwise_also_where_ports_span_it() {
    for (lines, on_443, on_80) in [
        ("", Terms::Tls, Terms::Free),
        ("ports = [\"1-1000\"]", Terms::Tls, Terms::Free),
        ("ports = [\"80\", \"443\"]\ntls = \"any\"", Terms::Free, Terms::Free),
        ("tls = \"required\"", Terms::Tls, Terms::Tls),
    ] {
        let policy = under(&format!("hosts = [\"a.example\"]\n{lines}"));
        assert_eq!(terms(&policy, &by_name("a.example", 443, None)), Some(on_443), "{lines}");
        assert_eq!(terms(&policy, &by_name("a.example", 80, None)), Some(on_80), "{lines}");
    }
    // Whoever may dial every address is not asked for a name.
    assert_eq!(terms(&under(""), &by_name("a.example", 443, None)), Some(Terms::Free));
}

#[test]
fn of_several_grants_the_one_that_demands_least_counts() {
    let policy = under(
        "hosts = [\"a.example\"]\n[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nhosts = \
         [\"*.example\"]\ntls = \"any\"",
    );
    let Decision::Allow { rule, terms } = policy.decide(&subject(1), &by_name("a.example", 443, None)) else {
        panic!("denied")
    };
    assert_eq!((rule.to_string().as_str(), terms), ("test.toml:5 (grant, any)", Terms::Free));
}

#[test]
fn answer_that_is_not_public_needs_a_grant_of_its_own() {
    let policy = under("hosts = [\"a.example\"]");
    for address in [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "fd20:ce::254",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ] {
        let decision = policy.decide(&subject(1), &by_name("a.example", 443, Some(address)));
        assert_eq!(decision.rule(), &Rule::PrivateAnswer, "{address}");
        assert!(reason(decision).contains("the name answers with "), "{address}");
    }
    let with = |to: &str| {
        under(&format!(
            "hosts = [\"a.example\"]\n[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nto = [\"{to}\"]"
        ))
    };
    let at = |address| by_name("a.example", 443, Some(address));
    assert_eq!(terms(&with("10.0.0.0/8"), &at("10.0.0.1")), Some(Terms::Tls));
    assert_eq!(terms(&with("10.0.0.0/8"), &at("::ffff:10.0.0.1")), Some(Terms::Tls));
    assert_eq!(terms(&with("10.0.0.0/8"), &at("192.168.0.1")), None);
    // Even so, a metadata server must be named.
    assert_eq!(terms(&with("169.254.0.0/16"), &at("169.254.169.254")), None);
    assert_eq!(terms(&with("169.254.169.254/32"), &at("169.254.169.254")), Some(Terms::Tls));
}

#[test]
fn denied_prefix_wins_over_the_name_and_denied_name_over_every_grant() {
    let denied = |lines: &str| {
        let rule = format!("[[deny]]\nsubject = \"any\"\ndeny = [\"net.tcp.connect\"]\n{lines}");
        under(&format!(
            "{rule}\n[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nhosts = [\"*.example\"]"
        ))
    };
    let policy = denied("to = [\"203.0.113.0/24\"]");
    assert!(terms(&policy, &by_name("a.example", 443, None)).is_some());
    assert!(terms(&policy, &by_name("a.example", 443, Some("198.51.100.1"))).is_some());
    let reason = reason(policy.decide(&subject(1), &by_name("a.example", 443, Some("203.0.113.9"))));
    assert!(reason.starts_with("TCP connection to a.example:443 at 203.0.113.9: denied"), "{reason}");
    let policy = denied("hosts = [\"a.example\"]");
    assert_eq!(terms(&policy, &by_name("a.example", 443, None)), None);
    assert!(terms(&policy, &by_name("b.example", 443, None)).is_some());
}

#[test]
fn grants_for_prefixes_serve_names_that_may_be_resolved() {
    let text = r#"
[[grant]]
subject = "any"
allow = ["net.tcp.connect"]
to = ["10.0.0.0/8", "198.51.100.0/24"]
ports = ["80"]
[[grant]]
subject = "any"
allow = ["net.dns.resolve"]
hosts = ["*.example"]
"#;
    let policy = policy(true, text).unwrap();
    assert_eq!(terms(&policy, &by_name("a.example", 80, None)), Some(Terms::ByAddress));
    assert_eq!(terms(&policy, &by_name("a.example", 80, Some("10.0.0.1"))), Some(Terms::Free));
    assert_eq!(terms(&policy, &by_name("a.example", 80, Some("203.0.113.1"))), None);
    assert_eq!(terms(&policy, &by_name("a.example", 443, None)), None);
    let reason = reason(policy.decide(&subject(1), &by_name("a.test", 80, None)));
    assert!(
        reason.contains("test.toml:2") && reason.contains("net.dns.resolve for the name is missing"),
        "{reason}"
    );
}

#[test]
fn udp_443_is_not_in_a_grant_for_names() {
    let policy = under("hosts = [\"a.example\"]\nports = [\"443\"]");
    let reason = reason(policy.decide(&subject(1), &send("203.0.113.7:443")));
    assert!(reason.contains("no grant allows net.udp.send"), "{reason}");
}

#[test]
fn devnet_switch_comes_before_names() {
    let text = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nhosts = [\"a.example\"]\n";
    for address in [None, Some("203.0.113.7")] {
        let decision = policy(false, text).unwrap().decide(&subject(0), &by_name("a.example", 443, address));
        assert_eq!(decision.rule(), &Rule::Devnet);
    }
}
