//! Calls and topics between two devices that are paired, and on one machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use netd_tests::bus::{Node, expect_refusal, run};
use netd_tests::process::Background;
use netd_tests::{Error, Result, ensure};
use serde_json::Value;

/// As much as a call may carry in each direction: over streams of its own.
const LONG_BYTES: usize = 32 * 1024;
/// What is published to a subscriber that does not read: many times what all queues, pipes and sockets on the way hold.
const FLOOD: usize = 1500;
const FLOOD_LINE_BYTES: usize = 4000;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Expectation(error.to_string())
}

/// Answers calls of `lamp`. `wait` leaves its number in a file, so that it can be seen whether it was ended.
fn lamp(node: &Node<'_>) -> Result<Background> {
    let script = format!(
        "case $NETD_BUS_METHOD in echo) cat;; who) printf %s \"$NETD_BUS_DEVICE\";; fail) echo 'no bulb' >&2; exit 3;; \
         wait) echo $$ > {file}.new; mv {file}.new {file}; exec sleep 600;; *) exit 127;; esac",
        file = node.path("waiting").display()
    );
    offer(node, &["bus", "answer", "lamp", "--", "sh", "-c", &script], "lamp")
}

fn offer(node: &Node<'_>, arguments: &[&str], service: &str) -> Result<Background> {
    let log = node.path(&format!("{service}.log"));
    let background = Background::spawn(&mut node.netctl(arguments), &log)?;
    offered(node, service)?;
    Ok(background)
}

fn offered(node: &Node<'_>, service: &str) -> Result<()> {
    node.wait(service, |node| {
        let status = node.bus(&["status"])?;
        Ok(status["services"].as_array().into_iter().flatten().any(|name| name == service))
    })
}

fn withdrawn(node: &Node<'_>) -> Result<()> {
    node.wait("no service", |node| {
        Ok(node.bus(&["status"])?["services"].as_array().is_some_and(Vec::is_empty))
    })
}

/// What a call of `lamp` is answered with, as text.
fn text(node: &Node<'_>, device: &str, method: &str, payload: &str) -> Result<Value> {
    Ok(node.bus(&["call", device, "lamp", method, payload])?["text"].clone())
}

/// Calls from one device to another: `device` is what the first calls the second, `caller` what the second calls the first.
pub(crate) fn calls(from: &Node<'_>, to: &Node<'_>, device: &str, caller: &str) -> Result<()> {
    let answering = lamp(to)?;
    let came = text(from, device, "echo", "hello")?;
    ensure!(came == "hello", "echo: {came}");
    let came = text(from, device, "who", "")?;
    ensure!(came == caller, "called by {came}, not by {caller}");
    let long = "x".repeat(LONG_BYTES);
    fs::write(from.path("long"), &long).map_err(failed)?;
    let input = fs::File::open(from.path("long")).map_err(failed)?;
    let output =
        from.netctl(&["bus", "call", device, "lamp", "echo", "-"]).stdin(input).output().map_err(failed)?;
    let came: Value = serde_json::from_slice(&output.stdout).map_err(failed)?;
    ensure!(came["text"] == long.as_str(), "{}", String::from_utf8_lossy(&output.stderr));
    from.refused(&["call", device, "lamp", "dance"], "NotFound")?;
    let message = from.refused(&["call", device, "lamp", "fail"], "CallFailed")?;
    ensure!(message.contains("no bulb"), "{message}");
    let services = from.bus(&["services", device])?;
    ensure!(
        services[0]["service"] == "lamp" && services[0]["calls"] == true && services[0]["streams"] == false,
        "{services:#}"
    );
    from.refused(&["open", device, "lamp"], "StreamRefused")?;
    deadline_and_cancellation(from, to, device)?;
    answerer_dies(from, to, device, answering)?;
    from.refused(&["call", device, "lamp", "echo"], "NotFound").map(drop)
}

fn deadline_and_cancellation(from: &Node<'_>, to: &Node<'_>, device: &str) -> Result<()> {
    from.refused(&["call", device, "lamp", "wait", "-w", "2"], "TimedOut")?;
    ended(to, "whose call had a deadline")?;
    let mut calling = begin(from, device)?;
    waiting(to)?;
    calling.kill().and_then(|()| calling.wait()).map_err(failed)?;
    ended(to, "whose caller is gone")
}

