//! netd.toml as operators write it, right and wrong.

use std::fs;
use std::path::Path;

use netd_ipc::PollMode;
use netd_stack::Addressing;
use netd_virtqueue::VhostUserRole;

use super::*;
use crate::limits::Limits;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(Path::new("netd.toml"), text)
}

/// What is said about a wrong file.
fn complaint(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

const VFIO: &str = "[device]\nkind = \"vfio\"\nfunction = \"0000:00:03.0\"\n";

#[test]
fn minimal_file_has_devnet_off_and_dhcp() {
    let config = parse(VFIO).unwrap();
    assert!(!config.policy.devnet_enabled());
    assert!(matches!(config.network.addressing, Addressing::Dhcp { fallback: None, .. }));
    assert!(matches!(config.device, Device::Vfio { .. }));
    assert_eq!((config.poll, config.socket_mode), (PollMode::Busy, 0o660));
}

#[test]
fn unknown_key_is_named_with_its_place_and_what_is_known() {
    let said = complaint("[device]\nkind = \"vfio\"\nfuncton = \"0000:00:03.0\"\n");
    assert!(said.starts_with("netd.toml:3:1: unknown field `functon`"), "{said}");
    assert!(said.contains("`function`"), "{said}");
}

#[test]
fn unknown_kind_is_told_with_the_line_and_the_choices() {
    let said = complaint("[device]\nkind = \"vfo\"\n");
    assert!(said.starts_with("netd.toml:2:8: unknown variant `vfo`"), "{said}");
    assert!(said.contains("`vfio`") && said.contains("kind = \"vfo\""), "{said}");
}

#[test]
fn file_that_is_no_toml_is_told_with_its_place() {
    let said = complaint("[device]\nkind = vfio\n");
    assert!(said.starts_with("netd.toml:2:8: "), "{said}");
}

#[test]
fn vfio_without_function_says_how_to_find_one() {
    let said = complaint("[device]\nkind = \"vfio\"\n");
    assert!(said.contains("function = \"0000:00:03.0\"") && said.contains("netd function list"), "{said}");
}

#[test]
fn key_of_the_other_kind_is_refused() {
    let said = complaint(&format!("{VFIO}mac = \"02:00:00:00:00:01\"\n"));
    assert!(said.contains("mac belongs to a device with kind = \"software\""), "{said}");
    let said = complaint("[device]\nkind = \"software\"\nfunction = \"00:03.0\"\n");
    assert!(said.contains("function belongs to a device with kind = \"vfio\""), "{said}");
}

#[test]
fn wrong_values_say_what_would_be_right() {
    let software = "[device]\nkind = \"software\"\nlink = { kind = \"socket\", path = \"/s\" }\n";
    for (text, part) in [
        (VFIO.replace("0000:00:03.0", "0000:00:3"), "function: "),
        (format!("{VFIO}poll = \"lazy\"\n"), "`busy`"),
        (
            format!("{VFIO}features.warp = false\n"),
            "no switch is called 'warp': there are tx_checksum, tx_tso4, ",
        ),
        (format!("{VFIO}[device.features]\npacked = 0\n"), "expected a boolean"),
        (format!("{software}mtu = 100\n"), "between 1280 and 9216"),
        (software.replace("path", "interface"), "a socket link needs a path"),
        (software.replace("socket", "tap"), "a tap link needs an interface"),
        (software.replace("socket", "tap").replace("path", "interface"), "no '/'"),
        (format!("{software}mac = \"02:00\"\n"), "mac: "),
        (format!("{VFIO}[address]\nmode = \"static\"\n"), "cidr = \"10.0.0.2/24\""),
        (format!("{VFIO}[address]\nmode = \"static\"\ncidr = \"10.0.0.300/24\"\n"), "cidr: "),
        (format!("{VFIO}[address]\nmode = \"static\"\ncidr = \"224.0.0.1/24\"\n"), "unicast"),
        (format!("{VFIO}[address]\nmode = \"dhcp\"\ngateway = \"10.0.0.1\"\n"), "needs an address beside it"),
        (format!("{VFIO}[address]\nmode = \"dhcp\"\nhostname = \"a.b\"\n"), "one label"),
        (
            format!("{VFIO}[address]\nfallback_seconds = 0\n"),
            "fallback_seconds is 0, and must be between 1 and 3600",
        ),
        (format!("{VFIO}[address]\nadditional = [\"10.0.0.300/24\"]\n"), "additional: "),
        (format!("{VFIO}[address]\nadditional = [\"10.0.0.3/24\", \"10.0.0.3/16\"]\n"), "10.0.0.3 twice"),
        (format!("{VFIO}[address]\nadditional = [\"224.0.0.1/24\"]\n"), "additional: 224.0.0.1"),
        (format!("{VFIO}[address]\nroutes = [{{ to = \"10.1.2.3/16\" }}]\n"), "write \"10.1.0.0/16\""),
        (
            format!("{VFIO}[address]\nroutes = [{{ to = \"10.1.0.0/16\", gateway = \"224.0.0.1\" }}]\n"),
            "unicast",
        ),
        (format!("{VFIO}[address]\nconflicts = \"maybe\"\n"), "`optimistic`"),
        (format!("{VFIO}[ipv6]\nmode = \"static\"\n"), "addresses = [\"2001:db8::2/64\"]"),
        (format!("{VFIO}[ipv6]\nmode = \"on\"\n"), "`link-local`"),
        (
            format!("{VFIO}[ipv6]\nmode = \"off\"\ngateway = \"fe80::1\"\n"),
            "gateway belongs to mode = \"static\"",
        ),
        (format!("{VFIO}[ipv6]\nmode = \"static\"\naddresses = [\"ff02::1/64\"]\n"), "unicast"),
        (format!("{VFIO}[tcp]\nconnections = 0\n"), "connections is 0, and must be between 1 and 1048576"),
        (format!("{VFIO}[tcp]\nconnections = 8\nclosing = 9\n"), "closing is 9, and must be between 1 and 8"),
        (format!("{VFIO}[tcp]\npending_per_source = 257\n"), "between 1 and 256 (default: 32)"),
        (format!("{VFIO}[tcp]\nkeepalive_probes = 0\n"), "keepalive_probes is 0"),
        (format!("{VFIO}[stack]\nneighbours = 9\n"), "unknown field `neighbours`"),
        (format!("{VFIO}[stack]\nfragment_kib = 1\n"), "between 64 and 1048576 (default: 1024)"),
        (format!("{VFIO}[dns]\nqueries = 4\nqueries_per_user = 5\n"), "between 1 and 4"),
        (format!("{VFIO}[dns]\nmdns = true\n"), "mdns"),
        (format!("{VFIO}[dns]\ntimeout_ms = 1\n"), "between 100 and 30000 (default: 2000)"),
        (format!("{VFIO}[audit]\nto = \"journal\"\nfile = \"/a\"\n"), "file belongs to to = \"file\""),
        (format!("{VFIO}[audit]\nfiles = 0\n"), "files is 0, and must be between 1 and 1000 (default: 8)"),
        (format!("{VFIO}[ipc]\nmode = \"rw\"\n"), "octal"),
        (format!("{VFIO}[limits]\nsockets = 0\n"), "'[limits] sockets' is 0"),
        (format!("{VFIO}[limits.client]\nmemory_mib = 0\n"), "'[limits.client] memory_mib' is 0"),
        (format!("{VFIO}[limits.client]\nsockts = 1\n"), "unknown field `sockts`"),
        (
            format!("{VFIO}[[grant]]\nsubject = \"alice\"\nallow = [\"net.tcp.connect\"]\n"),
            "is not a subject",
        ),
        (format!("{VFIO}[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp\"]\n"), "is not a capability"),
        (
            format!("{VFIO}[[grant]]\nsubject = \"user:no-such-user\"\nallow = [\"net.udp.bind\"]\n"),
            "no user",
        ),
    ] {
        let said = complaint(&text);
        assert!(said.starts_with("netd.toml:") && said.contains(part), "{text}\n{said}");
    }
}

#[test]
fn feature_that_is_switched_off_is_remembered() {
    let config = parse(&format!("{VFIO}features.packed = false\nfeatures.event_idx = true\n")).unwrap();
    let mut expected = Switches::default();
    assert!(expected.set("packed", false));
    assert_eq!(config.features, expected);
    assert_eq!(parse(VFIO).unwrap().needs_restart(&config), ["[device]"]);
}

#[test]
fn limits_that_are_left_out_have_their_defaults() {
    let limits =
        parse(&format!("{VFIO}[limits]\nsockets = 9\n[limits.client]\nsockets = 3\n")).unwrap().limits;
    assert_eq!((limits.sockets, limits.client.sockets), (9, 3));
    assert_eq!(limits.client.connections, Limits::default().client.connections);
}

#[test]
fn devnet_is_a_switch_and_nothing_else() {
    assert!(parse(&format!("[network.devnet]\nenabled = true\n{VFIO}")).unwrap().policy.devnet_enabled());
    let said = complaint(&format!("[network.devnet]\nenabled = \"yes\"\n{VFIO}"));
    assert!(said.contains("expected a boolean"), "{said}");
}

#[test]
fn vhost_user_device_needs_a_socket_and_takes_nothing_of_the_others() {
    let text = "[device]\nkind = \"vhost-user\"\nsocket = \"/run/v.sock\"\n";
    let device = parse(text).unwrap().device;
    let expected =
        VhostUserDevice { socket: "/run/v.sock".into(), role: VhostUserRole::Client, mac: None, mtu: 1500 };
    assert_eq!(device, Device::VhostUser(expected));
    let server = parse(&format!("{text}role = \"server\"\nmtu = 9000\n")).unwrap().device;
    assert!(matches!(
        server,
        Device::VhostUser(VhostUserDevice { role: VhostUserRole::Server, mtu: 9000, .. })
    ));
    let said = complaint("[device]\nkind = \"vhost-user\"\n");
    assert!(said.contains("needs a socket"), "{said}");
    let said = complaint(&format!("{text}function = \"0000:00:03.0\"\n"));
    assert!(said.contains("belongs to a device with kind = \"vfio\""), "{said}");
    let said = complaint(&format!("{VFIO}role = \"server\"\n"));
    assert!(said.contains("belongs to a device with kind = \"vhost-user\""), "{said}");
}

/// The files that are shipped are read by the code that reads an operator's; that of netd-services by netd-services.
#[test]
fn shipped_configurations_are_fine() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut count = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("services.toml") {
            Config::load(&path).unwrap();
            count += 1;
        }
    }
    assert!(count >= 3);
    let rules = policy_files::load(&directory, Some(&directory.join("example.policy.d"))).unwrap();
    assert!(Policy::new(true, rules.rules, names::user, names::group).unwrap().rules().count() >= 4);
}

