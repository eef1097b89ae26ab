//! Tests of the whole: tables of decisions, and properties over random rule sets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::*;

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
    let Decision::Allow { rule } = decision else { panic!("{decision:?}") };
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
fn decide_operate_is_for_root_and_the_daemons_own_user() {
    let policy = policy(false, "").unwrap().with_operator(7);
    assert!(policy.decide(&subject(0), &Request::Operate).is_allowed());
    assert!(policy.decide(&subject(7), &Request::Operate).is_allowed());
    let reason = reason(policy.decide(&subject(8), &Request::Operate));
    assert!(reason.contains("only root and the user that netd runs as"), "{reason}");
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
        ("[[grant]]\nsubject = \"any\"\ndeny = []", 3, "unknown field `deny`"),
        ("[network.devnet]\nenabled = true", 1, "unknown field `network`"),
        ("[[grant]\n", 1, ""),
    ] {
        let error = file::parse(FILE, text).unwrap_err();
        assert!(error.line == line && error.message.contains(wanted), "{error}");
    }
}

fn any_host() -> impl Strategy<Value = HostName> {
    "[ab](\\.[ab]){0,2}\\.org".prop_map(|name| name.parse().expect("a name"))
}

fn any_rule() -> impl Strategy<Value = RuleConfig> {
    let subject = prop_oneof![
        Just(SubjectPattern::Any),
        (0u32..4).prop_map(SubjectPattern::Uid),
        (0u32..4).prop_map(SubjectPattern::Gid),
        Just(SubjectPattern::Unit("a.service".into())),
    ];
    let capabilities = prop::collection::vec(prop::sample::select(Capability::ALL.to_vec()), 1..4);
    let range = prop_oneof![
        4 => (1u16..20, 0u16..20).prop_map(|(first, more)| (first, first + more)),
        1 => Just((443, 443)),
        1 => Just((400, 65_535)),
    ]
    .prop_map(|(first, last)| PortRange::new(first, last).expect("in order"));
    let prefix = prop_oneof![
        (0u8..4, 8u8..=32).prop_map(|(net, len)| (Ipv4Addr::new(10, net, 0, 1), len)),
        (30u8..=32).prop_map(|len| (Ipv4Addr::new(169, 254, 169, 254), len)),
    ]
    .prop_map(|(address, len)| IpNet::from(Ipv4Net::new(address, len).expect("a valid length")));
    let pattern = (any::<bool>(), any_host()).prop_map(|(below, name)| {
        format!("{}{name}", if below { "*." } else { "" }).parse().expect("a pattern")
    });
    (
        any::<bool>(),
        subject,
        capabilities,
        prop::option::of(prop::collection::vec(range, 1..3)),
        prop::option::of(prop::collection::vec(prefix, 1..3)),
        prop::option::of(prop::collection::vec(pattern, 1..3)),
    )
        .prop_map(|(grant, subject, capabilities, ports, to, hosts)| match (hosts, grant) {
            (Some(hosts), grant) => RuleConfig {
                effect: if grant { Effect::Grant } else { Effect::Deny },
                subject,
                capabilities: vec![Capability::DnsResolve, Capability::HttpFetch, Capability::TlsValidate],
                ports,
                to: None,
                hosts: Some(hosts),
            },
            (None, grant) => {
                let effect = if grant { Effect::Grant } else { Effect::Deny };
                let to = to.filter(|_| capabilities.iter().all(|capability| capability.has_peer()));
                RuleConfig { effect, subject, capabilities, ports, to, hosts: None }
            }
        })
}

fn any_rules() -> impl Strategy<Value = Vec<RuleConfig>> {
    prop::collection::vec(any_rule(), 0..8)
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
    let address = prop_oneof![
        5 => (0u8..4, any::<u8>()).prop_map(|(net, host)| Ipv4Addr::new(10, net, 0, host)),
        1 => Just(Ipv4Addr::new(169, 254, 169, 254)),
    ];
    let port = prop_oneof![4 => 1u16..40, 1 => Just(443)];
    (address, port).prop_map(|(address, port)| SocketAddr::new(IpAddr::V4(address), port))
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any_peer().prop_map(|remote| Request::TcpConnect { remote }),
        any_peer().prop_map(|remote| Request::UdpSend { remote }),
        any_peer().prop_map(|peer| Request::Ping { to: peer.ip() }),
        prop::option::of(1u16..40).prop_map(|port| Request::TcpListen { port }),
        prop::option::of(1u16..40).prop_map(|port| Request::UdpBind { port }),
        prop::option::of(any_host()).prop_map(|name| Request::Resolve { name }),
        any_authority().prop_map(|from| Request::Fetch { from }),
        any_authority().prop_map(|of| Request::ValidateTls { of }),
        Just(Request::FetchReal),
        Just(Request::ManageTrust),
        Just(Request::Capture),
    ]
}

