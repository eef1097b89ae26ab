//! Two devices, and a third that lies.

use std::fs;
use std::time::Instant;

use netd_tests::bus::{LIMIT, Network, Node, Plan, expect_refusal, run};
use netd_tests::embedded::UNPRIVILEGED_UID;
use netd_tests::peers::file_of;
use netd_tests::{Error, Result, ensure};
use serde_json::{Map, Value, json};

use super::remote;
use super::shared::{self, Shared};

/// Bytes that cross a stream in each direction: many times all buffers together.
const BULK_BYTES: u64 = 8 << 20;
const BUS: &str = "mode = \"network\"\nhandshakes = 1000\nannounce_seconds = 2\n[[bus.acl]]\ndevices = [\"beta\", \"alpha\"]\nservices = [\"bulk\", \"secret\", \"lamp\", \"sensor\"]\n";
/// Everybody's: beta keeps the state.
const KEEPER: &str = "keeper = \"beta\"\n";
/// Alpha's: it may ask beta for one thing more, which beta has for nobody.
const BUS_OF_ALPHA: &str = "[[bus.acl]]\ndevices = [\"beta\"]\nservices = [\"hidden\"]\n";

fn rules() -> String {
    let user = format!("user:{UNPRIVILEGED_UID}");
    format!(
        "{}[[grant]]\nsubject = \"{user}\"\nallow = [\"dsoftbus.discover\", \"dsoftbus.share.service\", \"net.trust.manage\"]\n\
         [[grant]]\nsubject = \"{user}\"\nallow = [\"dsoftbus.session.open\"]\ndevices = [\"alpha\", \"b*\"]\n\
         [[grant]]\nsubject = \"{user}\"\nallow = [\"dsoftbus.stream.open\"]\ndevices = [\"alpha\", \"beta\"]\nservices = [\"bulk\", \"nobody\", \"lamp\"]\n\
         [[grant]]\nsubject = \"{user}\"\nallow = [\"dsoftbus.rpc.call\"]\ndevices = [\"alpha\", \"beta\"]\nservices = [\"lamp\", \"sensor\", \"hidden\"]\n{}",
        super::RULES,
        shared::rules("\"beta\", \"loopback\"")
    )
}

/// What each phase took, printed at the end.
#[derive(Default)]
struct Report(Map<String, Value>);

impl Report {
    fn phase<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let done = work().map_err(|error| Error::Expectation(format!("{name}: {error}")))?;
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.insert(name.to_owned(), json!({ "ok": true, "ms": took }));
        Ok(done)
    }
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn devices_find_pair_and_connect_and_everybody_else_is_refused() -> Result<()> {
    let rules = rules();
    let plan = |name, number| Plan { name, claims: name, number, rules: &rules, bus: BUS };
    let network = Network::new()?;
    let shared = Shared::new()?;
    let bus = format!("{KEEPER}{BUS}{BUS_OF_ALPHA}");
    let mut alpha = Node::start(&network, Plan { bus: &bus, ..plan("alpha", 11) })?;
    let bus = format!("{KEEPER}{BUS}{}", shared.configuration("alpha"));
    let mut beta = Node::start(&network, Plan { bus: &bus, ..plan("beta", 12) })?;
    let mut report = Report::default();
    let done = phases(&network, &rules, &shared, (&mut alpha, &mut beta), &mut report);
    println!("{}", json!({ "scenario": "bus", "phases": report.0 }));
    done.map_err(|error| Error::Expectation(format!("{error}\n{}{}", alpha.logs(), beta.logs())))
}

