//! `cargo xtask test`: from formatting to virtual machines, the fastest first, the scenarios last.

use netd_tests::fuzzing::{self, Start};
use netd_tests::process::{Background, describe};
use netd_tests::{Error, Result, binaries, ensure, install};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// In a namespace, with passt, DPDK and other programs of the host. "units" takes a second. Those of vhost-user take about a minute, as
/// does "state", peers two, the judge of captures ten seconds, fetch twenty, the bus half a minute.
const SCENARIOS: [&str; 11] = [
    "units",
    "judge",
    "inputs",
    "passt",
    "ends",
    "state",
    "vhost_user",
    "vhost_user_netd",
    "peers",
    "fetch",
    "bus",
];
/// With `--long` only: the tool that makes packages takes minutes to build, and a Debian installs, upgrades and removes the package for two more.
const SCENARIOS_LONG: [&str; 1] = ["package"];
/// In virtual machines. vm_debian takes two minutes, and two more once, for its disk; takeover a minute and a half.
const MACHINE_SCENARIOS: [&str; 10] = [
    "harness",
    "vm_inputs",
    "vm_viommu",
    "vm_rings",
    "vm_offloads",
    "vm_removal",
    "vm_gce",
    "vm_debian",
    "takeover",
    "kill9",
];

/// How long each fuzz target looks for something new, and how long with `--long`.
const FUZZ: Duration = Duration::from_secs(10);
const FUZZ_LONG: Duration = Duration::from_secs(180);

/// For the scenarios of the host, which run beside those in machines; it is the end of a run that hangs.
const BESIDE_MAX: Duration = Duration::from_secs(2 * 3600);

/// Runs everything, or everything but the machines. Two cores: one after the other, but for the scenarios, of which each uses about one.
pub(crate) fn run(quick: bool, long: bool) -> Result<()> {
    announce("packages");
    install::ensure(install::EMBEDDED)?;
    install::ensure(install::PEERS)?;
    install::ensure(install::DPDK)?;
    install::ensure(install::PACKAGING)?;
    if !quick {
        install::ensure(install::VIRTUAL_MACHINE)?;
        install::ensure(install::KERNEL_BUILD)?;
    }
    announce("format");
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])?;
    announce("clippy");
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    // Always the whole workspace, even for one test: a part of it has other features, with which all it stands on is built once more.
    announce("build");
    cargo(&["build", "--workspace", "--all-targets", "--quiet"])?;
    announce("tests of the crates");
    let programs = binaries::target_directory()?.join("debug");
    let mut tests = cargo_command(&["test", "--workspace", "--quiet"]);
    tests.env(binaries::PREBUILT, &programs);
    if long {
        tests.env("NETD_LONG", "1");
    }
    run_to_success(tests)?;
    // Some 15 seconds, and twice seconds and a download once. The hostile users need root, to be several.
    for (what, test) in [
        ("files cut while they are written", "cut"),
        ("hostile users", "clients"),
        ("sessions with Noise of others", "noise_peers"),
        ("NIST's certificate chains, beside OpenSSL", "pkits"),
    ] {
        announce(what);
        let mut tests = cargo_command(&["test", "--workspace", "--quiet", "--test", test]);
        tests.args(["--", "--ignored", "--test-threads=1"]).env(binaries::PREBUILT, &programs);
        run_to_success(tests)?;
    }
    announce("models of the rings");
    run_to_success(models()?)?;
    announce("fuzz targets");
    let (start, duration) = if long { (Start::Anywhere, FUZZ_LONG) } else { (Start::Known, FUZZ) };
    fuzzing::Run { targets: Vec::new(), start, duration, keep: false }.start()?;
    announce("scenarios");
    let mut on_host = scenarios(&SCENARIOS, long, &programs);
    if quick {
        return run_to_success(on_host);
    }
    let log = binaries::target_directory()?.join("scenarios.log");
    let mut on_host = Background::spawn(&mut on_host, &log)?;
    let more = if long { &SCENARIOS_LONG[..] } else { &[] };
    let in_machines = run_to_success(scenarios(&[&MACHINE_SCENARIOS, more].concat(), long, &programs));
    announce("scenarios on the host, meanwhile");
    let status = on_host.wait(BESIDE_MAX);
    print!("{}", on_host.output());
    let status = status?;
    ensure!(status.success(), "scenarios on the host failed: {status}");
    in_machines
}

/// One failure does not hide what the others would have said.
fn scenarios(names: &[&str], long: bool, programs: &Path) -> Command {
    let mut arguments = vec!["test", "--workspace"];
    arguments.extend(names.iter().flat_map(|name| ["--test", name]));
    arguments.extend(["--no-fail-fast", "--", "--include-ignored", "--test-threads=1"]);
    let mut scenarios = cargo_command(&arguments);
    scenarios.env(binaries::PREBUILT, programs);
    if long {
        scenarios.env("NETD_LONG", "1");
    }
    scenarios
}

/// loom's interleavings of a ring's two sides; a build of its own, since its atomics are others. Half a minute.
fn models() -> Result<Command> {
    let mut models = cargo_command(&["test", "--quiet", "--package", "netd-virtqueue", "--lib", "models"]);
    models.env("RUSTFLAGS", "--cfg loom");
    models.env("CARGO_TARGET_DIR", binaries::target_directory()?.join("loom"));
    Ok(models)
}

fn announce(stage: &str) {
    println!("\n== {stage}");
}

/// Runs cargo, and fails when it does.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    run_to_success(cargo_command(arguments))
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = binaries::cargo();
    command.args(arguments);
    command
}

/// Runs a command, and fails when it does.
pub(crate) fn run_to_success(mut command: Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|source| Error::Io { action: format!("run {}", describe(&command)), source })?;
    ensure!(status.success(), "`{}` failed: {status}", describe(&command));
    Ok(())
}