/// Every key that has a default has the one that the stack has by itself, so that the two never drift apart.
#[test]
fn tables_that_are_left_out_are_the_stacks_own() {
    let config = parse(VFIO).unwrap();
    assert_eq!(config.tables, netd_stack::Limits::default());
    assert_eq!(Dns { hosts: config.dns.hosts.clone(), ..Dns::default() }, config.dns);
}

#[test]
fn tables_that_are_given_bound_their_parts() {
    let text = format!(
        "{VFIO}[tcp]\nconnections = 100\nkeepalive_seconds = 0\n[stack]\nudp_queue_kib = 64\nfragment_kib = 128\n"
    );
    let tables = parse(&text).unwrap().tables;
    assert_eq!((tables.flows, tables.closing, tables.closing_per_owner), (100, 50, 12));
    assert_eq!((tables.keepalive, tables.backlog), (None, 100));
    assert_eq!((tables.udp_queue_bytes, tables.fragment_bytes), (65_536, 131_072));
}

#[test]
fn network_with_several_addresses_and_routes_is_read() {
    let text = format!(
        "{VFIO}[address]\nmode = \"static\"\ncidr = \"10.0.0.2/24\"\nadditional = [\"192.168.7.1/24\"]\n\
         routes = [{{ to = \"172.16.0.0/12\", gateway = \"192.168.7.254\" }}, {{ to = \"10.9.0.0/16\" }}]\n\
         conflicts = \"strict\"\n[ipv6]\nmode = \"static\"\naddresses = [\"2001:db8::2/64\"]\n\
         gateway = \"fe80::1\"\ndns = [\"2001:db8::53\"]\nidentifiers = \"hardware\"\n"
    );
    let network = parse(&text).unwrap().network;
    let shown = |cidr: &netd_stack::Cidr| cidr.to_string();
    assert_eq!(network.additional.iter().map(shown).collect::<Vec<_>>(), ["192.168.7.1/24"]);
    let routes: Vec<_> = network.routes.iter().map(|route| (shown(&route.destination), route.via)).collect();
    let expected =
        [("172.16.0.0/12".to_owned(), Some([192, 168, 7, 254].into())), ("10.9.0.0/16".to_owned(), None)];
    assert_eq!(routes, expected);
    assert_eq!(network.conflicts, netd_stack::ConflictDetection::Strict);
    let options = network.options([7; 16], None);
    assert_eq!(options.address_secret, None);
    let netd_stack::Ipv6Addressing::Static(fixed) = options.ipv6 else { panic!("{:?}", options.ipv6) };
    assert_eq!((fixed.addresses.len(), fixed.gateway), (1, Some("fe80::1".parse().unwrap())));
}

