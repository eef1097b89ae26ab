//! HTTPS by netd-services on a function that netd drives, and by curl on the same function under the kernel's driver, from one server,
//! alternating.
//!
//! ```text
//!   guest: netd-load - netd-services - netd - vfio-pci -+
//!          curl      - kernel - virtio-net -------------+- virtio-net-pci == tap == bridge - nginx (kernel)
//! ```

use super::machine::give_to_kernel;
use super::report::{Console, Report, median};
use crate::debian::{self, DOMAIN, EVERYTHING, Running};
use crate::ensure;
use crate::error::Result;
use crate::lab::Lab;
use crate::peers::{Identity, Nginx};
use crate::vm::Twin;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Rounds of each unless told otherwise, the one that begins alternating too.
pub const ROUNDS: u32 = 3;
const BULK_BYTES: u64 = 1 << 30;
const FETCHES: u32 = 10_000;
const SMALL_BYTES: usize = 1024;
const PORT: u16 = 8443;
/// For one measurement: emulated, a fetch with a handshake of its own took a fifth of a second on a busy host.
const LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// In the guest.
const ROOT: &str = "/usr/share/netd/trust/root.pem";

/// The figures.
#[derive(Debug, Serialize)]
struct Results {
    twin: &'static str,
    /// "Kvm" or "Tcg": under the latter everything is emulated, and only ratios mean something.
    accelerator: String,
    /// Of the one large file.
    bulk_bytes: u64,
    /// Of [`SMALL_BYTES`] each.
    fetches: u32,
    /// Of each.
    rounds: u32,
    /// The medians of netd's rounds.
    netd: Figures,
    /// The medians of curl's.
    curl: Figures,
    /// Small fetches per second of one curl that keeps its connection (HTTP/2), as it does unless told otherwise.
    curl_keeping_per_second: f64,
}

/// What one round measures.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    /// Of the large file's content.
    bytes_per_second: f64,
    /// Small ones, a connection each, one after the other.
    fetches_per_second: f64,
}

/// What is to be fetched.
struct Task {
    host: String,
    bulk_bytes: u64,
    fetches: u32,
}

/// Boots the machine, lets both have their rounds, and states the ratios.
pub(super) fn run(twin: Twin, part: u32, rounds: u32, console: &Console) -> Result<()> {
    console.progress(&format!("a {} machine", twin.name()));
    let lab = Lab::debian(twin)?;
    let task = Task {
        host: format!("www.{DOMAIN}"),
        bulk_bytes: BULK_BYTES / u64::from(part),
        fetches: FETCHES.div_ceil(part),
    };
    let identity = Identity::new(&task.host)?;
    let nginx = Nginx::start_tls(&lab.namespace, PORT, &identity)?;
    nginx.offer_zeros("bulk", task.bulk_bytes)?;
    nginx.offer("small", &[0x5a; SMALL_BYTES])?;
    debian::prepare(&lab, EVERYTHING, &identity)?;
    let (mut netd, mut curl, mut keeping) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Whoever comes second in a round comes first in the next, so that a host that slows down meanwhile is fair to both.
        let netd_first = round % 2 == 0;
        for is_netd in [netd_first, !netd_first] {
            let who = if is_netd { "netd" } else { "curl" };
            console.progress(&format!("round {} of {rounds}: {who}", round + 1));
            if is_netd {
                netd.push(by_netd(&lab, &task)?);
            } else {
                let (figures, kept) = by_curl(&lab, &task)?;
                curl.push(figures);
                keeping.push(kept);
            }
        }
    }
    let results = Results {
        twin: twin.name(),
        accelerator: format!("{:?}", lab.vm.accelerator()),
        bulk_bytes: task.bulk_bytes,
        fetches: task.fetches,
        rounds,
        netd: Figures::median(&netd),
        curl: Figures::median(&curl),
        curl_keeping_per_second: median(&keeping),
    };
    show(console, &results);
    console.finish(&Report::new("fetch", results))
}

