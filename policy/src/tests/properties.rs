//! Properties over random rules, subjects and requests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::FILE;
use crate::*;

fn any_host() -> impl Strategy<Value = HostName> {
    "[ab](\\.[ab]){0,2}\\.org".prop_map(|name| name.parse().expect("a name"))
}

fn any_device() -> impl Strategy<Value = BusDevice> {
    prop_oneof!["[ab]{1,3}", Just("loopback".to_owned())].prop_map(|name| name.parse().expect("a device"))
}

fn any_service() -> impl Strategy<Value = BusService> {
    "[ab]".prop_map(|name| name.parse().expect("a service"))
}

/// A rule about the bus alone: what has no devices is not limited to some, and what has no services neither.
fn any_bus_rule() -> impl Strategy<Value = RuleConfig> {
    let pattern = (any_device(), any::<bool>()).prop_map(|(name, prefix)| {
        format!("{name}{}", if prefix { "*" } else { "" }).parse().expect("a pattern")
    });
    let capabilities = vec![
        Capability::BusDiscover,
        Capability::BusSessionOpen,
        Capability::BusStreamOpen,
        Capability::BusCall,
        Capability::BusShareService,
        Capability::BusShareFiles,
        Capability::BusShareState,
        Capability::BusShareStateWrite,
    ];
    let capabilities = prop::collection::vec(prop::sample::select(capabilities), 1..3);
    (
        any::<bool>(),
        0u32..4,
        capabilities,
        prop::option::of(prop::collection::vec(pattern, 1..3)),
        prop::option::of(prop::collection::vec(any_service(), 1..3)),
    )
        .prop_map(|(grant, uid, capabilities, devices, services)| RuleConfig {
            effect: if grant { Effect::Grant } else { Effect::Deny },
            subject: SubjectPattern::Uid(uid),
            ports: None,
            to: None,
            hosts: None,
            devices: devices.filter(|_| capabilities.iter().all(|capability| capability.has_devices())),
            services: services.filter(|_| capabilities.iter().all(|capability| capability.has_services())),
            capabilities,
            ether_types: None,
            tls: None,
            redirects: None,
        })
}

fn any_ether_type() -> impl Strategy<Value = EtherType> {
    (0x88b5u16..0x88b9).prop_map(|number| EtherType::new(number).expect("nobody's"))
}

fn any_rule() -> impl Strategy<Value = RuleConfig> {
    prop_oneof![6 => any_net_rule(), 4 => any_bus_rule(), 1 => any_rule_of_frames()]
}

fn any_rule_of_frames() -> impl Strategy<Value = RuleConfig> {
    let ether_types = prop::collection::vec(any_ether_type(), 1..3);
    (any_net_rule(), ether_types).prop_map(|(rule, ether_types)| RuleConfig {
        capabilities: vec![Capability::Raw],
        to: None,
        hosts: None,
        ether_types: Some(ether_types),
        tls: None,
        redirects: None,
        ..rule
    })
}