/// Begins a call that is not answered.
fn begin(from: &Node<'_>, device: &str) -> Result<Child> {
    let mut command = from.netctl(&["bus", "call", device, "lamp", "wait", "-w", "300"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)
}

/// The number of the program that works on a call.
fn waiting(to: &Node<'_>) -> Result<String> {
    to.wait("the program", |node| Ok(node.path("waiting").exists()))?;
    let number = fs::read_to_string(to.path("waiting")).map_err(failed)?;
    fs::remove_file(to.path("waiting")).map_err(failed)?;
    Ok(number.trim().to_owned())
}

/// The program that works on a call is ended, if it was not already.
fn ended(to: &Node<'_>, which: &str) -> Result<()> {
    // One that was ended before it could say so needs no looking for: the next call is answered only when it is gone.
    if let Ok(number) = fs::read_to_string(to.path("waiting")) {
        fs::remove_file(to.path("waiting")).map_err(failed)?;
        let process = format!("/proc/{}", number.trim());
        to.wait(&format!("the end of the program {which}"), |_| Ok(!Path::new(&process).exists()))?;
    }
    Ok(())
}

/// The client that answers is killed in the middle of a call.
fn answerer_dies(from: &Node<'_>, to: &Node<'_>, device: &str, answering: Background) -> Result<()> {
    let calling = begin(from, device)?;
    let number = waiting(to)?;
    drop(answering);
    let output = calling.wait_with_output().map_err(failed)?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && told.contains("\"error\":\"Gone\""),
        "after its answerer died: {told}"
    );
    // Nobody else ends it: whoever did was killed.
    run(Command::new("kill").arg(number))?;
    withdrawn(to)
}

/// What is not granted here, what the other device's list does not allow, and what is not there.
pub(crate) fn refusals(alpha: &Node<'_>, beta: &Node<'_>) -> Result<()> {
    let message = alpha.refused(&["call", "beta", "secret", "echo"], "PolicyDenied")?;
    ensure!(message.contains("dsoftbus.rpc.call") && message.contains("beta/secret"), "{message}");
    let message = alpha.refused(&["subscribe", "beta", "secret"], "PolicyDenied")?;
    ensure!(message.contains("dsoftbus.rpc.call"), "{message}");
    let message = alpha.refused(&["call", "gamma", "lamp", "echo"], "PolicyDenied")?;
    ensure!(message.contains("dsoftbus.session.open"), "{message}");
    // Allowed by alpha's list, and not by beta's.
    let hidden = offer(beta, &["bus", "answer", "hidden", "--", "cat"], "hidden")?;
    for arguments in [&["call", "beta", "hidden", "echo"][..], &["subscribe", "beta", "hidden"]] {
        let message = alpha.refused(arguments, "PolicyDenied")?;
        ensure!(message.contains("beta says:") && message.contains("[[bus.acl]]"), "{message}");
    }
    let services = alpha.bus(&["services", "beta"])?;
    ensure!(
        services.as_array().is_some_and(Vec::is_empty),
        "beta tells of what is not for alpha: {services:#}"
    );
    drop(hidden);
    withdrawn(beta)?;
    let message = alpha.refused(&["subscribe", "beta", "sensor"], "NotFound")?;
    ensure!(message.contains("nobody publishes"), "{message}");
    for (arguments, capability) in [
        (&["bus", "call", "beta", "lamp", "echo"][..], "dsoftbus.session.open"),
        (&["bus", "answer", "lamp", "--", "cat"], "dsoftbus.share.service"),
        (&["bus", "publish", "sensor", "heat"], "dsoftbus.share.service"),
        (&["bus", "services", "beta"], "dsoftbus.discover"),
    ] {
        let message = expect_refusal(&mut alpha.netctl_as_root(arguments), "PolicyDenied")?;
        ensure!(message.contains(capability), "{arguments:?}: {message}");
    }
    Ok(())
}

