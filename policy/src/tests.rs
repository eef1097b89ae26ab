//! Tests of the whole: tables of decisions, and properties over random rule sets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

#[derive(serde::Deserialize)]
struct File {
    grant: Vec<GrantConfig>,
}

fn grants(text: &str) -> Result<Vec<GrantConfig>, toml::de::Error> {
    toml::from_str::<File>(text).map(|file| file.grant)
}

fn policy(devnet_enabled: bool, text: &str) -> Result<Policy, Error> {
    let user = |name: &str| (name == "alice").then_some(1000);
    let group = |name: &str| (name == "net").then_some(50);
    Policy::new(devnet_enabled, &grants(text).expect("the test's grants parse"), user, group)
}

fn subject(uid: u32) -> Subject {
    Subject { uid, gid: uid, pid: 1, unit: None }
}

fn connect(to: &str) -> Request {
    Request::TcpConnect { remote: to.parse().expect("an address") }
}

const SCOPED: &str = r#"
    [[grant]]
    subject = "user:alice"
    allow = ["net.tcp.connect", "net.tcp.listen", "net.icmp.ping"]
    ports = ["8000-8999", "443"]
    to = ["10.0.0.0/8"]
"#;

#[test]
fn decide_inside_scope_allows_and_names_the_grant() {
    let policy = policy(true, SCOPED).unwrap();
    let decision = policy.decide(&subject(1000), &connect("10.1.2.3:443"));
    let Decision::Allow { rule } = decision else { panic!("{decision:?}") };
    assert_eq!(rule.to_string(), "grant 1 (user:alice)");
}

#[test]
fn decide_outside_scope_denies_and_says_what_is_missing() {
    let policy = policy(true, SCOPED).unwrap();
    for (request, hint) in [
        (connect("10.1.2.3:80"), "grant 1 (user:alice) allows it, but only for other ports"),
        (connect("192.0.2.1:443"), "grant 1 (user:alice) allows it, but only towards other addresses"),
        (Request::TcpListen { port: None }, "only for other ports"),
        (Request::Ping { to: Ipv4Addr::new(192, 0, 2, 1).into() }, "only towards other addresses"),
        (Request::UdpBind { port: Some(443) }, "no grant allows net.udp.bind"),
    ] {
        let decision = policy.decide(&subject(1000), &request);
        let Decision::Deny { error: Denial::PolicyDenied, reason, .. } = decision else {
            panic!("{decision:?}")
        };
        assert!(reason.contains(hint), "{reason}");
    }
}

#[test]
fn decide_for_another_user_denies() {
    let policy = policy(true, SCOPED).unwrap();
    assert!(!policy.decide(&subject(1001), &connect("10.1.2.3:443")).is_allowed());
}