fn any_net_rule() -> impl Strategy<Value = RuleConfig> {
    let subject = prop_oneof![
        Just(SubjectPattern::Any),
        (1u32..5).prop_map(SubjectPattern::Uid),
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
    let tls = prop::option::of(prop::sample::select(vec![Tls::Required, Tls::Any]));
    (
        any::<bool>(),
        subject,
        capabilities,
        prop::option::of(prop::collection::vec(range, 1..3)),
        prop::option::of(prop::collection::vec(prefix, 1..3)),
        prop::option::of((prop::collection::vec(pattern, 1..3), 1usize..16, tls)),
        prop::option::of(prop::sample::select(vec![Redirects::SameHost, Redirects::Granted])),
    )
        .prop_map(|(grant, subject, capabilities, ports, to, hosts, redirects)| {
            let effect = if grant { Effect::Grant } else { Effect::Deny };
            let followed = |redirects: Option<Redirects>, capabilities: &[Capability]| {
                redirects.filter(|_| grant && capabilities.contains(&Capability::HttpFetch))
            };
            let Some((hosts, which, tls)) = hosts else {
                let to = to.filter(|_| capabilities.iter().all(|capability| capability.has_peer()));
                let redirects = followed(redirects, &capabilities);
                return RuleConfig {
                    effect,
                    subject,
                    capabilities,
                    ports,
                    to,
                    hosts: None,
                    devices: None,
                    services: None,
                    ether_types: None,
                    tls: None,
                    redirects,
                };
            };
            let named = [
                Capability::DnsResolve,
                Capability::TcpConnect,
                Capability::HttpFetch,
                Capability::TlsValidate,
            ];
            let capabilities = named.into_iter().enumerate().filter(|(bit, _)| which & (1 << bit) != 0);
            let capabilities: Vec<_> = capabilities.map(|(_, capability)| capability).collect();
            let tls = tls.filter(|_| grant && capabilities.contains(&Capability::TcpConnect));
            let redirects = followed(redirects, &capabilities);
            let hosts = Some(hosts);
            RuleConfig {
                effect,
                subject,
                capabilities,
                ports,
                to: None,
                hosts,
                devices: None,
                services: None,
                ether_types: None,
                tls,
                redirects,
            }
        })
}

fn any_rules() -> impl Strategy<Value = Vec<RuleConfig>> {
    prop::collection::vec(any_rule(), 0..8)
}

/// Anybody but root, who needs no grant to change how netd runs.
fn any_subject() -> impl Strategy<Value = Subject> {
    (1u32..5, 0u32..4, any::<bool>()).prop_map(|(uid, gid, unit)| Subject {
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

fn any_by_name() -> impl Strategy<Value = Request> {
    let address = prop_oneof![
        Just(None),
        any_peer().prop_map(|peer| Some(peer.ip())),
        Just(Some(Ipv4Addr::new(198, 51, 100, 7).into())),
    ];
    (any_host(), prop_oneof![4 => 1u16..40, 2 => Just(443)], address)
        .prop_map(|(name, port, address)| Request::TcpConnectName { name, port, address })
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any_peer().prop_map(|remote| Request::TcpConnect { remote }),
        any_by_name(),
        any_peer().prop_map(|remote| Request::UdpSend { remote }),
        any_peer().prop_map(|peer| Request::Ping { to: peer.ip() }),
        prop::option::of(1u16..40).prop_map(|port| Request::TcpListen { port }),
        prop::option::of(1u16..40).prop_map(|port| Request::UdpBind { port }),
        prop::option::of(any_host()).prop_map(|name| Request::Resolve { name }),
        any_ether_type().prop_map(|ether_type| Request::Raw { ether_type }),
        any_authority().prop_map(|from| Request::Fetch { from }),
        any_authority().prop_map(|of| Request::ValidateTls { of }),
        Just(Request::FetchReal),
        Just(Request::ManageTrust),
        Just(Request::Capture),
        Just(Request::Operate),
        Just(Request::DiscoverBus),
        any_device().prop_map(|device| Request::OpenBusSession { device }),
        (any_device(), any_service())
            .prop_map(|(device, service)| Request::OpenBusStream { device, service }),
        (any_device(), any_service())
            .prop_map(|(device, service)| Request::CallBusService { device, service }),
        (any_device(), any_service()).prop_map(|(device, share)| Request::ReadBusShare { device, share }),
        any_device().prop_map(|device| Request::ReadBusState { device }),
        any_device().prop_map(|device| Request::WriteBusState { device }),
        any_service().prop_map(|service| Request::ShareBusService { service }),
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

/// Whether a rule is for somebody.
fn is_for(rule: &RuleConfig, subject: &Subject) -> bool {
    match &rule.subject {
        SubjectPattern::Any => true,
        SubjectPattern::Uid(uid) => subject.uid == *uid,
        SubjectPattern::Gid(gid) => subject.gid == *gid,
        SubjectPattern::Unit(unit) => subject.unit.as_ref() == Some(unit),
        SubjectPattern::User(_) | SubjectPattern::Group(_) => false,
    }
}

/// What the rules say, by looking at each of them: what the index must agree with.
fn terms_by_reading(rules: &[RuleConfig], subject: &Subject, request: &Request) -> Option<Terms> {
    if let Request::TcpConnectName { name, port, address } = request {
        return by_name_by_reading(rules, subject, (name, *port), *address);
    }
    let redirected =
        |rule: &&RuleConfig| rule.effect == Effect::Deny || rule.redirects == Some(Redirects::Granted);
    let redirecting: Vec<RuleConfig> = rules.iter().filter(redirected).cloned().collect();
    if matches!(request, Request::Fetch { .. }) && allowed_by_reading(&redirecting, subject, request) {
        return Some(Terms::Redirected);
    }
    allowed_by_reading(rules, subject, request).then_some(Terms::Free)
}

fn by_name_by_reading(
    rules: &[RuleConfig],
    subject: &Subject,
    (name, port): (&HostName, u16),
    address: Option<IpAddr>,
) -> Option<Terms> {
    let has_port = |rule: &&RuleConfig| {
        rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|range| range.contains(port)))
    };
    let fits = |rule: &&RuleConfig| {
        rule.capabilities.contains(&Capability::TcpConnect) && is_for(rule, subject) && has_port(rule)
    };
    let names = |rule: &&RuleConfig| {
        rule.to.is_none()
            && rule.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host.matches(name)))
    };
    let of = |effect: Effect| rules.iter().filter(move |rule| rule.effect == effect).filter(fits);
    if of(Effect::Deny).any(|rule| names(&rule)) {
        return None;
    }
    let demands = |rule: &RuleConfig| match (&rule.hosts, rule.tls) {
        (None, _) | (_, Some(Tls::Any)) => false,
        (Some(_), Some(Tls::Required)) => true,
        (Some(_), None) => port == 443,
    };
    let granted: Vec<bool> = of(Effect::Grant).filter(names).map(demands).collect();
    let raw = address.map(|ip| Request::TcpConnect { remote: (ip, port).into() });
    let raw_allowed = raw.as_ref().is_some_and(|raw| allowed_by_reading(rules, subject, raw));
    if granted.is_empty() {
        let resolve = Request::Resolve { name: Some(name.clone()) };
        let towards_some = of(Effect::Grant).any(|rule| rule.to.is_some());
        let may_resolve = towards_some && allowed_by_reading(rules, subject, &resolve);
        return match address {
            None => may_resolve.then_some(Terms::ByAddress),
            Some(_) => (may_resolve && raw_allowed).then_some(Terms::Free),
        };
    }
    let terms = if granted.iter().all(|demands| *demands) { Terms::Tls } else { Terms::Free };
    let Some(address) = address else { return Some(terms) };
    let covers = |rule: &RuleConfig| {
        rule.hosts.is_none()
            && rule.to.as_ref().is_none_or(|to| to.iter().any(|prefix| prefix.contains(&address)))
    };
    let denied = of(Effect::Deny).any(covers);
    (!denied && (is_public(address) || raw_allowed)).then_some(terms)
}

fn covers_device(rule: &RuleConfig, device: &BusDevice) -> bool {
    rule.devices.as_ref().is_none_or(|devices| devices.iter().any(|pattern| pattern.matches(device)))
}

fn covers_service(rule: &RuleConfig, service: &BusService) -> bool {
    rule.services.as_ref().is_none_or(|services| services.contains(service))
}

/// The same for whatever is not by name.
fn allowed_by_reading(rules: &[RuleConfig], subject: &Subject, request: &Request) -> bool {
    let metadata = request.peer() == Some(Ipv4Addr::new(169, 254, 169, 254).into());
    let capability = request.capability().expect("one that rules decide");
    let covers_place = |rule: &RuleConfig| match request {
        Request::Resolve { name: Some(name) }
        | Request::Fetch { from: Authority { host: Host::Name(name), .. } }
        | Request::ValidateTls { of: Authority { host: Host::Name(name), .. } } => {
            rule.to.is_none()
                && rule.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host.matches(name)))
        }
        Request::OpenBusSession { device }
        | Request::ReadBusState { device }
        | Request::WriteBusState { device } => covers_device(rule, device),
        Request::OpenBusStream { device, service }
        | Request::CallBusService { device, service }
        | Request::ReadBusShare { device, share: service } => {
            covers_device(rule, device) && covers_service(rule, service)
        }
        Request::ShareBusService { service } => covers_service(rule, service),
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
    let fits = |rule: &&RuleConfig| {
        rule.capabilities.contains(&capability) && is_for(rule, subject) && covers_place(rule)
    };
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
        Request::Raw { ether_type } => {
            let has =
                |rule: &RuleConfig| rule.ether_types.as_ref().is_none_or(|types| types.contains(ether_type));
            !of(Effect::Deny).any(has) && of(Effect::Grant).any(has)
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
        prop_assert_eq!(decision.terms(), terms_by_reading(&rules, &subject, &request), "{:?}", decision);
    }

    #[test]
    fn decide_is_independent_of_the_order_of_rules(
        (rules, shuffled) in any_rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        devnet in any::<bool>(), subject in any_subject(), request in any_request(),
    ) {
        let one = compiled(devnet, &rules).decide(&subject, &request).terms();
        let other = compiled(devnet, &shuffled).decide(&subject, &request).terms();
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
            let nobodys = matches!(decision.rule(), Rule::Default | Rule::PrivateAnswer);
            prop_assert!(nobodys && !decision.is_allowed(), "{:?}", decision);
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

/// Whether grants for `asked` have to allow `request` as well, since rules cannot say less.
fn is_implied(asked: &[Request], request: &Request) -> bool {
    let any = |is: &dyn Fn(&Request) -> bool| asked.iter().any(is);
    let resolves = |wanted: &HostName| {
        any(
            &|asked| matches!(asked, Request::Resolve { name } if name.as_ref().is_none_or(|name| name == wanted)),
        )
    };
    // An address that is not public is granted beside the name that answered with it.
    let reaches = |ip: IpAddr, port: u16| {
        any(&|asked| match asked {
            Request::TcpConnect { remote } => (remote.ip(), remote.port()) == (ip, port),
            Request::TcpConnectName { port: asked, address: Some(address), .. } => {
                (*address, *asked) == (ip, port) && !is_public(ip)
            }
            _ => false,
        })
    };
    let reaches_some = |port: u16| {
        any(&|asked| match asked {
            Request::TcpConnect { remote } => remote.port() == port,
            Request::TcpConnectName { port: asked, address: Some(address), .. } => {
                *asked == port && !is_public(*address)
            }
            _ => false,
        })
    };
    match request {
        Request::TcpConnect { remote } => reaches(remote.ip(), remote.port()),
        Request::TcpConnectName { name, port, address } => {
            let named = any(
                &|asked| matches!(asked, Request::TcpConnectName { name: n, port: p, .. } if (n, p) == (name, port)),
            );
            match address {
                None => named || (resolves(name) && reaches_some(*port)),
                Some(ip) if named => is_public(*ip) || reaches(*ip, *port),
                Some(ip) => resolves(name) && reaches(*ip, *port),
            }
        }
        Request::Resolve { name: Some(name) } => resolves(name),
        _ => any(&|asked| match (asked, request) {
            (Request::TcpListen { port: None }, Request::TcpListen { port: Some(port) })
            | (Request::UdpBind { port: None }, Request::UdpBind { port: Some(port) }) => *port >= 49_152,
            _ => asked == request,
        }),
    }
}

fn is_public(address: IpAddr) -> bool {
    address == IpAddr::from([198, 51, 100, 7])
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
        prop_assert_eq!(policy.decide(&subject, &other).is_allowed(), is_implied(&asked, &other), "{}", other);
        let somebody_else = Subject { uid: subject.uid + 1, ..subject };
        prop_assert!(asked.iter().all(|request| !policy.decide(&somebody_else, request).is_allowed()));
    }
}