fn phases<'a>(
    network: &'a Network,
    rules: &'a str,
    shared: &Shared,
    (alpha, beta): (&mut Node<'a>, &mut Node<'a>),
    report: &mut Report,
) -> Result<()> {
    report.phase("discovery", || discovery(alpha, beta))?;
    report.phase("strangers_refused", || strangers_refused(alpha))?;
    report.phase("wrong_pin_refused", || wrong_pin(alpha, beta))?;
    report.phase("pairing", || pairing(alpha, beta))?;
    report.phase("streams", || streams(alpha, beta))?;
    report.phase("refusals", || refusals(alpha))?;
    report.phase("calls", || {
        remote::calls(alpha, beta, "beta", "alpha")?;
        remote::calls(beta, alpha, "alpha", "beta")
    })?;
    report.phase("calls_refused", || remote::refusals(alpha, beta))?;
    report.phase("topics", || remote::topics(alpha, beta, "beta"))?;
    report.phase("calls_cut", || remote::session_lost(alpha, beta))?;
    report.phase("files", || shared::files(alpha, "beta", shared, &["files"]))?;
    report.phase("files_and_state_refused", || shared::refusals(alpha))?;
    report.phase("files_cut", || shared::cut(alpha, beta, shared))?;
    report.phase("state", || shared::state(alpha))?;
    report.phase("state_kept", || shared::kept(alpha, beta))?;
    report.phase("cut_streams", || cut_stream(alpha, beta))?;
    report.phase("services_restarted", || services_restarted(alpha, beta))?;
    report.phase("netd_restarted", || netd_restarted(alpha, beta))?;
    report.phase("wrong_key_refused", || wrong_key(network, rules, alpha))?;
    report.phase("devnet_off", || devnet_off(alpha, beta))?;
    report.phase("revocation", || revocation(alpha, beta))
}

fn discovery(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    for (node, other) in [(alpha, "beta"), (beta, "alpha")] {
        node.wait("the network", |node| Ok(node.bus(&["status"])?["mode"] == "network"))?;
        node.wait("the other device", |node| {
            Ok(node.peer(other)?.is_some_and(|peer| peer["present"] == true))
        })?;
        ensure!(node.log().contains("dsoftbusd: discovery up"), "no marker for discovery");
    }
    let peer = alpha.peer("beta")?.unwrap_or_default();
    ensure!(
        peer["key"] == beta.bus(&["status"])?["key"] && peer["pinned"] == false,
        "beta as a peer: {peer:#}"
    );
    Ok(())
}

fn strangers_refused(alpha: &Node<'_>) -> Result<()> {
    let message = alpha.refused(&["open", "beta", "bulk"], "NotPaired")?;
    ensure!(message.contains("PIN"), "no word on how to pair: {message}");
    Ok(())
}

fn wrong_pin(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    let shown = beta.bus(&["pair"])?["pin"].as_str().unwrap_or_default().to_owned();
    let wrong = if shown == "123456" { "654321" } else { "123456" };
    let output = run(alpha.netctl(&["bus", "pair", "beta", "--pin"]).arg(wrong))?;
    ensure!(!output.status.success(), "a wrong PIN was taken");
    let tries = &beta.bus(&["status"])?["pin_tries"];
    ensure!(*tries == 2, "after one wrong PIN {tries} tries are left");
    ensure!(
        alpha.peer("beta")?.is_some_and(|peer| peer["pinned"] == false),
        "beta is pinned after a wrong PIN"
    );
    Ok(())
}

fn pairing(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    let shown = beta.bus(&["pair"])?["pin"].as_str().unwrap_or_default().to_owned();
    let paired = alpha.bus(&["pair", "beta", "--pin", &shown])?;
    ensure!(paired["keys"][0] == beta.bus(&["status"])?["key"], "paired with another key: {paired:#}");
    for (node, other) in [(alpha, "beta"), (beta, "alpha")] {
        node.wait("a session", |node| {
            Ok(node.peer(other)?.is_some_and(|peer| peer["pinned"] == true && peer["sessions"] == 1))
        })?;
        for marker in ["dsoftbusd: auth ok", &format!("dsoftbusd: identity bound peer={other}")] {
            ensure!(node.log().contains(marker), "no marker: {marker}");
        }
    }
    ensure!(beta.bus(&["status"])?["pin_tries"].is_null(), "the PIN is still shown");
    Ok(())
}

