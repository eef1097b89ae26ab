//! One machine by itself, without a network.

use std::fs;

use netd_tests::bus::{LIMIT, Network, Node, Plan, expect_refusal, run};
use netd_tests::embedded::UNPRIVILEGED_UID;
use netd_tests::peers::file_of;
use netd_tests::process::Background;
use netd_tests::{Error, Result, ensure};

use super::shared::{self, Shared};

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn clients_of_one_machine_are_connected_without_a_network() -> Result<()> {
    let rules = format!(
        "[[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\nallow = [\"dsoftbus.share.service\"]\nservices = [\"chat\", \"lamp\", \"sensor\"]\n\
         [[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\nallow = [\"dsoftbus.session.open\", \"dsoftbus.stream.open\", \"dsoftbus.rpc.call\"]\ndevices = [\"loopback\"]\n\
         [[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\nallow = [\"dsoftbus.discover\"]\n{}",
        shared::rules("\"loopback\"")
    );
    let (network, shared) = (Network::new()?, Shared::new()?);
    let bus = format!("keeper = \"loopback\"\n{}", shared.configuration("nobody"));
    let plan = Plan { name: "solo", claims: "solo", number: 21, rules: &rules, bus: &bus };
    let node = Node::start(&network, plan)?;
    // Devnet is off in the second half, and nothing changes.
    let done = checks(&node, &shared).and_then(|()| {
        node.set_devnet(false)?;
        checks(&node, &shared)
    });
    done.map_err(|error| Error::Expectation(format!("{error}\n{}", node.logs())))
}

fn checks(node: &Node<'_>, shared: &Shared) -> Result<()> {
    let status = node.bus(&["status"])?;
    ensure!(status["mode"] == "loopback" && status["key"].is_null(), "status: {status:#}");
    let up = file_of(&node.path("up"), 1 << 20, 1)?;
    let down = file_of(&node.path("down"), 1 << 20, 2)?;
    for device in ["loopback", "solo"] {
        let mut serving = node.serve("chat", &node.path("down"), "served")?;
        node.refused(&["serve", "chat"], "AlreadyOffered")?;
        let input = fs::File::open(node.path("up")).map_err(|error| Error::Expectation(error.to_string()))?;
        let output = node.netctl(&["bus", "open", device, "chat"]).stdin(input).output();
        let output = output.map_err(|error| Error::Expectation(error.to_string()))?;
        ensure!(output.status.success(), "open: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(serving.wait(LIMIT)?.success(), "serve failed");
        let digest = |mut bytes: &[u8]| {
            netd_tests::digest::of_reader(&mut bytes).map_err(|error| Error::Expectation(error.to_string()))
        };
        ensure!(digest(&output.stdout)? == (1 << 20, down.clone()), "other bytes came down");
        let served = fs::read(node.path("served")).map_err(|error| Error::Expectation(error.to_string()))?;
        ensure!(
            digest(served.get(..1 << 20).unwrap_or_default())? == (1 << 20, up.clone()),
            "other bytes came up"
        );
    }
    super::remote::calls(node, node, "loopback", "loopback")?;
    super::remote::topics(node, node, "solo")?;
    shared::files(node, "solo", shared, &["files", "private"])?;
    shared::state(node)?;
    node.refused(&["open", "loopback", "chat"], "StreamRefused")?;
    node.refused(&["serve", "other"], "PolicyDenied")?;
    node.refused(&["pair"], "PolicyDenied")?;
    expect_refusal(&mut node.netctl_as_root(&["bus", "open", "loopback", "chat"]), "PolicyDenied").map(drop)
}

/// A grant, to the user of the clients.
fn grant(allow: &str, scope: &str) -> String {
    format!("[[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\nallow = [\"dsoftbus.{allow}\"]\n{scope}\n")
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn right_that_a_reload_takes_back_ends_what_it_was_used_for() -> Result<()> {
    let [discover, session, stream, chat, kept] = [
        grant("discover", ""),
        grant("session.open", "devices = [\"loopback\"]"),
        grant("stream.open", "devices = [\"loopback\"]"),
        grant("share.service", "services = [\"chat\"]"),
        grant("share.service", "services = [\"kept\"]"),
    ];
    let all = [&discover, &session, &stream, &chat, &kept].map(String::as_str).concat();
    let network = Network::new()?;
    let plan = Plan { name: "rights", claims: "rights", number: 22, rules: &all, bus: "" };
    let mut node = Node::start(&network, plan)?;
    let without = [
        ("dsoftbus.stream.open", [&discover, &session, &chat, &kept].map(String::as_str).concat()),
        ("dsoftbus.share.service", [&discover, &session, &stream, &kept].map(String::as_str).concat()),
        ("dsoftbus.discover", [&session, &stream, &chat, &kept].map(String::as_str).concat()),
    ];
    let done = taken_back(&mut node, &all, &without);
    done.map_err(|error| Error::Expectation(format!("{error}\n{}", node.logs())))
}

fn taken_back<'a>(node: &mut Node<'a>, all: &'a str, without: &'a [(&str, String)]) -> Result<()> {
    // Streams in use and services on offer: nobody has anything more to say, and nobody is done.
    let begin = |node: &Node<'_>, arguments: &[&str], output: &str| {
        let mut command = node.netctl(&["bus"]);
        Background::spawn_with_input(command.args(arguments), &node.path(output))
    };
    let services = |node: &Node<'_>| Ok::<_, Error>(node.bus(&["status"])?["services"].clone());
    let (_kept, _input) = begin(node, &["serve", "kept"], "kept")?;
    node.wait("a service", |node| Ok(services(node)? == serde_json::json!(["kept"])))?;
    for (at, (lost, rules)) in without.iter().enumerate() {
        node.set_rules(all)?;
        let (mut watching, _watched) = begin(node, &["watch"], &format!("watch-{at}"))?;
        // The grants are back once it serves.
        let (mut serving, _served) = begin(node, &["serve", "chat"], &format!("chat-{at}"))?;
        node.wait("the service", |node| Ok(services(node)? == serde_json::json!(["chat", "kept"])))?;
        let (mut opened, _opened) = begin(node, &["open", "loopback", "chat"], &format!("open-{at}"))?;
        node.wait("the stream", |node| Ok(node.bus(&["status"])?["streams"] == 2))?;
        node.set_rules(rules)?;
        if *lost == "dsoftbus.discover" {
            ensure!(!watching.wait(LIMIT)?.success(), "a watch without its right ended well");
            let told = watching.output();
            ensure!(told.contains("PolicyDenied") && told.contains(lost), "the watch: {told}");
            ensure!(node.bus(&["status"])?["streams"] == 2, "a stream went with another right");
            continue;
        }
        for (stream, what) in [(&mut opened, "open"), (&mut serving, "serve")] {
            ensure!(!stream.wait(LIMIT)?.success(), "{what} without {lost} ended well: {}", stream.output());
        }
        node.wait("the streams' end", |node| Ok(node.bus(&["status"])?["streams"] == 0))?;
        node.wait("the service's end", |node| Ok(services(node)? == serde_json::json!(["kept"])))?;
        let audited = run(&mut node.netctl(&["audit", "tail", "-n", "20"]))?;
        let audited = String::from_utf8_lossy(&audited.stdout).into_owned();
        ensure!(audited.contains(lost), "nothing of {lost} in the audit:\n{audited}");
    }
    Ok(())
}
