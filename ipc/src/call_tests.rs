//! The interface file against the code: what one has, the other has.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorKind;
use crate::types::*;

/// Field names with their types, as written.
type Fields = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Interface {
    records: BTreeMap<String, Fields>,
    enums: BTreeMap<String, BTreeSet<String>>,
    methods: BTreeMap<String, (Fields, Fields)>,
    errors: BTreeMap<String, Fields>,
}

/// Reads as much of the Varlink grammar as the file uses: no anonymous records inside records.
fn parse(text: &str) -> Interface {
    let text: String =
        text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut interface = Interface::default();
    let words = ["type ", "method ", "error "];
    let mut rest = text.split_once("interface io.netd").expect("the interface's name").1.trim().to_owned();
    while !rest.is_empty() {
        let word =
            *words.iter().find(|word| rest.starts_with(**word)).unwrap_or_else(|| panic!("at: {rest}"));
        let (name, tail) = rest[word.len()..].split_once('(').expect("a parenthesis");
        let (inner, mut tail) = tail.split_once(')').expect("its end");
        let name = name.trim().to_owned();
        let fields = |inner: &str| -> Fields {
            let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts
                .map(|part| part.split_once(':').unwrap_or_else(|| panic!("no type: {part}")))
                .map(|(name, kind)| (name.trim().to_owned(), kind.trim().to_owned()))
                .collect()
        };
        match word {
            "type " if inner.contains(':') => drop(interface.records.insert(name, fields(inner))),
            "type " => {
                drop(
                    interface
                        .enums
                        .insert(name, inner.split(',').map(|value| value.trim().to_owned()).collect()),
                );
            }
            "error " => drop(interface.errors.insert(name, fields(inner))),
            _ => {
                let out = tail.split_once('(').expect("what it returns").1.split_once(')').expect("its end");
                tail = out.1;
                interface.methods.insert(name, (fields(inner), fields(out.0)));
            }
        }
        rest = tail.trim().to_owned();
    }
    interface
}

impl Interface {
    /// Checks a value of ours against a type of the file, fields and all below.
    fn check(&self, kind: &str, value: &Value) {
        if let Some(inner) = kind.strip_prefix('?') {
            assert!(!value.is_null(), "the sample leaves a {kind} out");
            return self.check(inner, value);
        }
        if let Some(inner) = kind.strip_prefix("[]") {
            let items = value.as_array().expect("an array");
            assert!(!items.is_empty(), "the sample has an empty {kind}");
            return items.iter().for_each(|item| self.check(inner, item));
        }
        if let Some(inner) = kind.strip_prefix("[string]") {
            return value.as_object().expect("a map").values().for_each(|item| self.check(inner, item));
        }
        match kind {
            "int" => assert!(value.is_i64() || value.is_u64(), "{value} as int"),
            "bool" => assert!(value.is_boolean(), "{value} as bool"),
            "string" => assert!(value.is_string(), "{value} as string"),
            name if self.enums.contains_key(name) => {
                assert!(self.enums[name].contains(value.as_str().expect("a name")), "{value} as {name}");
            }
            name => self.check_fields(&self.records[name], value),
        }
    }

    fn check_fields(&self, fields: &Fields, value: &Value) {
        let ours: BTreeSet<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(ours, fields.keys().collect::<BTreeSet<_>>());
        fields.iter().for_each(|(name, kind)| self.check(kind, &value[name]));
    }
}

fn endpoint() -> Endpoint {
    Endpoint { address: "192.0.2.1".parse().unwrap(), port: 80 }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 1,
        uptime_seconds: 2,
        devnet_enabled: true,
        rules_generation: 4,
        device: DeviceState::Ready,
        link_up: true,
        address_source: AddressSource::Dhcp,
        addresses: vec!["192.0.2.1/24".parse().unwrap()],
        gateway: Some("192.0.2.254".parse().unwrap()),
        sockets: 3,
        received: Traffic { frames: 1, bytes: 60 },
        sent: Traffic::default(),
        clock: ClockStatus {
            trusted: true,
            by: Some(ClockAuthority::Kernel),
            reason: "the kernel says so".to_owned(),
        },
        counters: [("drop_checksum".to_owned(), 4)].into(),
    }
}

