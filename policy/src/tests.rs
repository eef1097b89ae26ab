//! Tests of the whole: tables of decisions; in `properties` what holds of any set of rules.

use std::net::Ipv4Addr;

use super::*;

mod by_name;
mod properties;
mod scopes;

const FILE: &str = "test.toml";

fn rules(text: &str) -> Vec<(Origin, RuleConfig)> {
    file::parse(FILE, text).expect("the test's rules parse")
}

fn policy(devnet_enabled: bool, text: &str) -> Result<Policy, Error> {
    let user = |name: &str| (name == "alice").then_some(1000);
    let group = |name: &str| (name == "net").then_some(50);
    Policy::new(devnet_enabled, rules(text), user, group)
}

fn subject(uid: u32) -> Subject {
    Subject { uid, gid: uid, pid: 1, unit: None }
}

fn connect(to: &str) -> Request {
    Request::TcpConnect { remote: to.parse().expect("an address") }
}

fn send(to: &str) -> Request {
    Request::UdpSend { remote: to.parse().expect("an address") }
}

fn resolve(name: &str) -> Request {
    Request::Resolve { name: Some(name.parse().expect("a name")) }
}

fn reason(decision: Decision) -> String {
    let Decision::Deny { error: Denial::PolicyDenied, reason, .. } = decision else { panic!("{decision:?}") };
    reason
}

const SCOPED: &str = r#"
[[grant]]
subject = "user:alice"
allow = ["net.tcp.connect", "net.icmp.ping"]
ports = ["8000-8999", "443"]
to = ["10.0.0.0/8"]

[[grant]]
subject = "user:alice"
allow = ["net.tcp.listen"]
ports = ["8000-8999"]
"#;

#[test]
fn decide_inside_scope_allows_and_names_the_rule_and_its_line() {
    let policy = policy(true, SCOPED).unwrap();
    let decision = policy.decide(&subject(1000), &connect("10.1.2.3:443"));
    let Decision::Allow { rule, terms: Terms::Free } = decision else { panic!("{decision:?}") };
    assert_eq!(rule.to_string(), "test.toml:2 (grant, user:alice)");
}

#[test]
fn decide_outside_scope_denies_and_says_what_is_missing() {
    let policy = policy(true, SCOPED).unwrap();
    for (request, hint) in [
        (connect("10.1.2.3:80"), "test.toml:2 (grant, user:alice) allows it, but only for other ports"),
        (connect("192.0.2.1:443"), "test.toml:2 (grant, user:alice) allows it, but only towards others"),
        (Request::TcpListen { port: None }, "only for other ports"),
        (Request::Ping { to: Ipv4Addr::new(192, 0, 2, 1).into() }, "only towards others"),
        (Request::UdpBind { port: Some(443) }, "no grant allows net.udp.bind"),
    ] {
        let reason = reason(policy.decide(&subject(1000), &request));
        assert!(reason.contains(hint), "{reason}");
    }
}

