//! One machine by itself: the bus as it is without any configuration.

use std::fs;

use netd_tests::bus::{LIMIT, Network, Node, Plan, expect_refusal};
use netd_tests::embedded::UNPRIVILEGED_UID;
use netd_tests::peers::file_of;
use netd_tests::{Error, Result, ensure};

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn clients_of_one_machine_are_connected_without_a_network() -> Result<()> {
    let rules = format!(
        "[[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\nallow = [\"dsoftbus.share.service\"]\nservices = [\"chat\"]\n\
         [[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\nallow = [\"dsoftbus.session.open\", \"dsoftbus.stream.open\"]\ndevices = [\"loopback\"]\n"
    );
    let network = Network::new()?;
    let node =
        Node::start(&network, Plan { name: "solo", claims: "solo", number: 21, rules: &rules, bus: "" })?;
    // Devnet is off in the second half, and nothing changes.
    let done = checks(&node).and_then(|()| {
        node.set_devnet(false)?;
        checks(&node)
    });
    done.map_err(|error| Error::Expectation(format!("{error}\n{}", node.logs())))
}

fn checks(node: &Node<'_>) -> Result<()> {
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
    node.refused(&["open", "loopback", "chat"], "StreamRefused")?;
    node.refused(&["serve", "other"], "PolicyDenied")?;
    node.refused(&["pair"], "PolicyDenied")?;
    expect_refusal(&mut node.netctl_as_root(&["bus", "open", "loopback", "chat"]), "PolicyDenied").map(drop)
}
