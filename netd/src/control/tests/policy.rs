//! What clients ask about the rules, and that it is what happens to them.

use netd_ipc::policy::Asker;
use netd_policy::{Capability, EtherType, HostName, Request, RuleConfig};
use proptest::prelude::*;

use super::*;

fn me() -> Asker {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Asker { uid, gid, unit: None }
}

#[test]
fn explain_says_what_the_devnet_switch_denies_and_what_it_would_do_on() {
    let control = Control::start(false);
    let explained = control.client().explain(&me(), "net.tcp.connect", Some("192.0.2.1:80")).unwrap();
    assert_eq!(
        (explained.decision.allowed, explained.decision.error),
        (false, Some(ErrorKind::DevnetDisabled))
    );
    assert_eq!(
        (explained.decision.rule.as_str(), explained.decision.line),
        ("network.devnet.enabled = false", None)
    );
    let on = explained.with_devnet_on;
    assert_eq!((on.allowed, on.file.as_deref(), on.line), (true, Some("test"), Some(2)));
    assert!(control.console.lock().unwrap().is_empty(), "nothing was denied, so nothing is told");
}

#[test]
fn explain_of_what_is_no_request_is_refused() {
    let control = Control::start(true);
    for (capability, target) in
        [("net.fly", None), ("net.tcp.connect", Some("192.0.2.1")), ("net.udp.bind", Some("0"))]
    {
        let error = control.client().explain(&me(), capability, target).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::InvalidInput), "{error}");
    }
}

#[test]
fn rules_are_listed_all_of_them_with_their_places() {
    let grant = "[[grant]]\nsubject = \"any\"\nallow = [\"net.udp.bind\"]\nports = [\"53\"]\n";
    let control = Control::with_rules(true, &grant.repeat(2500));
    let rules = control.client().rules().unwrap();
    assert_eq!((rules.devnet_enabled, rules.total, rules.rules.len()), (true, 2500, 2500));
    let last = &rules.rules[2499];
    assert_eq!((last.line, last.subject.as_str(), last.to.as_ref()), (2499 * 4 + 1, "any", None));
    assert_eq!(last.ports.as_deref(), Some(&["53".to_owned()][..]));
}

#[test]
fn denials_are_remembered_and_only_ones_own_are_told() {
    let control = Control::start(true);
    let client = control.client();
    let own = format!("user:{}", me().uid);
    let next = client.denials(&own, None).unwrap().next;
    for _ in 0..50 {
        client.tcp_connect("198.51.100.1:80".parse().unwrap(), None).unwrap_err();
    }
    let denials = client.denials(&own, Some(next)).unwrap().denials;
    let [denied] = &denials[..] else { panic!("{denials:?}") };
    assert_eq!((denied.count, denied.target.as_deref()), (50, Some("198.51.100.1:80")));
    assert_eq!((denied.decision.allowed, denied.decision.file.as_ref()), (false, None));
    // The test is the daemon's user, who may see all; with another one as operator, it may not.
    assert_eq!(client.denials("any", None).unwrap().denials.len(), 1);
    let nobody = policy_of(true, GRANTED).with_operator(u32::MAX);
    if me().uid != 0 {
        control.rules.replace(nobody, Limits::default());
        assert_eq!(client.denials("any", None).unwrap_err().kind(), Some(ErrorKind::PolicyDenied));
    }
    assert!(client.denials(&own, None).is_ok());
    assert_eq!(client.denials("user:root", None).unwrap_err().kind(), Some(ErrorKind::InvalidInput));
}

#[test]
fn decisions_for_others_are_theirs_and_for_one_user_to_ask() {
    let grant =
        "[[grant]]\nsubject = \"user:4000\"\nallow = [\"net.http.fetch\"]\nhosts = [\"*.example.org\"]\n";
    let control = Control::with_rules(true, grant);
    let client = control.client();
    let peer = |uid| netd_ipc::server::Peer { uid, gid: 1, pid: 7, unit: None };
    let decide = |uid, target: &str| client.decide(&peer(uid), "net.http.fetch", Some(target));
    let allowed = decide(4000, "a.example.org:443").unwrap();
    assert_eq!((allowed.allowed, allowed.line), (true, Some(1)));
    let denied = decide(4001, "a.example.org:443").unwrap();
    assert_eq!((denied.allowed, denied.error), (false, Some(ErrorKind::PolicyDenied)));
    let remembered = client.denials("user:4001", None).unwrap().denials;
    assert_eq!(remembered[0].target.as_deref(), Some("a.example.org:443"), "it is that client's denial");
    assert_eq!(decide(1, "nowhere").unwrap_err().kind(), Some(ErrorKind::InvalidInput));
    client.record_trust(&peer(4000), netd_ipc::policy::TrustChange::Added, "a root").unwrap();
    for device in [None, Some("camera-1")] {
        client.record_state(&peer(4000), device, "/state/shared/a: 3 bytes written, revision 1").unwrap();
    }
    control.rules.replace(policy_of(true, grant).with_representative(u32::MAX), Limits::default());
    let recorded = client.record_state(&peer(4000), None, "/state/shared/a: removed, revision 2");
    assert_eq!(recorded.unwrap_err().kind(), Some(ErrorKind::PolicyDenied));
    assert_eq!(decide(4000, "a.example.org:443").unwrap_err().kind(), Some(ErrorKind::PolicyDenied));
    let recorded = client.record_trust(&peer(4000), netd_ipc::policy::TrustChange::Removed, "a root");
    assert_eq!(recorded.unwrap_err().kind(), Some(ErrorKind::PolicyDenied));
}

