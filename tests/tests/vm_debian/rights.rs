//! Every capability: denied by default, allowed in scope, denied just outside; for people, and for a unit.

use netd_tests::debian::{ALICE, Actor, DOMAIN, Running, attempt};
use netd_tests::lab::{Lab, scratch};
use netd_tests::peers::{Identity, LeasePlan};
use netd_tests::process::{Background, run, wait_until};
use netd_tests::{Result, ensure};
use std::time::Duration;

use crate::HTTPS;

/// How netctl ends with what policy denies.
const DENIED: (i32, &str) = (4, "PolicyDenied");
/// How it ends with what netd takes for no request.
const MALFORMED: (i32, &str) = (1, "InvalidInput");
/// How it ends with what it takes for none itself.
const MISTYPED: (i32, &str) = (2, "");
/// How a program ends that did what it could.
const DONE: (i32, &str) = (0, "");
/// How one ends that asked, as it might, for what is not there.
const ABSENT: (i32, &str) = (1, "NotFound");
/// How one ends that waited for what nobody sent.
const WAITED: (i32, &str) = (1, "TimedOut");
/// How one ends, by the shell, that would still wait had it not been sent SIGTERM.
const TERMINATED: (i32, &str) = (143, "");
const UDP_PORT: u16 = 5300;
const LIMIT: Duration = Duration::from_secs(30);
/// In the guest: a root that could be trusted.
const SECOND_ROOT: &str = "/tmp/second.pem";