/// A file each way over one stream: both ends say that it is complete, and what came is what was sent.
fn exchange(from: &Node<'_>, to: &Node<'_>, device: &str, bytes: u64) -> Result<()> {
    let up = file_of(&from.path("up"), bytes, 1)?;
    let down = file_of(&to.path("down"), bytes, 2)?;
    let mut serving = to.serve("bulk", &to.path("down"), "served")?;
    let input = fs::File::open(from.path("up")).map_err(|error| Error::Expectation(error.to_string()))?;
    let output = from.netctl(&["bus", "open", device, "bulk"]).stdin(input).output();
    let output = output.map_err(|error| Error::Expectation(error.to_string()))?;
    ensure!(output.status.success(), "open: {}", String::from_utf8_lossy(&output.stderr));
    let status = serving.wait(LIMIT)?;
    ensure!(status.success(), "serve: {status}");
    let digest = |mut bytes: &[u8]| {
        netd_tests::digest::of_reader(&mut bytes).map_err(|error| Error::Expectation(error.to_string()))
    };
    let (count, came) = digest(&output.stdout)?;
    ensure!((count, &came) == (bytes, &down), "{count} bytes came down with the digest {came}");
    // Behind the bytes stands what netctl says of the stream.
    let served = fs::read(to.path("served")).map_err(|error| Error::Expectation(error.to_string()))?;
    let (count, came) =
        digest(served.get(..usize::try_from(bytes).unwrap_or(usize::MAX)).unwrap_or_default())?;
    ensure!((count, &came) == (bytes, &up), "{count} bytes came up with the digest {came}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(told.contains("\"complete\":true"), "the stream is not complete: {told}");
    Ok(())
}

fn streams(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    exchange(alpha, beta, "beta", BULK_BYTES)?;
    exchange(beta, alpha, "alpha", BULK_BYTES)
}

fn refusals(alpha: &Node<'_>) -> Result<()> {
    let message = alpha.refused(&["open", "beta", "secret"], "PolicyDenied")?;
    ensure!(message.contains("dsoftbus.stream.open") && message.contains("beta/secret"), "{message}");
    let message = alpha.refused(&["open", "gamma", "bulk"], "PolicyDenied")?;
    ensure!(message.contains("dsoftbus.session.open"), "{message}");
    // Granted here, and denied by the list of what devices may reach.
    alpha.refused(&["open", "beta", "nobody"], "PolicyDenied")?;
    let message = alpha.refused(&["open", "beta", "bulk"], "StreamRefused")?;
    ensure!(message.contains("nobody offers the service"), "{message}");
    for (arguments, capability) in [
        (&["bus", "peers"][..], "dsoftbus.discover"),
        (&["bus", "watch"], "dsoftbus.discover"),
        (&["bus", "open", "beta", "bulk"], "dsoftbus.session.open"),
        (&["bus", "serve", "mine"], "dsoftbus.share.service"),
        (&["bus", "pair"], "net.trust.manage"),
        (&["bus", "revoke", "beta"], "net.trust.manage"),
    ] {
        let message = expect_refusal(&mut alpha.netctl_as_root(arguments), "PolicyDenied")?;
        ensure!(message.contains(capability), "{arguments:?}: {message}");
    }
    let audited = run(&mut alpha.netctl(&["audit", "tail", "-n", "50"]))?;
    let audited = String::from_utf8_lossy(&audited.stdout).into_owned();
    for trace in ["dsoftbus.stream.open", "beta/secret", "dsoftbus.discover", "pairing with beta"] {
        ensure!(audited.contains(trace), "nothing of {trace} in the audit:\n{audited}");
    }
    Ok(())
}

/// The service's client dies in the middle: the other one and the bus are done with the stream.
fn cut_stream(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    file_of(&beta.path("down"), BULK_BYTES, 3)?;
    let mut command = beta.netctl(&["bus", "serve", "bulk"]);
    // A pipe that stays open: the stream has no end of its own.
    let (serving, input) =
        netd_tests::process::Background::spawn_with_input(&mut command, &beta.path("served"))?;
    beta.wait("the service", |node| Ok(node.bus(&["status"])?["services"][0] == "bulk"))?;
    let mut open = alpha.netctl(&["bus", "open", "beta", "bulk"]);
    let (mut opened, held) =
        netd_tests::process::Background::spawn_with_input(&mut open, &alpha.path("opened"))?;
    beta.wait("the stream", |node| Ok(node.bus(&["status"])?["streams"] == 1))?;
    drop((serving, input));
    // Whoever has nothing more to say is not kept by a service that is gone.
    drop(held);
    opened.wait(LIMIT)?;
    alpha.wait("no streams", |node| Ok(node.bus(&["status"])?["streams"] == 0))
}