fn any_authority() -> impl Strategy<Value = Authority> {
    prop_oneof![
        any_peer().prop_map(|peer| Authority { host: Host::Address(peer.ip()), port: peer.port() }),
        (any_host(), 1u16..40).prop_map(|(name, port)| Authority { host: Host::Name(name), port }),
        Just(Authority { host: FIXTURE_HOST.parse().expect("a name"), port: 80 }),
    ]
}

fn placed(rules: &[RuleConfig]) -> Vec<(Origin, RuleConfig)> {
    let origin = |line| Origin { file: FILE.into(), line };
    rules.iter().cloned().zip(1..).map(|(rule, line)| (origin(line), rule)).collect()
}

fn compiled(devnet_enabled: bool, rules: &[RuleConfig]) -> Policy {
    Policy::new(devnet_enabled, placed(rules), |_| None, |_| None).expect("numbers need no resolving")
}

/// What the rules say, by looking at each of them: what the index must agree with.
fn allowed_by_reading(rules: &[RuleConfig], subject: &Subject, request: &Request) -> bool {
    let metadata = request.peer() == Some(Ipv4Addr::new(169, 254, 169, 254).into());
    let capability = request.capability().expect("one that rules decide");
    let is_for = |rule: &RuleConfig| match &rule.subject {
        SubjectPattern::Any => true,
        SubjectPattern::Uid(uid) => subject.uid == *uid,
        SubjectPattern::Gid(gid) => subject.gid == *gid,
        SubjectPattern::Unit(unit) => subject.unit.as_ref() == Some(unit),
        SubjectPattern::User(_) | SubjectPattern::Group(_) => false,
    };
    let covers_place = |rule: &RuleConfig| match request {
        Request::Resolve { name: Some(name) }
        | Request::Fetch { from: Authority { host: Host::Name(name), .. } }
        | Request::ValidateTls { of: Authority { host: Host::Name(name), .. } } => {
            rule.to.is_none()
                && rule.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host.matches(name)))
        }
        _ => match (request.peer(), &rule.to) {
            (Some(peer), Some(to)) => to.iter().any(|prefix| {
                let named = !metadata || rule.effect == Effect::Deny || prefix.prefix_len() == 32;
                prefix.contains(&peer) && named
            }),
            (Some(_), None) => rule.hosts.is_none() && (!metadata || rule.effect == Effect::Deny),
            (None, to) => to.is_none() && rule.hosts.is_none(),
        },
    };
    let covers_port = |rule: &RuleConfig, port: u16| match &rule.ports {
        None => !(rule.effect == Effect::Grant && capability == Capability::UdpSend && port == 443),
        Some(ports) => ports.iter().any(|range| {
            let named = rule.effect == Effect::Deny || capability != Capability::UdpSend || port != 443;
            range.contains(port) && (named || range.to_string() == "443")
        }),
    };
    let fits =
        |rule: &&RuleConfig| rule.capabilities.contains(&capability) && is_for(rule) && covers_place(rule);
    let of = |effect: Effect| rules.iter().filter(move |rule| rule.effect == effect).filter(fits);
    match request {
        Request::TcpConnect { remote } | Request::UdpSend { remote } => {
            let on = |rule: &RuleConfig| covers_port(rule, remote.port());
            !of(Effect::Deny).any(on) && of(Effect::Grant).any(on)
        }
        Request::Fetch { from: Authority { port, .. } }
        | Request::ValidateTls { of: Authority { port, .. } } => {
            let on = |rule: &RuleConfig| covers_port(rule, *port);
            !of(Effect::Deny).any(on) && of(Effect::Grant).any(on)
        }
        Request::TcpListen { port: Some(port) } | Request::UdpBind { port: Some(port) } => {
            let on = |rule: &RuleConfig| covers_port(rule, *port);
            !of(Effect::Deny).any(on) && of(Effect::Grant).any(on)
        }
        Request::TcpListen { port: None } | Request::UdpBind { port: None } => {
            let mut ports = 49152..=65535u16;
            let part = ports.clone().any(|port| of(Effect::Deny).any(|rule| covers_port(rule, port)));
            // Grants of one subject add up; those of different subjects are looked at apart.
            let whole = of(Effect::Grant).any(|one| {
                ports.all(|port| {
                    of(Effect::Grant)
                        .filter(|rule| rule.subject == one.subject)
                        .any(|rule| covers_port(rule, port))
                })
            });
            !part && whole
        }
        _ => of(Effect::Deny).next().is_none() && of(Effect::Grant).next().is_some(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decide_agrees_with_reading_every_rule(
        rules in any_rules(), subject in any_subject(), request in any_request(),
    ) {
        let decision = compiled(true, &rules).decide(&subject, &request);
        prop_assert_eq!(decision.is_allowed(), allowed_by_reading(&rules, &subject, &request), "{:?}", decision);
    }

    #[test]
    fn decide_is_independent_of_the_order_of_rules(
        (rules, shuffled) in any_rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        devnet in any::<bool>(), subject in any_subject(), request in any_request(),
    ) {
        let one = compiled(devnet, &rules).decide(&subject, &request).is_allowed();
        let other = compiled(devnet, &shuffled).decide(&subject, &request).is_allowed();
        prop_assert_eq!(one, other);
    }

    #[test]
    fn decide_names_a_rule_that_exists_and_has_the_effect(
        rules in any_rules(), subject in any_subject(), request in any_request(),
    ) {
        let decision = compiled(true, &rules).decide(&subject, &request);
        if let Rule::Written { effect, origin, subject: pattern } = decision.rule() {
            let rule = &rules[origin.line - 1];
            prop_assert_eq!((rule.effect, &rule.subject), (*effect, pattern));
            prop_assert_eq!(decision.is_allowed(), *effect == Effect::Grant);
        } else {
            prop_assert_eq!(decision.rule(), &Rule::Default);
        }
    }

    #[test]
    fn decide_with_devnet_off_denies_every_outbound_request(
        rules in any_rules(), subject in any_subject(), request in any_request(),
    ) {
        let decision = compiled(false, &rules).decide(&subject, &request);
        if request.is_outbound() {
            let named = matches!(decision, Decision::Deny { error: Denial::DevnetDisabled, rule: Rule::Devnet, .. });
            prop_assert!(named, "{:?}", decision);
        } else {
            prop_assert_eq!(decision, compiled(true, &rules).decide(&subject, &request));
        }
    }

    #[test]
    fn decide_with_one_more_grant_never_takes_away_and_with_one_more_denial_never_gives(
        rules in any_rules(), more in any_rule(), subject in any_subject(), request in any_request(),
    ) {
        let before = compiled(true, &rules).decide(&subject, &request).is_allowed();
        let effect = more.effect;
        let after = compiled(true, &[rules, vec![more]].concat()).decide(&subject, &request).is_allowed();
        let monotone = if effect == Effect::Grant { !before || after } else { before || !after };
        prop_assert!(monotone);
    }

    #[test]
    fn rules_survive_their_own_text(rules in any_rules()) {
        let text = file::print(&rules).to_string();
        let parsed: Vec<_> = file::parse(FILE, &text).expect("parses").into_iter().map(|(_, rule)| rule).collect();
        prop_assert_eq!(&parsed, &rules);
        prop_assert_eq!(file::print(&parsed).to_string(), text);
    }
}

/// Whether a grant for `asked` has to allow `request` as well, since rules cannot say less.
fn is_implied(asked: &Request, request: &Request) -> bool {
    match (asked, request) {
        (Request::Resolve { name: None }, Request::Resolve { .. }) => true,
        (Request::TcpListen { port: None }, Request::TcpListen { port: Some(port) })
        | (Request::UdpBind { port: None }, Request::UdpBind { port: Some(port) }) => *port >= 49_152,
        _ => asked == request,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn request_survives_its_own_text(request in any_request()) {
        let capability = request.capability().expect("one that rules decide");
        let parsed = Request::parse(capability, request.target_text().as_deref());
        prop_assert_eq!(parsed, Ok(request));
    }

    #[test]
    fn learned_grants_allow_what_was_asked_for_and_nothing_else(
        asked in prop::collection::vec(any_request(), 1..8), other in any_request(), subject in any_subject(),
    ) {
        let who = SubjectPattern::Uid(subject.uid);
        let policy = compiled(true, &smallest_grants(&who, &asked));
        for request in &asked {
            prop_assert!(policy.decide(&subject, request).is_allowed(), "{}", request);
        }
        let implied = asked.iter().any(|asked| is_implied(asked, &other));
        prop_assert_eq!(policy.decide(&subject, &other).is_allowed(), implied, "{}", other);
        let somebody_else = Subject { uid: subject.uid + 1, ..subject };
        prop_assert!(asked.iter().all(|request| !policy.decide(&somebody_else, request).is_allowed()));
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
fn representing_is_for_one_user_and_not_even_for_root() {
    let policy = policy(true, "").unwrap();
    assert!(!policy.decide(&subject(0), &Request::Represent).is_allowed());
    let policy = policy.with_representative(77);
    assert_eq!(policy.decide(&subject(77), &Request::Represent).rule(), &Rule::Representative);
    assert!(reason(policy.decide(&subject(0), &Request::Represent)).contains("only uid 77 may"));
}
