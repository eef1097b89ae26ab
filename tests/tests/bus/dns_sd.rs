//! Two devices that no announcement of the other reaches, and a zone that knows both.

use netd_tests::bus::{HOST, LIMIT, Network, Node, Plan};
use netd_tests::embedded::UNPRIVILEGED_UID;
use netd_tests::peers::{Unbound, file_of};
use netd_tests::{Error, Result, ensure};

const BUS: &str = "mode = \"network\"\nmulticast = false\nannounce_seconds = 2\ndns_sd = [\"fleet.example\"]\n\
                   [[bus.acl]]\ndevices = [\"north\", \"south\"]\n";

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn devices_that_a_zone_lists_find_each_other_without_multicast() -> Result<()> {
    let rules = format!(
        "{}[[grant]]\nsubject = \"any\"\nallow = [\"net.dns.resolve\"]\n\
         [[grant]]\nsubject = \"user:{UNPRIVILEGED_UID}\"\n\
         allow = [\"dsoftbus.discover\", \"dsoftbus.share.service\", \"dsoftbus.session.open\", \"dsoftbus.stream.open\", \"net.trust.manage\"]\n\
         [dns]\nservers = [\"{HOST}\"]\n",
        super::RULES
    );
    let network = Network::new()?;
    let plan = |name, number| Plan { name, claims: name, number, rules: &rules, bus: BUS };
    let (north, south) =
        (Node::start(&network, plan("north", 31))?, Node::start(&network, plan("south", 32))?);
    let done = found(&network, &north, &south);
    done.map_err(|error| Error::Expectation(format!("{error}\n{}{}", north.logs(), south.logs())))
}

fn found(network: &Network, north: &Node<'_>, south: &Node<'_>) -> Result<()> {
    for node in [north, south] {
        node.wait("the network", |node| Ok(node.bus(&["status"])?["mode"] == "network"))?;
        // Its question was answered by nobody, and that is told.
        node.wait("word of the zone", |node| Ok(node.log().contains("devices cannot be found by DNS")))?;
        ensure!(node.bus(&["peers"])?.as_array().is_some_and(Vec::is_empty), "somebody was heard");
    }
    let down = file_of(&north.path("down"), 1 << 20, 1)?;
    // North offers something while its records are made; south does not.
    let mut serving = north.serve("files", &north.path("down"), "served")?;
    let mut zone = String::from("north 60 IN A 10.78.0.31\nsouth 60 IN A 10.78.0.32\n");
    for node in [north, south] {
        let records = node.bus(&["zone", "fleet.example"])?;
        for record in records.as_array().into_iter().flatten() {
            let field = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
            zone += &format!("{} 1 IN {} {}\n", field("name"), field("type"), field("data"));
        }
    }
    // One more that does not exist, and one whose key is none.
    zone += "_dsoftbus._udp 1 IN PTR gone._dsoftbus._udp\n_dsoftbus._udp 1 IN PTR bad._dsoftbus._udp\n\
             bad._dsoftbus._udp 1 IN SRV 0 0 34567 north\nbad._dsoftbus._udp 1 IN TXT \"id=bad\" \"key=07\"\n";
    let _unbound = Unbound::start(network.namespace(), &[HOST], &[("fleet.example.", &zone)])?;
    for (node, other, key) in
        [(north, "south", south.bus(&["status"])?), (south, "north", north.bus(&["status"])?)]
    {
        node.wait("the other device", |node| {
            Ok(node.peer(other)?.is_some_and(|peer| peer["present"] == true && peer["key"] == key["key"]))
        })?;
    }
    let known = south.peer("north")?.unwrap_or_default();
    ensure!(known["services"] == serde_json::json!(["files"]) && known["port"] == 34567, "north: {known:#}");
    south.wait("word of the bad record", |node| Ok(node.log().contains("'key' is missing")))?;
    ensure!(south.peer("bad")?.is_none(), "a device without a key was taken");
    let shown = north.bus(&["pair"])?["pin"].as_str().unwrap_or_default().to_owned();
    south.bus(&["pair", "north", "--pin", &shown])?;
    let output = south.netctl(&["bus", "open", "north", "files"]).stdin(std::process::Stdio::null()).output();
    let output = output.map_err(|error| Error::Expectation(error.to_string()))?;
    ensure!(output.status.success(), "open: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(serving.wait(LIMIT)?.success(), "serve: {}", serving.output());
    let came = netd_tests::digest::of_reader(&mut &output.stdout[..]);
    let came = came.map_err(|error| Error::Expectation(error.to_string()))?;
    ensure!(came == (1 << 20, down), "other bytes came");
    Ok(())
}