fn by_netd(lab: &Lab, task: &Task) -> Result<Figures> {
    let running = Running::start(lab, "", true)?;
    let url = |file: &str| format!("https://{}:{PORT}/{file}", task.host);
    let fetch = |file: &str, count: u32, bytes: u64| {
        let argv = ["netd-load", "netd", "fetch", &url(file), &count.to_string()].map(str::to_owned);
        timed(lab, &argv, |answer| answer.trim().parse().ok() == Some(bytes))
    };
    let figures = Figures {
        bytes_per_second: task.bulk_bytes as f64 / fetch("bulk", 1, task.bulk_bytes)?,
        fetches_per_second: f64::from(task.fetches) / fetch("small", task.fetches, task.small_bytes())?,
    };
    running.terminate()?;
    lab.release()?;
    Ok(figures)
}

/// With a connection for each small fetch, as netd-services has, and how many there are per second when curl keeps its own.
fn by_curl(lab: &Lab, task: &Task) -> Result<(Figures, f64)> {
    let interface = give_to_kernel(lab)?;
    let resolved = format!("{}:{PORT}:{}", task.host, lab.plan.remote);
    let curl = |more: &[&str], file: &str, bytes: u64| {
        let url = format!("https://{}:{PORT}/{file}", task.host);
        let common = ["curl", "-sS", "--fail", "--cacert", ROOT, "--resolve", &resolved, "-o", "/dev/null"];
        let argv = [&common[..], &["-w", "%{size_download}\\n"], more, &[&url]].concat();
        let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
        let sum = |answer: &str| answer.lines().map_while(|line| line.parse::<u64>().ok()).sum::<u64>();
        timed(lab, &argv, |answer| sum(answer) == bytes)
    };
    let each = format!("small?[1-{}]", task.fetches);
    let figures = Figures {
        bytes_per_second: task.bulk_bytes as f64 / curl(&[], "bulk", task.bulk_bytes)?,
        fetches_per_second: f64::from(task.fetches)
            / curl(&["--http1.1", "-H", "Connection: close"], &each, task.small_bytes())?,
    };
    let kept = f64::from(task.fetches) / curl(&[], &each, task.small_bytes())?;
    lab.vm.guest().run(&["ip", "link", "set", &interface, "down"])?;
    Ok((figures, kept))
}

/// The seconds that a program takes from its start to its end; its answer must be right.
fn timed(lab: &Lab, argv: &[String], is_right: impl Fn(&str) -> bool) -> Result<f64> {
    let start = Instant::now();
    let answer = lab.vm.guest().command(argv).limit(LIMIT).run()?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(is_right(&answer), "`{}` fetched something else:\n{answer}", argv.join(" "));
    Ok(seconds)
}

impl Task {
    fn small_bytes(&self) -> u64 {
        u64::from(self.fetches) * SMALL_BYTES as u64
    }
}

impl Figures {
    fn median(rounds: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
        Figures {
            bytes_per_second: of(|figures| figures.bytes_per_second),
            fetches_per_second: of(|figures| figures.fetches_per_second),
        }
    }
}

fn show(console: &Console, results: &Results) {
    let Results { netd, curl, .. } = results;
    let table = console.table(&["                          ", "netd", "curl", "ratio"]);
    let row = |name: String, netd: f64, curl: f64| {
        let values = [netd, curl, netd / curl].map(|value| format!("{value:.2}"));
        table.row(&[name].into_iter().chain(values).collect::<Vec<_>>());
    };
    row(
        format!("{} MiB, MB/s", results.bulk_bytes >> 20),
        netd.bytes_per_second / 1e6,
        curl.bytes_per_second / 1e6,
    );
    row(format!("{} fetches, per second", results.fetches), netd.fetches_per_second, curl.fetches_per_second);
    row(
        "the same, curl keeping its connection".to_owned(),
        netd.fetches_per_second,
        results.curl_keeping_per_second,
    );
}
