//! Routes: two routers in a row, which are namespaces whose kernel forwards.

use netd_tests::netns::Namespace;
use netd_tests::peers::{Radvd, Socat, file_of};
use netd_tests::process::{Background, run};
use netd_tests::tapped::{BRIDGE, GATEWAY, GATEWAY6, LIMIT, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use std::fs::File;

/// Some windows.
const BYTES: u64 = 1024 * 1024;

/// Behind the gateway: a router, and a machine behind that.
struct Far {
    middle: Namespace,
    end: Namespace,
}

impl Far {
    fn new(tapped: &Tapped) -> Result<Far> {
        let (middle, end) = (Namespace::new()?, Namespace::new()?);
        for namespace in [&middle, &end] {
            let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; cd /proc/sys/net/ipv6/conf
                            echo 1 > all/forwarding; echo 0 > default/accept_dad; echo 0 > all/accept_dad";
            run(namespace.command("sh").args(["-ec", settings]))?;
        }
        let near = &tapped.namespace;
        near.ip(&format!("link add name down1 type veth peer name up1 netns {}", middle.name()))?;
        middle.ip(&format!("link add name down2 type veth peer name up2 netns {}", end.name()))?;
        for (namespace, interface, number, host) in
            [(near, "down1", 88, 1), (&middle, "up1", 88, 2), (&middle, "down2", 89, 1), (&end, "up2", 89, 2)]
        {
            namespace.ip(&format!("address add 10.{number}.0.{host}/24 dev {interface}"))?;
            namespace.ip(&format!("address add fd{number}::{host}/64 dev {interface}"))?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        near.ip("route add 10.89.0.0/24 via 10.88.0.2")?;
        near.ip("route add fd89::/64 via fd88::2")?;
        middle.ip("route add default via 10.88.0.1")?;
        middle.ip("route add default via fd88::1")?;
        end.ip("route add default via 10.89.0.1")?;
        end.ip("route add default via fd89::1")?;
        Ok(Far { middle, end })
    }
}

/// The routers that traceroute meets.
fn trace(tapped: &Tapped, to: &str) -> Result<Vec<String>> {
    let probes = tapped.json(&["traceroute", "-q", "1", "-W", "10", to])?;
    let from = probes.as_array().into_iter().flatten().filter_map(|probe| probe["from"].as_str());
    Ok(from.map(str::to_owned).collect())
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn traceroute_shows_the_routers_of_both_versions() -> Result<()> {
    scenario(&[], |tapped| {
        let _far = Far::new(tapped)?;
        let _radvd = Radvd::start(&tapped.namespace, BRIDGE, "prefix fd77::/64 {};")?;
        tapped.start(STATIC, "")?;
        let way = trace(tapped, "10.89.0.2")?;
        ensure!(way == [GATEWAY, "10.88.0.2", "10.89.0.2"], "the way is {way:?}");
        tapped.wait("a default route of version 6", |tapped| {
            let routes = tapped.json(&["routes"])?;
            let address = tapped.interface()?["addresses"].to_string().contains("fd77:");
            Ok(address && routes.as_array().into_iter().flatten().any(|route| route["destination"] == "::/0"))
        })?;
        let way = trace(tapped, "fd89::2")?;
        ensure!(way == [GATEWAY6, "fd88::2", "fd89::2"], "the way is {way:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn narrow_link_on_the_way_is_found_by_path_mtu_discovery() -> Result<()> {
    scenario(&[], |tapped| {
        let far = Far::new(tapped)?;
        // The router in the middle says so; nobody before it knows.
        far.middle.ip("link set down2 mtu 1300")?;
        let _radvd = Radvd::start(&tapped.namespace, BRIDGE, "prefix fd77::/64 {};")?;
        tapped.start(STATIC, "")?;
        tapped.wait("an address of version 6", |tapped| {
            Ok(tapped.interface()?["addresses"].to_string().contains("fd77:"))
        })?;
        let blob = tapped.path("blob");
        let sum = file_of(&blob, BYTES, 3)?;
        for (to, listen) in
            [("10.89.0.2", "TCP4-LISTEN:7004,reuseaddr"), ("fd89::2", "TCP6-LISTEN:7004,reuseaddr")]
        {
            let mut sink = Socat::listen(&far.end, 7004, &["-u", listen, "CREATE:sink"])?;
            let input = File::open(&blob)
                .map_err(|source| Error::Io { action: "open the blob".to_owned(), source })?;
            let mut client = tapped.netctl(&["connect", to, "7004"]);
            Background::spawn_from(&mut client, input, &tapped.path("sent.log"))?.finish(LIMIT)?;
            sink.process.finish(LIMIT)?;
            let arrived = run(std::process::Command::new("sha256sum").arg(sink.file("sink")))?;
            ensure!(arrived.starts_with(&sum), "to {to}: sent {sum}, received {arrived}");
        }
        let lowered = &tapped.json(&["stats"])?["counters"]["tcp_path_mtu_lowered"];
        ensure!(lowered.as_u64() >= Some(2), "no segment was too long: {lowered}");
        Ok(())
    })
}