/// A subscriber that reads gets everything in order; one that does not loses the oldest and is told how many; with the publisher it ends.
pub(crate) fn topics(from: &Node<'_>, to: &Node<'_>, device: &str) -> Result<()> {
    let log = to.path("published.log");
    let (publishing, mut input) =
        Background::spawn_with_input(&mut to.netctl(&["bus", "publish", "sensor", "heat"]), &log)?;
    offered(to, "sensor")?;
    let subscribe = |arguments: &[&str]| {
        let mut command = from.netctl(&["bus", "subscribe", device, "sensor"]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(failed)
    };
    let mut publish = |line: &str| writeln!(input, "{line}").map_err(failed);
    let mut quick = subscribe(&["heat", "-n", "3"])?;
    let mut last = 0;
    to.wait("the subscriber", |_| {
        last += 1;
        publish(&last.to_string())?;
        Ok(quick.try_wait().map_err(failed)?.is_some())
    })?;
    let came = events(&mut quick)?;
    let first: usize =
        came.first().and_then(|event| event["text"].as_str()?.parse().ok()).unwrap_or_default();
    let expected: Vec<String> = (first..first + 3).map(|number| number.to_string()).collect();
    ensure!(
        first > 0 && came.iter().map(|event| event["text"].as_str().unwrap_or_default()).eq(&expected),
        "{came:#?}"
    );
    ensure!(came.iter().all(|event| event["topic"] == "heat" && event["lost"] == 0), "{came:#?}");

    let last_said = |what: &str| publishing.output().lines().last().is_some_and(|line| line.contains(what));
    to.wait("nobody", |_| {
        publish("between")?;
        Ok(last_said("\"subscribers\":0"))
    })?;
    let mut slow = subscribe(&[])?;
    to.wait("the slow subscriber", |_| {
        publish("begin")?;
        Ok(last_said("\"subscribers\":1"))
    })?;
    let begun = publishing.output().lines().filter(|line| line.contains("\"subscribers\":1")).count();
    let line = "y".repeat(FLOOD_LINE_BYTES);
    for _ in 0..FLOOD {
        publish(&line)?;
    }
    // The publisher has waited for nobody.
    let told = |begun: usize| {
        publishing.output().lines().filter(|line| line.contains("\"subscribers\":1")).count() >= begun + FLOOD
    };
    to.wait("the publisher", |_| Ok(told(begun)))?;
    drop(input);
    let came = events(&mut slow)?;
    let lost: u64 = came.iter().filter_map(|event| event["lost"].as_u64()).sum();
    let got = came.iter().filter(|event| event["text"] == line.as_str()).count();
    ensure!(lost > 0 && got > 0, "{got} came, {lost} were lost");
    let all = u64::try_from(came.len()).unwrap_or(u64::MAX) + lost;
    // Of those at the beginning, not all were published after it subscribed.
    ensure!(
        all >= u64::try_from(FLOOD).unwrap_or(u64::MAX),
        "{} came and {lost} were lost of more than {FLOOD}",
        came.len()
    );
    let mut said = String::new();
    slow.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
    ensure!(said.contains("\"error\":\"Gone\""), "after its publisher ended: {said}");
    withdrawn(to)
}

/// Everything that a subscriber prints until it ends.
fn events(subscriber: &mut Child) -> Result<Vec<Value>> {
    let mut text = String::new();
    if let Some(mut stdout) = subscriber.stdout.take() {
        stdout.read_to_string(&mut text).map_err(failed)?;
    }
    subscriber.wait().map_err(failed)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(failed)).collect()
}

/// The flight of a session in the middle of a call and of a subscription: both end by name.
pub(crate) fn session_lost(alpha: &Node<'_>, beta: &mut Node<'_>) -> Result<()> {
    let answering = lamp(beta)?;
    let calling = begin(alpha, "beta")?;
    let number = waiting(beta)?;
    beta.kill_services()?;
    let output = calling.wait_with_output().map_err(failed)?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && told.contains("\"error\":\"Unreachable\""),
        "after the session was lost: {told}"
    );
    run(Command::new("kill").arg(number))?;
    drop(answering);
    beta.start_services()?;
    beta.wait("alpha", |node| Ok(node.peer("alpha")?.is_some_and(|peer| peer["present"] == true)))?;
    alpha.wait("the lost session's end", |node| {
        Ok(node.peer("beta")?.is_some_and(|peer| peer["sessions"] == 0))
    })
}