fn device() -> Device {
    Device {
        kind: DeviceKind::VhostUser,
        state: DeviceState::Resetting,
        reason: Some("it lied".into()),
        function: Some("0000:00:03.0".into()),
        isolation: Some(Isolation::NoIommu),
        transport: Transport::Legacy,
        poll: PollMode::Busy,
        spin_us: Some(50),
        mac: "02:00:00:00:00:01".into(),
        mtu: 1460,
        link_up: true,
        features: vec!["VIRTIO_NET_F_MAC".into()],
        offloads: vec![Offload {
            name: "tx_tso4".into(),
            on: true,
            switchable: true,
            reason: "in use".into(),
        }],
        absent_features: vec![AbsentFeature { name: "VIRTIO_NET_F_MQ".into(), reason: "one queue".into() }],
        queues: vec![Queue {
            index: 0,
            direction: Direction::Receive,
            size: 256,
            frames: 1,
            bytes: 2,
            interrupts: 0,
        }],
        resets: 0,
        backend: Some(VhostUserBackend {
            socket: "/run/vhost.sock".into(),
            role: SocketRole::Server,
            protocol_features: vec!["VHOST_USER_PROTOCOL_F_MQ".into()],
        }),
    }
}

fn interface() -> crate::types::Interface {
    let address = "192.0.2.254".parse().unwrap();
    crate::types::Interface {
        name: "net0".into(),
        mac: "02:00:00:00:00:01".into(),
        mtu: 1500,
        link_up: true,
        link_changes: 2,
        address_source: AddressSource::Fallback,
        addresses: vec!["192.0.2.1/32".parse().unwrap()],
        address_details: vec![Address {
            address: "192.0.2.1/32".parse().unwrap(),
            status: "preferred".into(),
            origin: "fallback".into(),
            preferred_seconds: Some(3600),
            valid_seconds: Some(3600),
        }],
        events: vec![NetworkEvent { seconds_ago: 3, text: "the link is up".into() }],
        gateway: Some(address),
        routes: vec![Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: Some(address) }],
        dns: vec![address],
        ntp: vec![address],
        hostname: Some("a".into()),
        domain: Some("example".into()),
        search: vec!["example".into()],
        dhcp_server: Some(address),
        lease_seconds: Some(3600),
        renew_in_seconds: Some(1800),
        rebind_in_seconds: Some(3150),
        expires_in_seconds: Some(3600),
    }
}

fn socket() -> Socket {
    Socket {
        id: 1,
        kind: SocketKind::TcpListener,
        state: "listen".into(),
        local: endpoint(),
        remote: Some(endpoint()),
        ether_type: Some(0x88b5),
        name: Some("www.example.org".into()),
        uid: 1000,
        pid: 4,
        unit: Some("a.service".into()),
        receive_queued_bytes: 0,
        send_queued_bytes: 0,
        received_bytes: 0,
        sent_bytes: 0,
    }
}

fn neighbor() -> Neighbor {
    Neighbor {
        interface: "net0".into(),
        address: "192.0.2.254".parse().unwrap(),
        mac: Some("02:00:00:00:00:02".into()),
        state: "reachable".into(),
    }
}

fn statistics() -> Statistics {
    let copies = Copies { carried_bytes: 1, user_copied_bytes: 2, kernel_copied_bytes: 1 };
    let counters = [("drop_checksum".to_owned(), 4)].into();
    let dns = [("cache_hits".to_owned(), 2)].into();
    Statistics { uptime_seconds: 1, counters, dns, received: copies, sent: copies }
}

fn resolved() -> Resolved {
    Resolved {
        name: "a.example".into(),
        aliases: vec!["b.example".into()],
        addresses: vec!["192.0.2.1".parse().unwrap()],
        names: vec!["c.example".into()],
        services: vec![Service { priority: 1, weight: 2, port: 80, target: "d.example".into() }],
        texts: vec!["e".into()],
        strings: vec!["e".into()],
        ttl_seconds: 60,
        source: "hosts".into(),
        incomplete: false,
    }
}

fn clients() -> Clients {
    let one = Use { used: 1, limit: 2, refused: 3 };
    let total = TotalUse { connections: one, sockets: one, memory_bytes: one, captures: one };
    let client = ClientUse {
        uid: 1000,
        connections: one,
        sockets: one,
        memory_bytes: one,
        captures: one,
        connects_per_second: one,
        packets_per_second: one,
        closing: one,
        names: one,
    };
    let table = Table { key: "[tcp] connections".into(), usage: one };
    let quota = QuotaUse {
        subject: "user:1".into(),
        key: "sockets".into(),
        usage: one,
        file: "a.toml".into(),
        line: 1,
    };
    Clients { total, clients: vec![client], tables: vec![table], quotas: vec![quota] }
}