/// A capability, and what is tried with it, in lines of the shell.
struct Right {
    name: &'static str,
    inside: String,
    /// How that ends when it is allowed: the exit code, and netctl's error.
    allowed: (i32, &'static str),
    outside: Vec<String>,
    /// The same as inside, in other words: case, a dot at the end, IDNA, IPv4 in IPv6's form.
    same: Vec<String>,
    /// What is neither a name nor an address that netd knows: zones, labels that are none of IDNA's.
    malformed: Vec<(String, (i32, &'static str))>,
    /// A rule's keys beside `subject` and `allow`; several for several rules.
    scopes: Vec<String>,
    /// Whether it sends what a client wants, which the devnet switch forbids.
    outbound: bool,
}

fn rights(plan: &LeasePlan) -> Vec<Right> {
    let (gateway, remote) = (plan.gateway, plan.remote);
    let netctl = |arguments: &str| format!("netctl --json {arguments}");
    let get = |host: &str, port: u16| {
        format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | netctl --json connect {host} {port}")
    };
    let (url, at) =
        (|host: &str, port: u16| netctl(&format!("fetch https://{host}:{port}/hello.txt")), remote);
    let look = |host: &str, port: u16| netctl(&format!("trust check {host}:{port}"));
    let (www, other) = (format!("www.{DOMAIN}"), format!("other.{DOMAIN}"));
    // With the Cyrillic letter that looks like it.
    let (shouted, homograph) = (format!("WWW.{}.", DOMAIN.to_uppercase()), www.replacen('e', "\u{435}", 1));
    let (zoned, no_label) = ("fe80::1%eth0", format!("xn--a.{DOMAIN}"));
    // The name, and since it answers with a private address, that too.
    let site = vec![
        format!("hosts = [\"{www}\"]\nports = [\"{HTTPS}\"]"),
        format!("to = [\"{at}/32\"]\nports = [\"{HTTPS}\"]"),
    ];
    let right = |name, inside, outside, scopes| Right {
        name,
        inside,
        allowed: DONE,
        outside,
        same: Vec::new(),
        malformed: Vec::new(),
        scopes,
        outbound: true,
    };
    vec![
        Right {
            same: vec![get(&format!("::ffff:{remote}"), 80), get(&www, 80), get(&shouted, 80)],
            malformed: vec![(get(zoned, 80), MISTYPED), (get(&no_label, 80), MALFORMED)],
            ..right(
                "net.tcp.connect",
                get(remote, 80),
                // Another port, another prefix, and that in its other form; above, beside and below the name, and what looks like it.
                [(remote, 81), (gateway, 80), (&format!("::ffff:{gateway}"), 80), (&www, 81), (DOMAIN, 80)]
                    .into_iter()
                    .chain(
                        [&format!("w{www}"), &format!("a.{www}"), &homograph].map(|name| (name.as_str(), 80)),
                    )
                    .map(|(host, port)| get(host, port))
                    .collect(),
                vec![
                    format!("to = [\"{remote}/32\"]\nports = [\"80\"]"),
                    format!("hosts = [\"{www}\"]\nports = [\"80\"]"),
                ],
            )
        },
        Right {
            allowed: TERMINATED,
            outbound: false,
            ..right(
                "net.tcp.listen",
                listen(8000),
                vec![listen(7999), listen(8011)],
                vec!["ports = [\"8000-8010\"]".to_owned()],
            )
        },
        Right {
            allowed: WAITED,
            outbound: false,
            ..right(
                "net.udp.bind",
                netctl("udp recv 5001 -w 0.2"),
                vec![netctl("udp recv 4999 -w 0.2"), netctl("udp recv 5011 -w 0.2")],
                vec!["ports = [\"5000-5010\"]".to_owned()],
            )
        },
        right(
            "net.udp.send",
            netctl(&format!("udp send --local 5002 {gateway} {UDP_PORT} hello")),
            vec![
                netctl(&format!("udp send --local 5002 {gateway} {} hello", UDP_PORT + 1)),
                netctl(&format!("udp send --local 5002 {remote} {UDP_PORT} hello")),
                netctl(&format!("udp send --local 5002 ::ffff:{remote} {UDP_PORT} hello")),
            ],
            vec![format!("to = [\"{gateway}/32\"]\nports = [\"{UDP_PORT}\"]")],
        ),
        right(
            "net.icmp.ping",
            netctl(&format!("ping -c 1 -W 10 {gateway}")),
            vec![netctl(&format!("ping -c 1 {remote}")), netctl(&format!("ping -c 1 ::ffff:{remote}"))],
            vec![format!("to = [\"{gateway}/32\"]")],
        ),
        Right {
            same: vec![netctl(&format!("resolve -t a b\u{fc}cher.zone.{DOMAIN}"))],
            ..right(
                "net.dns.resolve",
                netctl(&format!("resolve -t a A.Zone.{DOMAIN}.")),
                // Not what the pattern stands below, nor what merely ends with it, nor what begins with it, nor what looks like it.
                [
                    format!("zone.{DOMAIN}"),
                    format!("azone.{DOMAIN}"),
                    format!("a.zone.{DOMAIN}.example"),
                    format!("a.zon\u{435}.{DOMAIN}"),
                ]
                .map(|name| netctl(&format!("resolve -t a {name}")))
                .to_vec(),
                vec![format!("hosts = [\"*.zone.{DOMAIN}\"]")],
            )
        },
        Right {
            same: vec![url(&shouted, HTTPS)],
            malformed: [format!("[{zoned}]"), no_label.clone()]
                .map(|host| (url(&host, HTTPS), MALFORMED))
                .to_vec(),
            ..right(
                "net.http.fetch",
                url(&www, HTTPS),
                vec![
                    url(&other, HTTPS),
                    url(&www, HTTPS + 1),
                    url(&homograph, HTTPS),
                    url(&format!("[::ffff:{gateway}]"), HTTPS),
                ],
                site.clone(),
            )
        },
        right("net.http.devnet", url(&www, HTTPS), vec![], vec![String::new()]),
        Right {
            same: vec![look(&shouted, HTTPS)],
            malformed: vec![(look(&no_label, HTTPS), MALFORMED)],
            ..right(
                "net.tls.validate",
                look(&www, HTTPS),
                vec![look(&other, HTTPS), look(&www, HTTPS + 1), look(&homograph, HTTPS)],
                site,
            )
        },
        Right {
            outbound: false,
            ..right(
                "net.trust.manage",
                netctl(&format!("trust add {SECOND_ROOT}")),
                vec![],
                vec![String::new()],
            )
        },
        right(
            "net.raw",
            netctl("frames send 0x88b5 ff:ff:ff:ff:ff:ff hello"),
            vec![netctl("frames send 0x88b6 ff:ff:ff:ff:ff:ff hello")],
            vec!["ether_types = [\"0x88b5\"]".to_owned()],
        ),
        Right { outbound: false, ..right("net.capture", capture(gateway), vec![], vec![String::new()]) },
        Right { outbound: false, ..right("net.admin", netctl("log info"), vec![], vec![String::new()]) },
        Right {
            outbound: false,
            ..right("dsoftbus.discover", netctl("bus peers"), vec![], vec![String::new()])
        },
        Right {
            allowed: TERMINATED,
            outbound: false,
            ..right(
                "dsoftbus.share.service",
                serve("video"),
                vec![serve("vide"), serve("video2")],
                vec!["services = [\"video\"]".to_owned()],
            )
        },
        Right {
            outbound: false,
            ..right(
                "dsoftbus.session.open",
                open("loopback", "video"),
                vec![open("loopback2", "video"), open("camera", "video")],
                vec!["devices = [\"loopback\"]".to_owned()],
            )
        },
        Right {
            outbound: false,
            ..right(
                "dsoftbus.stream.open",
                open("loopback", "video"),
                vec![open("loopback", "vide"), open("loopback", "audio")],
                vec!["devices = [\"loopback\"]\nservices = [\"video\"]".to_owned()],
            )
        },
        Right {
            allowed: ABSENT,
            outbound: false,
            ..right(
                "dsoftbus.rpc.call",
                netctl("bus call loopback video play"),
                ["loopback vide", "loopback video2", "loopback2 video"]
                    .map(|whom| netctl(&format!("bus call {whom} play")))
                    .to_vec(),
                vec!["devices = [\"loopback\"]\nservices = [\"video\"]".to_owned()],
            )
        },
        Right {
            outbound: false,
            ..right(
                "dsoftbus.share.files",
                netctl("bus files stat loopback licenses/GPL-3"),
                ["loopback license/GPL-3", "loopback licenses2/GPL-3", "loopback2 licenses/GPL-3"]
                    .map(|what| netctl(&format!("bus files stat {what}")))
                    .to_vec(),
                vec!["devices = [\"loopback\"]\nservices = [\"licenses\"]".to_owned()],
            )
        },
        Right {
            allowed: ABSENT,
            outbound: false,
            ..right(
                "dsoftbus.share.state",
                netctl("bus state get /state/shared/nothing"),
                vec![],
                vec!["devices = [\"loopback\"]".to_owned()],
            )
        },
        Right {
            outbound: false,
            ..right(
                "dsoftbus.share.state.write",
                netctl("bus state put /state/shared/probe value"),
                vec![],
                vec!["devices = [\"loopback\"]".to_owned()],
            )
        },
    ]
}

/// Listens until netd knows it; if that never comes, until netctl ends.
fn listen(port: u16) -> String {
    format!(
        "netctl --json listen {port} & p=$!; while kill -0 $p 2>/dev/null; do \
         netctl --json sockets -l --sport {port} | grep -q {port} && kill $p; sleep 0.05; done; wait $p"
    )
}

/// Offers a service of the bus until netd-services knows it; if that never comes, until netctl ends.
fn serve(service: &str) -> String {
    let (offered, withdrawn) = (offered(service), withdrawn(service));
    format!(
        "netctl --json bus serve {service} & p=$!; {offered}; kill $p 2>/dev/null; wait $p; c=$?; {withdrawn}; exit $c"
    )
}

/// Opens a stream to a device's service, while this machine offers `video`, if it may.
fn open(device: &str, service: &str) -> String {
    let (offered, withdrawn) = (offered("video"), withdrawn("video"));
    format!(
        "netctl bus serve video >/dev/null 2>&1 & p=$!; {offered}; netctl --json bus open {device} {service}; c=$?; \
         {{ kill $p; wait $p; }} 2>/dev/null; {withdrawn}; exit $c"
    )
}

/// Waits until the process `$p` offers a service, or has ended.
fn offered(service: &str) -> String {
    format!(
        "while kill -0 $p 2>/dev/null; do netctl --json bus status | grep -q '\"{service}\"' && break; sleep 0.05; done"
    )
}

/// Waits until nobody does any more, so that the next may.
fn withdrawn(service: &str) -> String {
    format!("while netctl --json bus status | grep -q '\"{service}\"'; do sleep 0.05; done")
}

/// Captures one frame, which it makes.
fn capture(gateway: &str) -> String {
    format!(
        "netctl --json capture -c 1 icmp & p=$!; while kill -0 $p 2>/dev/null; do \
         netctl ping -c 1 {gateway} >/dev/null 2>&1; done; wait $p"
    )
}

impl Right {
    fn inside_alone(&self) -> Right {
        let (inside, scopes) = (self.inside.clone(), self.scopes.clone());
        Right { inside, scopes, outside: Vec::new(), same: Vec::new(), malformed: Vec::new(), ..*self }
    }
}

/// Grants of those rights that `which` says.
fn rules(rights: &[Right], subject: &str, which: impl Fn(&Right) -> bool) -> String {
    let granted = rights.iter().filter(|right| which(right));
    let rule = |name: &str, scope: &str| {
        format!("[[grant]]\nsubject = \"{subject}\"\nallow = [\"{name}\"]\n{scope}\n")
    };
    granted.flat_map(|right| right.scopes.iter().map(|scope| rule(right.name, scope))).collect()
}

/// With the devnet switch off nothing goes out, whatever is granted.
pub(crate) fn closed(lab: &Lab, actor: Actor) -> Result<()> {
    let rights: Vec<Right> = rights(&lab.plan).into_iter().filter(|right| right.outbound).collect();
    let lines: Vec<&str> = rights.iter().map(|right| right.inside.as_str()).collect();
    for (right, came) in rights.iter().zip(attempt(lab, actor, &lines)?) {
        let error = came.error();
        ensure!(
            (came.code, error.as_str()) == (DENIED.0, "DevnetDisabled"),
            "{} while devnet is off: {came:?}",
            right.name
        );
    }
    Ok(())
}

/// People and units, before and after they are granted something.
pub(crate) fn check(lab: &Lab, running: &Running<'_>) -> Result<()> {
    let rights = rights(&lab.plan);
    lab.vm.guest().write_file(SECOND_ROOT, &Identity::new("second.test")?.root()?)?;
    let directory = scratch()?;
    let mut receiver = lab.namespace.command("socat");
    receiver.args(["-u", &format!("UDP-RECV:{UDP_PORT}"), "OPEN:/dev/null"]);
    let _receiver = Background::spawn(&mut receiver, &directory.path().join("socat.log"))?;
    let filter = format!("sport = :{UDP_PORT}");
    wait_until("a UDP socket", LIMIT, || {
        Ok(!run(lab.namespace.command("ss").args(["-Hlun", &filter]))?.is_empty())
    })?;

    // The user of both may next to nothing: what is allowed is the unit's.
    let (unit, other) = (Actor::Unit("probe.service", "bob"), Actor::Unit("probe2.service", "bob"));
    let inside: Vec<Right> = rights.iter().map(Right::inside_alone).collect();
    running.set_rules("")?;
    expect(lab, unit, &inside, |_| false)?;
    // alice may all but one thing, bob only what is of no use alone, and the unit everything.
    let of_alice = rules(&rights, "user:alice", |right| right.name != "net.trust.manage");
    let of_bob = rules(&rights, "user:bob", |right| right.name == "net.http.fetch");
    let of_unit = rules(&rights, "unit:probe.service", |_| true);
    running.set_rules(&[of_alice, of_bob, of_unit].concat())?;
    expect(lab, unit, &rights, |_| true)?;
    expect(lab, other, &inside, |_| false)?;
    // In the agent's unit, which no rule names.
    expect(lab, Actor::Person(ALICE), &inside, |right| right.name != "net.trust.manage")
}

/// Tries everything: what is inside is allowed to those to whom `may` says so, in whatever words, what is outside to nobody.
fn expect(lab: &Lab, actor: Actor, rights: &[Right], may: impl Fn(&Right) -> bool) -> Result<()> {
    let mut tried = Vec::new();
    for right in rights {
        let inside = if may(right) { right.allowed } else { DENIED };
        let inside = std::iter::once(&right.inside).chain(&right.same).map(|line| (line, "inside", inside));
        let outside = right.outside.iter().map(|line| (line, "outside", DENIED));
        let malformed = right.malformed.iter().map(|(line, how)| (line, "not even in", *how));
        tried.extend(inside.chain(outside).chain(malformed).map(|tried| (right.name, tried)));
    }
    let lines: Vec<&str> = tried.iter().map(|(_, (line, ..))| line.as_str()).collect();
    for (came, (name, (line, place, (code, error)))) in attempt(lab, actor, &lines)?.into_iter().zip(tried) {
        let is = came.code == code && (error.is_empty() || came.error() == error);
        ensure!(
            is,
            "{name} of {actor:?}, {place} its scope: `{line}` ended with {came:?}, expected {code} and {error:?}"
        );
    }
    Ok(())
}