#[test]
fn decide_mapped_ipv4_peer_is_the_ipv4_peer() {
    let policy = policy(true, SCOPED).unwrap();
    assert!(policy.decide(&subject(1000), &connect("[::ffff:10.1.2.3]:443")).is_allowed());
    assert!(!policy.decide(&subject(1000), &connect("[::ffff:192.0.2.1]:443")).is_allowed());
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
fn decide_without_grants_denies_listening_even_with_devnet_on() {
    let policy = Policy::new(true, &[], |_| None, |_| None).unwrap();
    assert!(!policy.decide(&subject(0), &Request::TcpListen { port: Some(80) }).is_allowed());
    assert!(policy.decide(&subject(0), &Request::Observe).is_allowed());
}

#[test]
fn decide_operate_is_for_root_and_the_daemons_own_user() {
    let policy = Policy::new(false, &[], |_| None, |_| None).unwrap().with_operator(7);
    assert!(policy.decide(&subject(0), &Request::Operate).is_allowed());
    assert!(policy.decide(&subject(7), &Request::Operate).is_allowed());
    let decision = policy.decide(&subject(8), &Request::Operate);
    let Decision::Deny { error: Denial::PolicyDenied, reason, rule: Rule::Operator } = decision else {
        panic!("{decision:?}")
    };
    assert!(reason.contains("only root and the user that netd runs as"), "{reason}");
}

#[test]
fn new_with_unknown_user_names_the_grant() {
    let text = "[[grant]]\nsubject = \"user:bob\"\nallow = [\"net.udp.bind\"]\n";
    let error = policy(true, text).unwrap_err();
    assert_eq!(error, Error::UnknownUser { number: 1, name: "bob".into() });
}

#[test]
fn new_with_empty_lists_is_refused() {
    for (line, key) in [("allow = []", "allow"), ("allow = [\"net.udp.bind\"]\nports = []", "ports")] {
        let error = policy(true, &format!("[[grant]]\nsubject = \"any\"\n{line}\n")).unwrap_err();
        assert!(matches!(error, Error::EmptyList { number: 1, key: found, .. } if found == key), "{error}");
    }
}

#[test]
fn parse_of_wrong_values_says_what_would_be_right() {
    for (text, wanted) in [
        ("subject = \"bob\"\nallow = []", "expected 'any', 'user:NAME'"),
        ("subject = \"user:99999999999\"\nallow = []", "is not a subject"),
        ("subject = \"any\"\nallow = [\"net.fly\"]", "expected one of net.tcp.connect"),
        ("subject = \"any\"\nallow = []\nports = [\"9-1\"]", "is not a port range"),
        ("subject = \"any\"\nallow = []\nports = [\"0\"]", "is not a port range"),
        ("subject = \"any\"\nallow = []\nport = [\"1\"]", "unknown field `port`"),
    ] {
        let error = grants(&format!("[[grant]]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

fn any_grant() -> impl Strategy<Value = GrantConfig> {
    let subject = prop_oneof![
        Just(SubjectPattern::Any),
        (0u32..4).prop_map(SubjectPattern::Uid),
        (0u32..4).prop_map(SubjectPattern::Gid),
        Just(SubjectPattern::Unit("a.service".into())),
    ];
    let capability = prop::sample::select(vec![
        Capability::TcpConnect,
        Capability::TcpListen,
        Capability::UdpBind,
        Capability::UdpSend,
        Capability::IcmpPing,
        Capability::DnsResolve,
        Capability::Capture,
    ]);
    let range =
        (1u16..20, 0u16..20).prop_map(|(first, more)| PortRange::new(first, first + more).expect("in order"));
    let prefix = (0u8..4, 8u8..=32).prop_map(|(net, len)| {
        ipnet::Ipv4Net::new(Ipv4Addr::new(10, net, 0, 1), len).expect("a valid length").into()
    });
    (
        subject,
        prop::collection::vec(capability, 1..4),
        prop::option::of(prop::collection::vec(range, 1..3)),
        prop::option::of(prop::collection::vec(prefix, 1..3)),
    )
        .prop_map(|(subject, allow, ports, to)| GrantConfig { subject, allow, ports, to })
}

fn any_subject() -> impl Strategy<Value = Subject> {
    (0u32..4, 0u32..4, any::<bool>()).prop_map(|(uid, gid, unit)| Subject {
        uid,
        gid,
        pid: 1,
        unit: unit.then(|| "a.service".to_owned()),
    })
}

fn any_peer() -> impl Strategy<Value = SocketAddr> {
    (0u8..4, any::<u8>(), 1u16..40)
        .prop_map(|(net, host, port)| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, net, 0, host)), port))
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any_peer().prop_map(|remote| Request::TcpConnect { remote }),
        any_peer().prop_map(|remote| Request::UdpSend { remote }),
        any_peer().prop_map(|peer| Request::Ping { to: peer.ip() }),
        prop::option::of(1u16..40).prop_map(|port| Request::TcpListen { port }),
        prop::option::of(1u16..40).prop_map(|port| Request::UdpBind { port }),
        Just(Request::Resolve),
        Just(Request::Capture),
    ]
}

fn resolved(devnet_enabled: bool, grants: &[GrantConfig]) -> Policy {
    Policy::new(devnet_enabled, grants, |_| None, |_| None).expect("numbers need no resolving")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decide_is_independent_of_grant_order(
        (grants, shuffled) in prop::collection::vec(any_grant(), 0..6)
            .prop_flat_map(|grants| (Just(grants.clone()), Just(grants).prop_shuffle())),
        devnet in any::<bool>(), subject in any_subject(), request in any_request(),
    ) {
        let one = resolved(devnet, &grants).decide(&subject, &request).is_allowed();
        let other = resolved(devnet, &shuffled).decide(&subject, &request).is_allowed();
        prop_assert_eq!(one, other);
    }

    #[test]
    fn decide_with_devnet_off_denies_every_outbound_request(
        grants in prop::collection::vec(any_grant(), 0..6), subject in any_subject(), request in any_request(),
    ) {
        let decision = resolved(false, &grants).decide(&subject, &request);
        if request.is_outbound() {
            let named = matches!(decision, Decision::Deny { error: Denial::DevnetDisabled, rule: Rule::Devnet, .. });
            prop_assert!(named, "{:?}", decision);
        } else {
            prop_assert_eq!(decision, resolved(true, &grants).decide(&subject, &request));
        }
    }

    #[test]
    fn decide_with_one_more_grant_never_takes_away(
        grants in prop::collection::vec(any_grant(), 0..5), more in any_grant(),
        subject in any_subject(), request in any_request(),
    ) {
        let before = resolved(true, &grants).decide(&subject, &request).is_allowed();
        let after = resolved(true, &[grants, vec![more]].concat()).decide(&subject, &request).is_allowed();
        prop_assert!(!before || after);
    }

    #[test]
    fn grant_config_survives_its_own_text(grant in any_grant()) {
        let text = toml::to_string(&grant).expect("serialises");
        prop_assert_eq!(toml::from_str::<GrantConfig>(&text).expect("parses"), grant);
    }
}