fn decision() -> crate::policy::Decision {
    crate::policy::Decision {
        allowed: false,
        error: Some(ErrorKind::PolicyDenied),
        reason: "no grant".into(),
        rule: "a.toml:1 (deny, any)".into(),
        tls: Some("any".into()),
        redirects: Some("granted".into()),
        file: Some("a.toml".into()),
        line: Some(1),
    }
}

fn rules() -> crate::policy::Rules {
    let some = |text: &str| Some(vec![text.to_owned()]);
    let rule = crate::policy::Rule {
        effect: "grant".into(),
        subject: "any".into(),
        capabilities: vec!["net.tcp.connect".into()],
        ports: some("443"),
        to: some("192.0.2.0/24"),
        hosts: some("*.example.org"),
        devices: some("camera-*"),
        services: some("video"),
        ether_types: some("0x88b5"),
        tls: Some("required".into()),
        redirects: Some("granted".into()),
        file: "a.toml".into(),
        line: 1,
    };
    crate::policy::Rules { devnet_enabled: true, total: 1, rules: vec![rule] }
}

fn peer() -> crate::server::Peer {
    crate::server::Peer { uid: 1, gid: 2, pid: 3, unit: Some("a.service".into()) }
}

fn denials() -> crate::policy::Denials {
    let denied = crate::policy::DeniedRequest {
        uid: 1000,
        unit: Some("a.service".into()),
        capability: "net.udp.send".into(),
        target: Some("192.0.2.1:53".into()),
        count: 2,
        decision: decision(),
    };
    crate::policy::Denials { denials: vec![denied], next: 3 }
}

/// Parameters and reply of every method, all optional fields filled.
fn samples() -> Vec<(&'static str, Value, Value)> {
    let bound = json!(BoundReply { id: 1, local: endpoint(), descriptor: 0 });
    let pong = Pong { from: "192.0.2.1".parse().unwrap(), rtt_us: 1, ttl: 64, bytes: 56 };
    vec![
        ("GetStatus", json!({}), json!({ "status": status() })),
        ("GetDevice", json!({}), json!({ "device": device() })),
        ("ListInterfaces", json!({}), json!({ "interfaces": [interface()] })),
        ("ListSockets", json!({}), json!({ "sockets": [socket()] })),
        ("ListNeighbors", json!({}), json!({ "neighbors": [neighbor()] })),
        ("GetStatistics", json!({}), json!({ "statistics": statistics() })),
        ("ListClients", json!({}), json!(clients())),
        ("SetOffload", json!({ "name": "tx_tso4", "on": true }), json!({ "device": device() })),
        ("SetLogLevel", json!({ "filter": "info" }), json!({ "previous": "debug" })),
        ("ListRules", json!({ "from": 0 }), json!(rules())),
        (
            "Explain",
            json!({
                "uid": 1, "gid": 1, "unit": "a.service", "capability": "net.tcp.connect", "target": "192.0.2.1:80",
            }),
            json!(crate::policy::Explanation {
                decision: decision(),
                with_devnet_on: decision(),
                quotas: vec!["sockets 1".into()],
            }),
        ),
        ("ListDenials", json!({ "subject": "user:1", "since": 1 }), json!(denials())),
        (
            "Decide",
            json!({ "client": peer(), "capability": "net.http.fetch", "target": "a.example:443" }),
            json!({ "decision": decision() }),
        ),
        ("RecordTrust", json!({ "client": peer(), "change": "dates_ignored", "detail": "a.pem" }), json!({})),
        ("RecordState", json!({ "client": peer(), "device": "hub", "detail": "/state/shared/a" }), json!({})),
        ("SetPollMode", json!({ "poll": "busy" }), json!({ "previous": "adaptive" })),
        (
            "GetAudit",
            json!({}),
            json!({ "audit": crate::policy::AuditReport {
                file: Some("/a".into()),
                checkpoint: "/b".into(),
                key: "/c".into(),
                written: 1,
                suppressed: 2,
                waiting: 3,
            } }),
        ),
        (
            "Connect",
            json!({ "address": "192.0.2.1", "port": 80, "timeout_ms": 1 }),
            json!(StreamReply {
                id: 1,
                local: endpoint(),
                remote: endpoint(),
                rule: "a.toml:1 (grant, any)".into(),
                tls: Some("required".into()),
                descriptor: 0
            }),
        ),
        ("Listen", json!({ "address": "192.0.2.1", "port": 80, "backlog": 1 }), bound.clone()),
        ("BindUdp", json!({ "address": "2001:db8::1", "port": 80 }), bound),
        ("Ping", json!({ "address": "192.0.2.1", "timeout_ms": 1, "bytes": 0 }), json!(pong)),
        (
            "SetTcpOptions",
            json!({ "id": 1, "nodelay": true, "keepalive_seconds": 60, "linger_seconds": 0, "ttl": 3 }),
            json!({}),
        ),
        (
            "SetUdpOptions",
            json!({
                "id": 1, "peer": endpoint(), "broadcast": true, "ttl": 1, "multicast_ttl": 2, "dont_fragment": true,
                "join": "224.0.0.251", "leave": "224.0.0.251",
            }),
            json!({ "local": endpoint() }),
        ),
        ("Resolve", json!({ "name": "a.example", "kind": "srv" }), json!(resolved())),
        ("Capture", json!({ "filter": "tcp", "snap_bytes": 64 }), json!(CaptureReply { descriptor: 0 })),
        (
            "OpenFrames",
            json!({ "ether_type": 0x88b5 }),
            json!(FramesReply { id: 1, mac: "02:00:00:00:00:01".to_owned(), mtu: 1500, descriptor: 0 }),
        ),
        ("Outcome", json!({ "id": 1 }), json!(Outcome { end: StreamEnd::Open, receive_finished: true })),
    ]
}