#[test]
fn denial_names_the_grant_that_is_nearest_wherever_it_stands() {
    let by_name = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nhosts = [\"a.example\"]\n";
    let asked = Request::parse(Capability::TcpConnect, Some("a.example:80")).unwrap();
    for ports in ["443", "81"] {
        let policy = policy(true, &format!("{by_name}ports = [\"{ports}\"]\n")).unwrap();
        let told = reason(policy.decide(&subject(1), &asked));
        assert!(told.ends_with("test.toml:1 (grant, any) allows it, but only for other ports"), "{told}");
    }
    let text = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nto = [\"192.0.2.0/24\"]\n\
                [[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nto = [\"10.0.0.0/8\"]\nports = [\"80\"]\n";
    let policy = policy(true, text).unwrap();
    let told = |to: &str| reason(policy.decide(&subject(1), &connect(to)));
    assert!(told("10.0.0.1:81").ends_with("test.toml:5 (grant, any) allows it, but only for other ports"));
    assert!(told("198.51.100.1:80").ends_with("test.toml:1 (grant, any) allows it, but only towards others"));
    assert!(!reason(policy.decide(&subject(1), &send("10.0.0.1:80"))).contains("allows it"));
}

#[test]
fn decide_for_another_user_denies() {
    let policy = policy(true, SCOPED).unwrap();
    assert!(!policy.decide(&subject(1001), &connect("10.1.2.3:443")).is_allowed());
}

#[test]
fn decide_mapped_ipv4_is_ipv4_on_either_side() {
    let policy = policy(true, SCOPED).unwrap();
    assert!(policy.decide(&subject(1000), &connect("[::ffff:10.1.2.3]:443")).is_allowed());
    assert!(!policy.decide(&subject(1000), &connect("[::ffff:192.0.2.1]:443")).is_allowed());
    let mapped = SCOPED.replace("10.0.0.0/8", "::ffff:10.0.0.0/104");
    let policy = self::policy(true, &mapped).unwrap();
    assert!(policy.decide(&subject(1000), &connect("10.1.2.3:443")).is_allowed());
    assert!(!policy.decide(&subject(1000), &connect("11.1.2.3:443")).is_allowed());
}

#[test]
fn decide_zone_of_an_address_does_not_matter() {
    let text = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nto = [\"fe80::/10\"]\n";
    let policy = policy(true, text).unwrap();
    assert!(policy.decide(&subject(1), &connect("[fe80::1%3]:80")).is_allowed());
}

#[test]
fn decide_ephemeral_port_needs_the_whole_dynamic_range() {
    let with = |ports: &str| {
        let text = format!("[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.listen\"]\nports = [{ports}]\n");
        policy(true, &text).unwrap().decide(&subject(1), &Request::TcpListen { port: None }).is_allowed()
    };
    assert!(with("\"49152-65535\""));
    assert!(with("\"49152-60000\", \"60001-65535\""));
    assert!(!with("\"49152-60000\""));
    assert!(!with("\"49152-59999\", \"60001-65535\""));
}

#[test]
fn decide_ephemeral_port_is_denied_when_one_of_them_is() {
    let text = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.listen\"]\n\
                [[deny]]\nsubject = \"any\"\ndeny = [\"net.tcp.listen\"]\nports = [\"60000\"]\n";
    let policy = policy(true, text).unwrap();
    assert!(!policy.decide(&subject(1), &Request::TcpListen { port: None }).is_allowed());
    assert!(!policy.decide(&subject(1), &Request::TcpListen { port: Some(60_000) }).is_allowed());
    assert!(policy.decide(&subject(1), &Request::TcpListen { port: Some(60_001) }).is_allowed());
}

#[test]
fn decide_by_group_and_unit() {
    let text = r#"
        [[grant]]
        subject = "group:net"
        allow = ["net.udp.bind"]
        [[grant]]
        subject = "unit:backup.service"
        allow = ["net.tcp.connect"]
    "#;
    let policy = policy(true, text).unwrap();
    let member = Subject { uid: 7, gid: 50, pid: 1, unit: None };
    let backup = Subject { uid: 7, gid: 7, pid: 1, unit: Some("backup.service".into()) };
    assert!(policy.decide(&member, &Request::UdpBind { port: Some(5353) }).is_allowed());
    assert!(!policy.decide(&backup, &Request::UdpBind { port: Some(5353) }).is_allowed());
    assert!(policy.decide(&backup, &connect("192.0.2.1:22")).is_allowed());
    assert!(!policy.decide(&member, &connect("192.0.2.1:22")).is_allowed());
}

#[test]
fn denial_wins_over_every_grant_and_is_named() {
    let text = r#"
[[grant]]
subject = "user:alice"
allow = ["net.tcp.connect"]
[[deny]]
subject = "any"
deny = ["net.tcp.connect"]
to = ["10.66.0.0/16"]
"#;
    let policy = policy(true, text).unwrap();
    assert!(policy.decide(&subject(1000), &connect("10.1.0.1:80")).is_allowed());
    let reason = reason(policy.decide(&subject(1000), &connect("10.66.0.1:80")));
    assert!(reason.ends_with("by test.toml:5 (deny, any)"), "{reason}");
}

#[test]
fn names_are_granted_by_pattern() {
    let text = r#"
        [[grant]]
        subject = "any"
        allow = ["net.dns.resolve"]
        hosts = ["*.example.org", "example.net"]
        [[deny]]
        subject = "any"
        deny = ["net.dns.resolve"]
        hosts = ["*.secret.example.org"]
    "#;
    let policy = policy(true, text).unwrap();
    let allowed = |request: &Request| policy.decide(&subject(1), request).is_allowed();
    assert!(allowed(&resolve("www.EXAMPLE.org.")));
    assert!(allowed(&resolve("a.b.example.org")));
    assert!(allowed(&resolve("example.net")));
    assert!(!allowed(&resolve("example.org")));
    assert!(!allowed(&resolve("www.example.net")));
    assert!(!allowed(&resolve("wwwexample.org")));
    assert!(!allowed(&resolve("key.secret.example.org")));
    assert!(allowed(&resolve("secret.example.org")));
    assert!(!allowed(&Request::Resolve { name: None }));
}

#[test]
fn metadata_server_is_reached_only_by_a_grant_that_names_it() {
    let grant = |to: &str| {
        let text = format!("[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\n{to}\n");
        policy(true, &text).unwrap().decide(&subject(0), &connect("169.254.169.254:80"))
    };
    for wide in ["", "to = [\"0.0.0.0/0\"]", "to = [\"169.254.0.0/16\"]", "to = [\"169.254.169.254/31\"]"] {
        assert!(reason(grant(wide)).contains("must be named"), "{wide}");
    }
    assert!(grant("to = [\"169.254.169.254/32\"]").is_allowed());
    let anywhere = policy(true, "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\n").unwrap();
    assert!(!anywhere.decide(&subject(0), &connect("[::ffff:169.254.169.254]:80")).is_allowed());
    assert!(anywhere.decide(&subject(0), &connect("169.254.169.253:80")).is_allowed());
}

#[test]
fn udp_443_is_reached_only_by_a_grant_that_names_the_port() {
    let grant = |ports: &str| {
        let text = format!("[[grant]]\nsubject = \"any\"\nallow = [\"net.udp.send\"]\n{ports}\n");
        policy(true, &text).unwrap()
    };
    for wide in ["", "ports = [\"1-65535\"]", "ports = [\"443-444\"]"] {
        let policy = grant(wide);
        assert!(
            reason(policy.decide(&subject(1), &send("192.0.2.1:443"))).contains("must be named"),
            "{wide}"
        );
        assert!(policy.decide(&subject(1), &send("192.0.2.1:444")).is_allowed());
    }
    assert!(grant("ports = [\"443\"]").decide(&subject(1), &send("192.0.2.1:443")).is_allowed());
}

#[test]
fn decide_without_grants_denies_listening_even_with_devnet_on() {
    let policy = policy(true, "").unwrap();
    assert!(!policy.decide(&subject(0), &Request::TcpListen { port: Some(80) }).is_allowed());
    assert!(policy.decide(&subject(0), &Request::Observe).is_allowed());
}

#[test]
fn operating_is_for_root_and_the_daemons_own_user_without_a_grant_and_for_others_with_one() {
    let grant = "[[grant]]\nsubject = \"user:9\"\nallow = [\"net.admin\"]\n";
    // It is about netd and no peer, so the devnet switch does not matter.
    for devnet in [false, true] {
        let policy = policy(devnet, grant).unwrap().with_operator(7);
        for uid in [0, 7] {
            assert_eq!(policy.decide(&subject(uid), &Request::Operate).rule(), &Rule::Operator);
        }
        assert_eq!(policy.decide(&subject(9), &Request::Operate).rule().origin().unwrap().line, 1);
        let reason = reason(policy.decide(&subject(8), &Request::Operate));
        assert!(reason.contains("no grant allows net.admin here to uid 8"), "{reason}");
    }
}

#[test]
fn operating_that_is_denied_is_denied_to_root_too() {
    let text = "[[deny]]\nsubject = \"unit:box.service\"\ndeny = [\"net.admin\"]\n\
                [[grant]]\nsubject = \"any\"\nallow = [\"net.admin\"]\n";
    let policy = policy(true, text).unwrap().with_operator(7);
    for uid in [0, 7, 9] {
        let boxed = Subject { unit: Some("box.service".into()), ..subject(uid) };
        assert!(reason(policy.decide(&boxed, &Request::Operate)).contains("denied to"), "{uid}");
        assert!(policy.decide(&subject(uid), &Request::Operate).is_allowed());
    }
}

#[test]
fn rule_that_can_never_apply_is_refused_with_its_line() {
    for (lines, wanted) in [
        ("subject = \"user:bob\"\nallow = [\"net.udp.bind\"]", "there is no user 'bob'"),
        ("subject = \"group:bob\"\nallow = [\"net.udp.bind\"]", "there is no group 'bob'"),
        ("subject = \"any\"\nallow = []", "'allow' is an empty list"),
        ("subject = \"any\"\nallow = [\"net.udp.bind\"]\nports = []", "'ports' is an empty list"),
        ("subject = \"any\"\nallow = [\"net.udp.send\"]\nto = []", "'to' is an empty list"),
        ("subject = \"any\"\nallow = [\"net.dns.resolve\"]\nhosts = []", "'hosts' is an empty list"),
        ("subject = \"any\"\nallow = [\"net.udp.send\"]\nhosts = [\"a.b\"]", "net.udp.send knows no names"),
        (
            "subject = \"any\"\nallow = [\"net.tcp.connect\", \"net.udp.send\"]\nhosts = [\"a.b\"]",
            "net.udp.send knows no names",
        ),
        ("subject = \"any\"\nallow = [\"net.tcp.connect\"]\ntls = \"any\"", "it needs 'hosts'"),
        (
            "subject = \"any\"\nallow = [\"net.dns.resolve\"]\nhosts = [\"a.b\"]\ntls = \"any\"",
            "and net.tcp.connect",
        ),
        (
            "subject = \"any\"\nallow = [\"net.tcp.connect\"]\nredirects = \"granted\"",
            "it needs net.http.fetch",
        ),
        ("subject = \"any\"\nallow = [\"net.tcp.listen\"]\nto = [\"::/0\"]", "net.tcp.listen names no peer"),
        ("subject = \"any\"\nallow = [\"net.dns.resolve\"]\nhosts = [\"a.b\"]\nto = [\"::/0\"]", "two rules"),
    ] {
        let error = policy(true, &format!("\n[[grant]]\n{lines}\n")).unwrap_err().to_string();
        assert!(error.starts_with("test.toml:2: ") && error.contains(wanted), "{error}");
    }
}

#[test]
fn file_with_wrong_values_is_refused_with_line_and_what_would_be_right() {
    for (text, line, wanted) in [
        ("[[grant]]\nsubject = \"bob\"\nallow = []", 2, "expected 'any', 'user:NAME'"),
        ("[[grant]]\nsubject = \"user:99999999999\"\nallow = []", 2, "is not a subject"),
        ("[[grant]]\nsubject = \"any\"\nallow = [\"net.fly\"]", 3, "expected one of net.tcp.connect"),
        ("[[deny]]\nsubject = \"any\"\ndeny = []\nports = [\"9-1\"]", 4, "is not a port range"),
        ("[[deny]]\nsubject = \"any\"\ndeny = []\nports = [\"0\"]", 4, "is not a port range"),
        ("[[grant]]\nsubject = \"any\"\nallow = []\nport = [\"1\"]", 4, "unknown field `port`"),
        ("[[grant]]\nsubject = \"any\"\nallow = []\nhosts = [\"*\"]", 4, "leave the key out"),
        ("[[grant]]\nsubject = \"any\"\nallow = []\ntls = \"on\"", 4, "expected \"required\" or \"any\""),
        ("[[grant]]\nsubject = \"any\"\nallow = []\nredirects = \"all\"", 4, "expected \"same-host\" or"),
        ("[[deny]]\nsubject = \"any\"\ndeny = []\ntls = \"any\"", 4, "unknown field `tls`"),
        ("[[grant]]\nsubject = \"any\"\ndeny = []", 3, "unknown field `deny`"),
        ("[network.devnet]\nenabled = true", 1, "unknown field `network`"),
        ("[[grant]\n", 1, ""),
    ] {
        let error = file::parse(FILE, text).unwrap_err();
        assert!(error.line == line && error.message.contains(wanted), "{error}");
    }
}

const FETCHES: &str = r#"
[[grant]]
subject = "user:alice"
allow = ["net.http.fetch"]
hosts = ["*.example.org", "fixture.local"]
ports = ["80", "443"]
"#;

#[test]
fn fetch_is_granted_by_name_and_port_and_that_of_fixtures_leaves_the_switch_alone() {
    let fetch = |text: &str| Request::Fetch { from: text.parse().expect("an authority") };
    let on = policy(true, FETCHES).unwrap();
    assert!(on.decide(&subject(1000), &fetch("WWW.example.org.:443")).is_allowed());
    for outside in
        ["example.org:443", "www.example.org:8080", "192.0.2.1:443", "www.example.org.evil.net:443"]
    {
        assert!(!on.decide(&subject(1000), &fetch(outside)).is_allowed(), "{outside}");
    }
    assert!(!on.decide(&subject(1001), &fetch("www.example.org:443")).is_allowed());
    assert!(!on.decide(&subject(1000), &Request::FetchReal).is_allowed());
    let off = policy(false, FETCHES).unwrap();
    assert!(off.decide(&subject(1000), &fetch("fixture.local:80")).is_allowed());
    assert_eq!(off.decide(&subject(1000), &fetch("www.example.org:443")).rule(), &Rule::Devnet);
}

#[test]
fn redirects_to_other_hosts_are_followed_where_a_grant_says_so_and_nowhere_else() {
    let also = "[[grant]]\nsubject = \"user:alice\"\nallow = [\"net.http.fetch\"]\nhosts = [\"www.example.org\"]\nports = [\"443\"]\n";
    let redirecting = format!("{FETCHES}{also}redirects = \"granted\"\n");
    let terms = |text: &str, from: &str| {
        let from = from.parse().expect("an authority");
        policy(true, text).unwrap().decide(&subject(1000), &Request::Fetch { from }).terms()
    };
    assert_eq!(terms(FETCHES, "www.example.org:443"), Some(Terms::Free));
    assert_eq!(terms(&redirecting, "www.example.org:443"), Some(Terms::Redirected));
    assert_eq!(terms(&redirecting, "www.example.org:80"), Some(Terms::Free));
    assert_eq!(terms(&redirecting, "api.example.org:443"), Some(Terms::Free));
    let same_host = redirecting.replace("granted", "same-host");
    assert_eq!(terms(&same_host, "www.example.org:443"), Some(Terms::Free));
    let denied =
        format!("{redirecting}[[deny]]\nsubject = \"any\"\ndeny = [\"net.http.fetch\"]\nports = [\"443\"]\n");
    assert_eq!(terms(&denied, "www.example.org:443"), None);
}

#[test]
fn representing_is_for_one_user_and_not_even_for_root() {
    let policy = policy(true, "").unwrap();
    assert!(!policy.decide(&subject(0), &Request::Represent).is_allowed());
    let policy = policy.with_representative(77);
    assert_eq!(policy.decide(&subject(77), &Request::Represent).rule(), &Rule::Representative);
    assert!(reason(policy.decide(&subject(0), &Request::Represent)).contains("only uid 77 may"));
}
