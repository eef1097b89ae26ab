//! Every capability: denied by default, allowed in scope, denied just outside; for people, and for a unit.

use netd_tests::debian::{ALICE, Actor, Attempted, DOMAIN, Running, attempt};
use netd_tests::lab::{Lab, scratch};
use netd_tests::peers::{Identity, LeasePlan};
use netd_tests::process::{Background, run, wait_until};
use netd_tests::{Result, ensure};
use std::time::Duration;

use crate::HTTPS;

/// netctl's exit code for what policy or the devnet switch denies.
const DENIED: i32 = 4;
/// How a program ends that did what it could.
const DONE: (i32, &str) = (0, "");
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
        scopes,
        outbound: true,
    };
    vec![
        right(
            "net.tcp.connect",
            get(remote, 80),
            // Another port, another prefix, and that in its other form.
            vec![get(remote, 81), get(gateway, 80), get(&format!("::ffff:{gateway}"), 80)],
            vec![format!("to = [\"{remote}/32\"]\nports = [\"80\"]")],
        ),
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
            ],
            vec![format!("to = [\"{gateway}/32\"]\nports = [\"{UDP_PORT}\"]")],
        ),
        right(
            "net.icmp.ping",
            netctl(&format!("ping -c 1 -W 10 {gateway}")),
            vec![netctl(&format!("ping -c 1 {remote}"))],
            vec![format!("to = [\"{gateway}/32\"]")],
        ),
        right(
            "net.dns.resolve",
            netctl(&format!("resolve -t a A.Zone.{DOMAIN}.")),
            // Not what the pattern stands below, nor what merely ends with it, nor what begins with it.
            [format!("zone.{DOMAIN}"), format!("azone.{DOMAIN}"), format!("a.zone.{DOMAIN}.example")]
                .map(|name| netctl(&format!("resolve -t a {name}")))
                .to_vec(),
            vec![format!("hosts = [\"*.zone.{DOMAIN}\"]")],
        ),
        right(
            "net.http.fetch",
            url(&www, HTTPS),
            vec![url(&other, HTTPS), url(&www, HTTPS + 1)],
            site.clone(),
        ),
        right("net.http.devnet", url(&www, HTTPS), vec![], vec![String::new()]),
        right("net.tls.validate", look(&www, HTTPS), vec![look(&other, HTTPS), look(&www, HTTPS + 1)], site),
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
    ]
}

/// Listens until netd knows it; if that never comes, until netctl ends.
fn listen(port: u16) -> String {
    format!(
        "netctl --json listen {port} & p=$!; while kill -0 $p 2>/dev/null; do \
         netctl --json sockets -l --sport {port} | grep -q {port} && kill $p; sleep 0.05; done; wait $p"
    )
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
        Right { inside: self.inside.clone(), outside: Vec::new(), scopes: self.scopes.clone(), ..*self }
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
            came.code == DENIED && error == "DevnetDisabled",
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

/// Tries everything: what is inside is allowed to those to whom `may` says so, what is outside to nobody.
fn expect(lab: &Lab, actor: Actor, rights: &[Right], may: impl Fn(&Right) -> bool) -> Result<()> {
    let tried =
        |right: &'_ Right| -> Vec<String> { [std::slice::from_ref(&right.inside), &right.outside].concat() };
    let lines: Vec<String> = rights.iter().flat_map(tried).collect();
    let mut came =
        attempt(lab, actor, &lines.iter().map(String::as_str).collect::<Vec<_>>())?.into_iter().zip(&lines);
    let is = |came: &Attempted, (code, error): (i32, &str)| {
        came.code == code && (error.is_empty() || came.error() == error)
    };
    for right in rights {
        let expected = if may(right) { right.allowed } else { (DENIED, "PolicyDenied") };
        for (place, expected) in std::iter::once(expected)
            .chain(right.outside.iter().map(|_| (DENIED, "PolicyDenied")))
            .enumerate()
        {
            let Some((came, line)) = came.next() else { continue };
            let place = if place == 0 { "inside" } else { "outside" };
            ensure!(
                is(&came, expected),
                "{} of {actor:?}, {place} its scope: `{line}` ended with {came:?}, expected {expected:?}",
                right.name
            );
        }
    }
    Ok(())
}