fn any_rule() -> impl Strategy<Value = String> {
    let ports = prop_oneof![Just(""), Just("ports = [\"80\"]\n"), Just("ports = [\"81-443\"]\n")];
    let peers = prop_oneof![Just(""), Just("to = [\"192.0.2.0/31\"]\n"), Just("to = [\"192.0.2.2/32\"]\n")];
    let about = prop_oneof![
        peers.prop_map(|to| format!("[\"net.tcp.connect\", \"net.icmp.ping\"]\n{to}")),
        Just("[\"net.tcp.listen\", \"net.udp.bind\", \"net.capture\", \"net.admin\"]\n".to_owned()),
        Just("[\"net.raw\"]\nether_types = [\"0x88b5\"]\n".to_owned()),
        Just("[\"net.dns.resolve\"]\nhosts = [\"*.example\"]\n".to_owned()),
        Just("[\"net.dns.resolve\"]\n".to_owned()),
        Just("[\"net.tcp.connect\", \"net.dns.resolve\"]\nhosts = [\"*.example\"]\n".to_owned()),
        Just("[\"net.tcp.connect\"]\nhosts = [\"a.example\", \"b.other\"]\n".to_owned()),
    ];
    let uid = me().uid;
    let subject =
        prop_oneof![Just("any".to_owned()), Just(format!("user:{uid}")), Just(format!("user:{}", uid + 1))];
    (any::<bool>(), subject, about, ports).prop_map(|(grant, subject, about, ports)| {
        let (table, key) = if grant { ("grant", "allow") } else { ("deny", "deny") };
        format!("[[{table}]]\nsubject = \"{subject}\"\n{key} = {about}{ports}")
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let peer = (1u8..4).prop_map(|host| std::net::IpAddr::from([192, 0, 2, host]));
    let port = prop::sample::select(vec![80u16, 81, 443, 444]);
    prop_oneof![
        (peer.clone(), port.clone()).prop_map(|(ip, port)| Request::TcpConnect { remote: (ip, port).into() }),
        ("[ab]\\.(example|other)", port.clone()).prop_map(|(name, port)| Request::TcpConnectName {
            name: name.parse::<HostName>().unwrap(),
            port,
            address: None
        }),
        peer.prop_map(|to| Request::Ping { to }),
        prop::option::of(port.clone()).prop_map(|port| Request::TcpListen { port }),
        prop::option::of(port).prop_map(|port| Request::UdpBind { port }),
        prop::option::of("[ab]\\.(example|other)")
            .prop_map(|name| Request::Resolve { name: name.map(|name| name.parse::<HostName>().unwrap()) }),
        (0x88b5u16..0x88b7).prop_map(|number| Request::Raw { ether_type: EtherType::new(number).unwrap() }),
        Just(Request::Capture),
        Just(Request::Operate),
    ]
}

/// The call that asks for it.
fn call(request: &Request) -> Value {
    let (method, parameters) = match request {
        Request::TcpConnect { remote } => {
            ("Connect", json!({ "address": remote.ip(), "port": remote.port() }))
        }
        Request::TcpConnectName { name, port, address: None } => {
            ("Connect", json!({ "address": name.as_str(), "port": port }))
        }
        Request::Ping { to } => ("Ping", json!({ "address": to })),
        Request::TcpListen { port } => ("Listen", json!({ "port": port })),
        Request::UdpBind { port } => ("BindUdp", json!({ "port": port })),
        Request::Resolve { name: Some(name) } => ("Resolve", json!({ "name": name.as_str() })),
        Request::Resolve { name: None } => ("Resolve", json!({ "name": "192.0.2.1", "kind": "ptr" })),
        Request::Raw { ether_type } => ("OpenFrames", json!({ "ether_type": ether_type.number() })),
        Request::Capture => ("Capture", json!({})),
        Request::Operate => ("SetPollMode", json!({ "poll": "busy" })),
        other => panic!("no call for {other}"),
    };
    json!({ "method": format!("io.netd.{method}"), "parameters": parameters })
}

#[test]
fn explain_and_enforcement_never_disagree() {
    let control = Control::start(true);
    let client = control.client();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    });
    let cases = (prop::collection::vec(any_rule(), 0..6), any_request(), any::<bool>());
    let property = |(rules, request, devnet): (Vec<String>, Request, bool)| {
        let rules: Vec<RuleConfig> = rules
            .iter()
            .flat_map(|rule| netd_policy::file::parse("test", rule).unwrap())
            .map(|(_, rule)| rule)
            .collect();
        control
            .rules
            .replace(policy_of(devnet, &netd_policy::file::print(&rules).to_string()), Limits::default());
        let capability: Capability = request.capability().unwrap();
        let explained = client.explain(&me(), capability.name(), request.target_text().as_deref()).unwrap();
        let mut stream = control.raw();
        ask(&mut stream, &call(&request));
        // A call that is let through comes to the worker; one that is denied is answered.
        let enforced = if explained.decision.allowed {
            control.complete(
                control.next().token,
                Reply::Failed(ErrorKind::Unsupported, "it came through".into()),
            );
            json!({ "error": "io.netd.Unsupported", "parameters": { "message": "it came through" } })
        } else {
            // Who explains has no process in mind.
            let process = format!("uid {} (pid {})", me().uid, std::process::id());
            let reason = explained.decision.reason.replace(&format!("uid {}", me().uid), &process);
            let error = explained.decision.error.map(|error| format!("io.netd.{error}"));
            json!({ "error": error, "parameters": { "message": reason } })
        };
        prop_assert_eq!(answer(&mut stream), Some(enforced));
        Ok(())
    };
    runner.run(&cases, property).unwrap();
}