/// Every line of the shipped file that is commented out says a default, and is true.
#[test]
fn commented_defaults_of_the_shipped_file_are_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/netd.toml");
    let shipped = fs::read_to_string(&path).unwrap();
    let table = |line: &str| line.starts_with('[');
    let mut opened = String::new();
    let mut table_now = String::new();
    for line in shipped.lines() {
        if table(line) {
            line.clone_into(&mut table_now);
        }
        let given = line.strip_prefix("# ").filter(|line| line.contains(" = ") && !line.contains(" .. "));
        let checked = ["[stack]", "[tcp]", "[limits]", "[limits.client]"].contains(&table_now.as_str())
            || (table_now == "[dns]" && !line.contains('['));
        opened += given.filter(|_| checked).unwrap_or(line);
        opened.push('\n');
    }
    assert_ne!(opened, shipped);
    let (with, without) = (Config::parse(&path, &opened).unwrap(), Config::parse(&path, &shipped).unwrap());
    assert_eq!((with.tables, with.limits, with.dns), (without.tables, without.limits, without.dns));
}

#[test]
fn services_user_is_a_name_or_a_number_that_exists() {
    assert!(parse(&format!("{VFIO}[services]\nuser = 1234\n")).is_ok());
    assert!(parse(&format!("{VFIO}[services]\nuser = \"root\"\n")).is_ok());
    let said = complaint(&format!("{VFIO}[services]\nuser = \"no-such-user\"\n"));
    assert!(said.starts_with("netd.toml:5:8: there is no user 'no-such-user'"), "{said}");
}
