//! Every capability: denied by default, allowed within its scope, denied just outside; in the same words that `explain` takes.

use super::*;

/// A capability, the scope of a grant of it, what that allows, and what it does not although it is next to it.
type Scoped = (Capability, &'static str, &'static [&'static str], &'static [&'static str]);

const PREFIXES: &str =
    "ports = [\"80\", \"8000-8999\"]\nto = [\"198.51.100.64/26\", \"2001:db8:1::/48\", \"fe80::/64\"]";
const PREFIXES_ALONE: &str = "to = [\"198.51.100.64/26\", \"2001:db8:1::/48\"]";
const NAMES: &str =
    "ports = [\"80\", \"8000-8999\"]\nhosts = [\"*.example.org\", \"example.net\", \"b\u{fc}cher.example\"]";
const NAMES_ALONE: &str = "hosts = [\"*.example.org\", \"example.net\", \"b\u{fc}cher.example\"]";

const INSIDE_PREFIXES: &[&str] = &[
    "198.51.100.64:80",
    "198.51.100.127:8000",
    "198.51.100.100:8999",
    "[2001:db8:1:ffff::1]:80",
    // An IPv4 address in IPv6's form is that address.
    "[::ffff:198.51.100.64]:80",
    // A zone names a link of this machine; the address is the same.
    "[fe80::1]:80",
    "[fe80::1%7]:80",
];
const OUTSIDE_PREFIXES: &[&str] = &[
    "198.51.100.64:79",
    "198.51.100.64:81",
    "198.51.100.64:7999",
    "198.51.100.64:9000",
    "198.51.100.63:80",
    "198.51.100.128:80",
    "[2001:db8:2::1]:80",
    "[2001:db8:0:ffff::1]:80",
    "[::ffff:198.51.100.128]:80",
    // Such forms as NAT64 and the deprecated compatible one are addresses of their own.
    "[64:ff9b::198.51.100.64]:80",
    "[::198.51.100.64]:80",
    "[fe80:0:0:1::1%7]:80",
];
const INSIDE_NAMES: &[&str] = &[
    "www.example.org:80",
    "a.b.example.org:8999",
    "WWW.Example.ORG:80",
    "www.example.org.:80",
    "example.net:8000",
    "EXAMPLE.net.:80",
    "b\u{fc}cher.example:80",
    "B\u{dc}CHER.example:80",
    "xn--bcher-kva.example:80",
    "XN--BCHER-KVA.EXAMPLE.:80",
    // What UTS 46 takes for the same: full stops and letters of other widths, hyphens that only hint.
    "www\u{3002}example\u{ff0e}org:80",
    "\u{ff57}\u{ff57}\u{ff57}.example.org:80",
    "www.exam\u{ad}ple.org:80",
    "bu\u{308}cher.example:80",
];
const OUTSIDE_NAMES: &[&str] = &[
    "www.example.org:79",
    "www.example.org:9000",
    "example.org:80",
    "wwwexample.org:80",
    "www.example.org.evil.example:80",
    "www.example.net:80",
    "notexample.net:80",
    "example.net.org:80",
    "bucher.example:80",
    "xn--bcher-kva.example.com:80",
    "www.b\u{fc}cher.example:80",
    "198.51.100.64:80",
    // Letters that only look the same: Cyrillic, Greek, and a dotless i's neighbour.
    "www.ex\u{430}mple.org:80",
    "www.example.\u{3bf}rg:80",
    "b\u{fa}cher.example:80",
    // The same as an A-label, for which it stands.
    "www.xn--exmple-4nf.org:80",
];

const SCOPES: &[Scoped] = &[
    (Capability::TcpConnect, PREFIXES, INSIDE_PREFIXES, OUTSIDE_PREFIXES),
    (Capability::TcpConnect, NAMES, INSIDE_NAMES, OUTSIDE_NAMES),
    (Capability::UdpSend, PREFIXES, INSIDE_PREFIXES, OUTSIDE_PREFIXES),
    (
        Capability::HttpFetch,
        PREFIXES,
        &["198.51.100.64:80", "[2001:db8:1::1]:8000"],
        &["198.51.100.63:80", "www.example.org:80"],
    ),
    (Capability::HttpFetch, NAMES, INSIDE_NAMES, OUTSIDE_NAMES),
    (
        Capability::TlsValidate,
        PREFIXES,
        &["[::ffff:198.51.100.64]:80"],
        &["[::ffff:198.51.100.63]:80", "198.51.100.64:443"],
    ),
    (Capability::TlsValidate, NAMES, INSIDE_NAMES, OUTSIDE_NAMES),
    (
        Capability::TcpListen,
        "ports = [\"80\", \"8000-8999\"]",
        &["80", "8000", "8999"],
        &["79", "81", "7999", "9000", "any"],
    ),
    (
        Capability::UdpBind,
        "ports = [\"80\", \"49152-65535\"]",
        &["80", "65535", "any"],
        &["79", "81", "49151"],
    ),
    (
        Capability::IcmpPing,
        PREFIXES_ALONE,
        &["198.51.100.64", "2001:db8:1::1", "::ffff:198.51.100.127"],
        &["198.51.100.63", "198.51.100.128", "2001:db8:2::1", "::ffff:198.51.100.63"],
    ),
    (
        Capability::DnsResolve,
        NAMES_ALONE,
        &[
            "www.example.org",
            "WWW.EXAMPLE.ORG.",
            "example.net",
            "b\u{fc}cher.example",
            "xn--bcher-kva.example",
        ],
        &["example.org", "wwwexample.org", "www.example.net", "bucher.example", "198.51.100.64", "any"],
    ),
    (
        Capability::Raw,
        "ether_types = [\"0x88b5\", \"0x88CC\"]",
        &["0x88b5", "0x88B5", "0x88cc"],
        &["0x88b4", "0x88b6", "0x88cb", "0x88cd", "0xffff"],
    ),
    (Capability::Raw, "", &["0x0600", "0x88b5", "0xffff"], &[]),
    (Capability::HttpDevnet, "", &["any"], &[]),
    (Capability::TrustManage, "", &["any"], &[]),
    (Capability::Capture, "", &["any"], &[]),
    (Capability::Admin, "", &["any"], &[]),
    (Capability::BusDiscover, "", &["any"], &[]),
    (
        Capability::BusSessionOpen,
        "devices = [\"camera-*\", \"hub\"]",
        &["camera-1", "camera-\u{e9}", "hub"],
        &["camera", "hub2", "Hub", "my-camera-1", "loopback"],
    ),
    (
        Capability::BusStreamOpen,
        "devices = [\"camera-*\", \"hub\"]\nservices = [\"video\", \"chat\"]",
        &["camera-1/video", "hub/chat"],
        &["camera-1/videos", "camera-1/Video", "hub2/video", "loopback/chat"],
    ),
    (
        Capability::BusStreamOpen,
        "services = [\"video\"]",
        &["camera-1/video", "loopback/video"],
        &["camera-1/chat"],
    ),
    (Capability::BusStreamOpen, "devices = [\"hub\"]", &["hub/video", "hub/chat"], &["hub2/video"]),
    (
        Capability::BusCall,
        "devices = [\"camera-*\", \"hub\"]\nservices = [\"video\", \"v\u{ed}deo\"]",
        &["camera-1/video", "hub/video", "hub/v\u{ed}deo"],
        // Longer, shorter, another case, a dot at the end, and letters that only look the same.
        &[
            "camera-1/videos",
            "camera-1/vide",
            "camera-1/Video",
            "camera-1/video.",
            "camera-1/vide\u{43e}",
            "camera/video",
            "c\u{430}mera-1/video",
            "hub./video",
            "HUB/video",
            "loopback/video",
        ],
    ),
    (
        Capability::BusCall,
        "services = [\"video\"]",
        &["camera-1/video", "loopback/video"],
        &["camera-1/chat"],
    ),
    (Capability::BusShareService, "services = [\"video\"]", &["video"], &["videos", "chat"]),
    (
        Capability::BusShareFiles,
        "devices = [\"camera-*\", \"hub\"]\nservices = [\"recordings\"]",
        &["camera-1/recordings", "hub/recordings"],
        &[
            "camera-1/recording",
            "camera-1/recordings.",
            "camera-1/Recordings",
            "camera-1/rec\u{43e}rdings",
            "camera/recordings",
            "hub2/recordings",
            "loopback/recordings",
        ],
    ),
    (Capability::BusShareFiles, "devices = [\"hub\"]", &["hub/recordings", "hub/logs"], &["hub2/logs"]),
    (
        Capability::BusShareState,
        "devices = [\"camera-*\", \"hub\"]",
        &["camera-1", "camera-\u{e9}", "hub"],
        &["camera", "hub.", "Hub", "h\u{fc}b", "my-camera-1", "loopback"],
    ),
    (
        Capability::BusShareStateWrite,
        "devices = [\"camera-*\", \"loopback\"]",
        &["camera-1", "loopback"],
        &["camera", "Camera-1", "loopback2", "loop", "l\u{43e}opback"],
    ),
];

/// What is in no scope, since it is neither a name nor an address: in requests, in rules, and in expectations.
#[test]
fn zone_or_label_that_is_none_is_refused_wherever_it_stands() {
    for (host, why) in [
        ("fe80::1%eth0", "no zones"),
        ("[fe80::1%eth0]", "no zones"),
        ("[fe80::1%25eth0]", "no zones"),
        // A Punycode that decodes to nothing, and one that decodes to ASCII alone.
        ("xn--a.example.org", "IDNA"),
        ("xn--example-.org", "IDNA"),
        // A combining mark first, a letter of no script, both directions in one label.
        ("\u{308}a.example", "IDNA"),
        ("a\u{378}b.example", "IDNA"),
        ("a\u{5d0}.example", "IDNA"),
    ] {
        for capability in [Capability::TcpConnect, Capability::HttpFetch, Capability::TlsValidate] {
            let error = Request::parse(capability, Some(&format!("{host}:80"))).unwrap_err().to_string();
            let zone = error.contains("without a zone");
            assert!(error.contains(why) || (zone && why == "no zones"), "{capability} {host}: {error}");
        }
        let error = Request::parse(Capability::DnsResolve, Some(host)).unwrap_err().to_string();
        assert!(error.contains(why), "{host}: {error}");
        for pattern in [host.to_owned(), format!("*.{host}")] {
            let text = format!(
                "[[grant]]\nsubject = \"any\"\nallow = [\"net.dns.resolve\"]\nhosts = [\"{pattern}\"]\n"
            );
            let error = file::parse(FILE, &text).unwrap_err();
            assert!(error.line == 4 && error.message.contains(why), "{pattern}: {error}");
        }
    }
    for prefix in ["fe80::1%eth0/128", "fe80::%eth0/64", "fe80::/64%eth0"] {
        let text =
            format!("[[grant]]\nsubject = \"any\"\nallow = [\"net.icmp.ping\"]\nto = [\"{prefix}\"]\n");
        let error = file::parse(FILE, &text).unwrap_err();
        assert!(error.line == 4 && error.message.contains("invalid IP"), "{prefix}: {error}");
    }
    for capability in [Capability::UdpSend, Capability::IcmpPing] {
        for target in ["fe80::1%eth0", "[fe80::1%eth0]:80"] {
            assert!(Request::parse(capability, Some(target)).is_err(), "{capability} {target}");
        }
    }
    let expectation = "[[expect]]\nsubject = \"any\"\ncapability = \"net.tcp.connect\"\ntarget = \"[fe80::1%eth0]:80\"\n\
                       decision = \"deny\"\n";
    let error = expect::parse(FILE, expectation).unwrap_err();
    assert!(error.line == 4 && error.message.contains("no zones"), "{error}");
}

fn asked(capability: Capability, target: &str) -> Request {
    Request::parse(capability, Some(target)).unwrap_or_else(|error| panic!("{capability} {target}: {error}"))
}

#[test]
fn capability_is_denied_by_default_allowed_in_scope_and_denied_just_outside() {
    let nothing = policy(true, "").unwrap();
    for (capability, scope, inside, outside) in SCOPES {
        let text = format!("[[grant]]\nsubject = \"user:7\"\nallow = [\"{capability}\"]\n{scope}\n");
        let granted = policy(true, &text).unwrap();
        let denying = text.replace("[[grant]]", "[[deny]]").replace("allow = ", "deny = ");
        let all = format!("[[grant]]\nsubject = \"any\"\nallow = [\"{capability}\"]\n{denying}");
        let denied = policy(true, &all).unwrap();
        for target in *inside {
            let request = asked(*capability, target);
            let allowed = |policy: &Policy, uid| policy.decide(&subject(uid), &request).is_allowed();
            assert!(!allowed(&nothing, 7), "{request} is allowed by nothing");
            assert!(allowed(&granted, 7), "{request} is not allowed by\n{text}");
            assert!(!allowed(&granted, 8), "{request} is allowed to another user");
            assert!(!allowed(&denied, 7), "{request} is not denied by\n{all}");
            assert!(allowed(&denied, 8), "{request} is denied to another user by\n{all}");
        }
        for target in *outside {
            let request = asked(*capability, target);
            assert!(!granted.decide(&subject(7), &request).is_allowed(), "{request} is allowed by\n{text}");
            if *target != "any" {
                assert!(denied.decide(&subject(7), &request).is_allowed(), "{request} is denied by\n{all}");
            }
        }
    }
    for capability in Capability::ALL {
        assert!(SCOPES.iter().any(|(scoped, ..)| *scoped == capability), "{capability} was not asked for");
    }
}

/// One right is no other, at the same target.
#[test]
fn grant_of_one_capability_gives_no_other() {
    for (capability, scope, inside, _) in SCOPES {
        let text = format!("[[grant]]\nsubject = \"any\"\nallow = [\"{capability}\"]\n{scope}\n");
        let granted = policy(true, &text).unwrap();
        for (other, _, targets, _) in SCOPES.iter().filter(|(other, ..)| other != capability) {
            for target in targets.iter().chain(*inside) {
                let Ok(request) = Request::parse(*other, Some(target)) else { continue };
                assert!(
                    !granted.decide(&subject(7), &request).is_allowed(),
                    "{request} is allowed by\n{text}"
                );
            }
        }
    }
}