fn request(method: &str, parameters: Value) -> Request {
    let Value::Object(parameters) = parameters else { panic!("not an object: {parameters}") };
    Request {
        method: format!("io.netd.{method}"),
        parameters: Some(parameters),
        oneway: false,
        more: false,
        upgrade: false,
    }
}

#[test]
fn interface_file_methods_are_exactly_those_of_the_code() {
    let file = parse(INTERFACE);
    let samples = samples();
    assert_eq!(
        file.methods.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        samples.iter().map(|(name, ..)| *name).collect::<BTreeSet<_>>()
    );
    for (name, parameters, reply) in samples {
        let (takes, gives) = &file.methods[name];
        file.check_fields(takes, &parameters);
        file.check_fields(gives, &reply);
        Call::parse(request(name, parameters)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn interface_file_optional_parameters_may_be_left_out_and_others_not() {
    for (name, (takes, _)) in parse(INTERFACE).methods {
        let (_, full, _) = samples().into_iter().find(|(sample, ..)| *sample == name).unwrap();
        for (field, kind) in takes {
            let mut parameters = full.clone();
            parameters.as_object_mut().unwrap().remove(&field);
            let parsed = Call::parse(request(&name, parameters));
            if kind.starts_with('?') {
                parsed.unwrap_or_else(|error| panic!("{name} without {field}: {error}"));
            } else {
                assert_eq!(parsed, Err(BadCall::InvalidParameter(field)), "{name}");
            }
        }
    }
}

#[test]
fn interface_file_errors_are_exactly_those_of_the_code() {
    let file = parse(INTERFACE);
    let ours: BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.name().to_owned()).collect();
    assert_eq!(file.errors.keys().cloned().collect::<BTreeSet<_>>(), ours);
    for (name, fields) in file.errors {
        assert_eq!(
            fields.into_iter().collect::<Vec<_>>(),
            [("message".to_owned(), "string".to_owned())],
            "{name}"
        );
        assert_eq!(
            ErrorKind::from_name(&format!("io.netd.{name}")).map(ErrorKind::name),
            Some(name.as_str())
        );
    }
}

#[test]
fn interface_file_enums_read_back_into_the_types() {
    fn values<T: for<'de> serde::Deserialize<'de>>(file: &super::tests::Interface, name: &str, count: usize) {
        assert_eq!(file.enums[name].len(), count, "{name}");
        for value in &file.enums[name] {
            serde_json::from_value::<T>(json!(value))
                .unwrap_or_else(|error| panic!("{name} {value}: {error}"));
        }
    }
    let file = parse(INTERFACE);
    values::<DeviceState>(&file, "DeviceState", 3);
    values::<AddressSource>(&file, "AddressSource", 5);
    values::<DeviceKind>(&file, "DeviceKind", 3);
    values::<Isolation>(&file, "Isolation", 2);
    values::<Transport>(&file, "Transport", 3);
    values::<PollMode>(&file, "PollMode", 3);
    values::<Direction>(&file, "Direction", 2);
    values::<SocketKind>(&file, "SocketKind", 4);
    values::<StreamEnd>(&file, "StreamEnd", 10);
    values::<RecordKind>(&file, "RecordKind", 7);
    values::<SocketRole>(&file, "SocketRole", 2);
    values::<crate::policy::TrustChange>(&file, "TrustChange", 3);
    values::<crate::ClockAuthority>(&file, "ClockAuthority", 3);
    assert_eq!(file.enums.len(), 13);
}

#[test]
fn parse_of_wrong_parameters_names_the_first() {
    for (method, parameters, field) in [
        ("Connect", json!({ "address": 1, "port": 80 }), "address"),
        ("Connect", json!({ "address": "::", "port": 80 }), "address"),
        ("Connect", json!({ "address": "0.0.0.0", "port": 80 }), "address"),
        ("Connect", json!({ "address": "192.0.2.1", "port": 0 }), "port"),
        ("Connect", json!({ "address": "192.0.2.1", "port": 65536 }), "port"),
        ("Connect", json!({ "address": "192.0.2.1", "port": "80" }), "port"),
        ("Connect", json!({ "address": "192.0.2.1", "port": 80, "timeout_ms": 0 }), "timeout_ms"),
        ("Connect", json!({ "address": "192.0.2.1", "port": 80, "timeout_ms": 600_001 }), "timeout_ms"),
        ("Connect", json!({ "address": "192.0.2.1", "port": 80, "flavour": 1 }), "flavour"),
        ("Listen", json!({ "backlog": 0 }), "backlog"),
        ("Ping", json!({ "address": "192.0.2.1", "bytes": 65_508 }), "bytes"),
        ("Resolve", json!({ "name": "a", "kind": "mx" }), "kind"),
        ("Capture", json!({ "snap_bytes": 0 }), "snap_bytes"),
        ("OpenFrames", json!({ "ether_type": 0x10000 }), "ether_type"),
        ("OpenFrames", json!({}), "ether_type"),
        ("Outcome", json!({ "id": -1 }), "id"),
        ("GetStatus", json!({ "verbose": true }), "verbose"),
    ] {
        let parsed = Call::parse(request(method, parameters));
        assert_eq!(parsed, Err(BadCall::InvalidParameter(field.to_owned())), "{method}");
    }
}

#[test]
fn parse_of_unknown_names_tells_method_from_interface() {
    let of =
        |method: &str| Call::parse(serde_json::from_value(json!({ "method": method })).unwrap()).unwrap_err();
    assert_eq!(of("io.netd.Fly"), BadCall::MethodNotFound("io.netd.Fly".into()));
    assert_eq!(of("io.other.Fly"), BadCall::InterfaceNotFound("io.other".into()));
    assert_eq!(of("Fly"), BadCall::MethodNotFound("Fly".into()));
}

#[test]
fn parse_fills_in_defaults_and_bounds() {
    assert_eq!(
        Call::parse(request("Connect", json!({ "address": "::ffff:192.0.2.1", "port": 80 }))),
        Ok(Call::Connect {
            host: Host::Address("192.0.2.1".parse().unwrap()),
            port: 80,
            timeout: CONNECT_TIMEOUT
        })
    );
    assert_eq!(
        Call::parse(request("Connect", json!({ "address": "example.org", "port": 443 }))),
        Ok(Call::Connect { host: Host::Name("example.org".into()), port: 443, timeout: CONNECT_TIMEOUT })
    );
    assert_eq!(
        Call::parse(request("Listen", json!({ "port": 0, "backlog": 1_000_000 }))),
        Ok(Call::Listen { address: None, port: None, backlog: BACKLOG_MAX })
    );
}

/// JSON of every shape, with the names that the interface knows now and then.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,8}|192\\.0\\.2\\.[0-9]|::1".prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec!["address", "port", "timeout_ms", "backlog", "bytes", "id", "interface"])
            .prop_map(str::to_owned),
        "[a-z]{0,6}",
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn parse_of_any_request_stays_within_the_bounds(
        method in prop::sample::select(vec!["Connect", "Listen", "BindUdp", "Ping", "Outcome", "GetStatus", "Fly"]),
        parameters in any_json(),
    ) {
        let value = json!({ "method": format!("io.netd.{method}"), "parameters": parameters });
        let Ok(request) = serde_json::from_value::<Request>(value) else { return Ok(()) };
        match Call::parse(request) {
            Ok(Call::Connect { host, port, timeout }) => {
                prop_assert!(!matches!(host, Host::Address(address) if address.is_unspecified()));
                prop_assert!(port != 0 && !timeout.is_zero() && timeout <= TIMEOUT_MAX);
            }
            Ok(Call::Ping { bytes, timeout, .. }) => {
                prop_assert!(bytes <= PAYLOAD_BYTES_MAX && !timeout.is_zero() && timeout <= TIMEOUT_MAX);
            }
            Ok(Call::Listen { port, backlog, .. }) => {
                prop_assert!(port != Some(0) && (1..=BACKLOG_MAX).contains(&backlog));
            }
            _ => {}
        }
    }
}
