//! What a decision costs, by the number of rules: prints `RULES CASE NANOSECONDS` per line. Run by `cargo xtask bench policy`.
//!
//! The rules are what a large site might have: users with prefixes and ports of their own, some names, a denial in every tenth. The
//! requests come from all over them, so that no case is in the cache of its own accord.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_types,
    reason = "a benchmark goes by the clock, and one whose rules are wrong has measured nothing"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use netd_policy::{Policy, Request, Subject, file};

/// How many rules.
const RULES: [usize; 3] = [1, 100, 10_000];
/// How long each case is measured.
const DURATION: Duration = Duration::from_millis(500);
/// Different requests of a case.
const REQUESTS: usize = 4096;

fn main() {
    for count in RULES {
        let begun = Instant::now();
        let policy = policy(count, rule);
        println!("{count} load {:.0}", begun.elapsed().as_nanos() as f64);
        for (case, port) in [("allow", 8080), ("deny", 22)] {
            let asked: Vec<_> = (0..REQUESTS).map(|index| request(scattered(index) % count, port)).collect();
            println!("{count} {case} {:.1}", measure(&policy, &asked));
        }
        let asked: Vec<_> =
            (0..REQUESTS).map(|index| stranger(request(scattered(index) % count, 8080))).collect();
        println!("{count} stranger {:.1}", measure(&policy, &asked));
        let asked: Vec<_> = (0..REQUESTS).map(|index| by_name(scattered(index) % count)).collect();
        println!("{count} name {:.1}", measure(&self::policy(count, rule_by_name), &asked));
    }
}

fn policy(count: usize, rule: impl Fn(usize) -> String) -> Policy {
    let text: String = (0..count).map(rule).collect();
    let rules = file::parse("bench.toml", &text).unwrap();
    Policy::new(true, rules, |_| None, |_| None).unwrap()
}

/// Rule number `index`: for one of a thousand users, one network each.
fn rule(index: usize) -> String {
    let (uid, network) = (index % 1000, network(index));
    let to = format!("to = [\"{network}/24\"]");
    match index % 10 {
        9 => format!(
            "[[deny]]\nsubject = \"user:{uid}\"\ndeny = [\"net.tcp.connect\"]\nports = [\"1-99\"]\n{to}\n"
        ),
        _ => format!(
            "[[grant]]\nsubject = \"user:{uid}\"\nallow = [\"net.tcp.connect\"]\nports = [\"8000-8999\"]\n{to}\n"
        ),
    }
}

/// Rule number `index` of those for names: one domain each.
fn rule_by_name(index: usize) -> String {
    let uid = index % 1000;
    format!(
        "[[grant]]\nsubject = \"user:{uid}\"\nallow = [\"net.tcp.connect\"]\nports = [\"443\"]\nhosts = [\"*.d{index}.example\"]\n"
    )
}

/// A connection by name that rule number `index` of those for names allows, at the address that was found.
fn by_name(index: usize) -> (Subject, Request) {
    let uid = u32::try_from(index % 1000).unwrap_or(0);
    let name = format!("www.d{index}.example").parse().unwrap();
    let address = Some(IpAddr::from(Ipv4Addr::new(198, 51, 100, 7)));
    let subject = Subject { uid, gid: uid, pid: 1, unit: Some("bench.service".to_owned()) };
    (subject, Request::TcpConnectName { name, port: 443, address })
}

fn network(index: usize) -> Ipv4Addr {
    let bits = u32::try_from(index).unwrap_or(0);
    Ipv4Addr::from(0x0a00_0000 + (bits << 8))
}

/// A request that rule number `index` is about; rules that deny are about others than those that are asked for as allowed.
fn request(index: usize, port: u16) -> (Subject, Request) {
    let index = if index % 10 == 9 { index - 1 } else { index };
    let uid = u32::try_from(index % 1000).unwrap_or(0);
    let peer = IpAddr::from(Ipv4Addr::from(u32::from(network(index)) + 7));
    let subject = Subject { uid, gid: uid, pid: 1, unit: Some("bench.service".to_owned()) };
    (subject, Request::TcpConnect { remote: SocketAddr::new(peer, port) })
}

/// The same of somebody for whom there is no rule at all.
fn stranger((subject, request): (Subject, Request)) -> (Subject, Request) {
    (Subject { uid: subject.uid + 100_000, gid: subject.gid + 100_000, ..subject }, request)
}

/// The number `index` of a fixed sequence without order (Knuth's multiplicative hash).
fn scattered(index: usize) -> usize {
    index.wrapping_mul(2_654_435_761) >> 7
}

/// Nanoseconds per decision, the reason of a denial included.
fn measure(policy: &Policy, asked: &[(Subject, Request)]) -> f64 {
    let allowed =
        asked.iter().filter(|(subject, request)| policy.decide(subject, request).is_allowed()).count();
    assert!(allowed == 0 || allowed == asked.len(), "{allowed} of {} are allowed", asked.len());
    let (begun, mut decisions) = (Instant::now(), 0usize);
    while begun.elapsed() < DURATION {
        for (subject, request) in asked {
            black_box(policy.decide(black_box(subject), black_box(request)));
        }
        decisions += asked.len();
    }
    begun.elapsed().as_nanos() as f64 / decisions as f64
}