fn services_restarted(alpha: &Node<'_>, beta: &mut Node<'_>) -> Result<()> {
    let mut command = alpha.netctl(&["bus", "open", "beta", "bulk"]);
    let input = beta.path("down");
    let serving = beta.serve("bulk", &input, "served")?;
    let (mut opened, held) =
        netd_tests::process::Background::spawn_with_input(&mut command, &alpha.path("opened"))?;
    alpha.wait("the stream", |node| Ok(node.bus(&["status"])?["streams"] == 1))?;
    beta.kill_services()?;
    let status = opened.wait(LIMIT)?;
    ensure!(!status.success(), "a stream whose session was lost ended as if it were complete");
    drop((serving, held));
    beta.start_services()?;
    beta.wait("alpha", |node| Ok(node.peer("alpha")?.is_some_and(|peer| peer["present"] == true)))?;
    exchange(alpha, beta, "beta", 100_000)
}

fn netd_restarted(alpha: &Node<'_>, beta: &mut Node<'_>) -> Result<()> {
    beta.restart_netd()?;
    beta.wait("alpha", |node| {
        let network = node.bus(&["status"])?["mode"] == "network";
        Ok(network && node.peer("alpha")?.is_some_and(|peer| peer["present"] == true))
    })?;
    alpha.wait("the lost session's end", |node| {
        Ok(node.peer("beta")?.is_some_and(|peer| peer["sessions"] == 0))
    })?;
    exchange(alpha, beta, "beta", 100_000)
}

/// A device that calls itself beta, with a key of its own.
fn wrong_key<'a>(network: &'a Network, rules: &'a str, alpha: &Node<'_>) -> Result<()> {
    let liar = Plan { name: "liar", claims: "beta", number: 13, rules, bus: BUS };
    let liar = Node::start(network, liar)?;
    alpha.wait("the mismatch", |node| Ok(node.log().contains("dsoftbusd: identity mismatch peer=beta")))?;
    let key = liar.bus(&["status"])?["key"].clone();
    let known = alpha.peer("beta")?.unwrap_or_default();
    ensure!(known["key"] != key, "alpha took the liar's key for beta's: {known:#}");
    liar.wait("alpha", |node| Ok(node.peer("alpha")?.is_some()))?;
    let output = run(&mut liar.netctl(&["bus", "open", "alpha", "bulk"]))?;
    ensure!(!output.status.success(), "the liar has a stream");
    let sessions = alpha.bus(&["status"])?["sessions"].clone();
    ensure!(sessions == 1, "alpha has {sessions} sessions");
    Ok(())
}

fn devnet_off(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    alpha.set_devnet(false)?;
    alpha.wait("loopback", |node| {
        let status = node.bus(&["status"])?;
        Ok(status["mode"] == "loopback" && status["configured"] == "network" && status["sessions"] == 0)
    })?;
    alpha.refused(&["open", "beta", "bulk"], "DevnetDisabled")?;
    beta.wait("the session's end", |node| Ok(node.peer("alpha")?.is_some_and(|peer| peer["sessions"] == 0)))?;
    alpha.set_devnet(true)?;
    alpha.wait("beta", |node| Ok(node.peer("beta")?.is_some_and(|peer| peer["present"] == true)))?;
    exchange(alpha, beta, "beta", 100_000)
}

fn revocation(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    let revoked = alpha.bus(&["revoke", "beta"])?;
    ensure!(revoked["keys"][0] == beta.bus(&["status"])?["key"], "revoked another key: {revoked:#}");
    beta.wait("the session's end", |node| Ok(node.peer("alpha")?.is_some_and(|peer| peer["sessions"] == 0)))?;
    alpha.refused(&["revoke", "beta"], "NotFound")?;
    let output = run(&mut beta.netctl(&["bus", "open", "alpha", "bulk"]))?;
    ensure!(!output.status.success(), "a revoked device has a stream");
    let pin = alpha.bus(&["pair"])?["pin"].as_str().unwrap_or_default().to_owned();
    let again = run(beta.netctl(&["bus", "pair", "alpha", "--pin"]).arg(pin))?;
    ensure!(!again.status.success(), "a revoked key was paired again");
    Ok(())
}
