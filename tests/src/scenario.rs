//! What both twins must show. Each function is one test, run in a machine of its own.

use crate::capture::Allowed;
use crate::error::{Attempt, Error, Result};
use crate::guest::Output;
use crate::lab::{Lab, PROVIDER, host_run, scenario, scratch};
use crate::peers::{Nginx, Socat, wait_for_listener};
use crate::process::{Background, wait_until};
use crate::vm::Twin;
use crate::{binaries::Binaries, bulk, ensure};
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;

/// Long enough for every counter and window to go around many times.
const BULK_BYTES: u64 = 256 * 1024 * 1024;
/// Emulated on two busy cores some 5 MB/s are seen at worst.
const BULK_LIMIT: Duration = Duration::from_secs(240);
/// Received while the rings are polled. More than the counters of a ring have values, many times.
const POLLED_FRAMES: u64 = 1_000_000;
const BLAST_SECONDS: &str = "3";
/// Emulated on two busy cores some 2,000 frames a second are seen at worst.
const POLLED_LIMIT: Duration = Duration::from_secs(900);
/// A netctl command that waits for a peer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 7100;
const PORT_TEXT: &str = "7100";
/// Floods go there: captures leave it out.
const DISCARD_PORT: &str = "9";
/// What the netd after one that was killed says to the peer of a connection.
const ORPHANED: Allowed = Allowed {
    remark: "Connection reset (RST)",
    on: "tcp.dstport == 7100",
    because: "the peer still repeats what the killed netd did not acknowledge, and its successor knows no such connection",
};
/// How long the peer goes on sending after netd was killed.
const AFTERMATH_SECONDS: &str = "5";
/// On a host that is busy with sending, the guest's seconds are longer.
const AFTERMATH_LIMIT: Duration = Duration::from_secs(120);

/// Bind, run, lease: the markers, provider.json, the device's own account, and no interrupt anywhere.
pub fn function_driven_by_polling_gets_a_lease_without_interrupts(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let mut netd = lab.start_netd()?;
        check_lease(lab)?;
        host_run(&lab.namespace, "ping", &["-c", "3", "-i", "0.2", "-W", "5", lab.plan.client])?;
        check_markers(lab, netd.process.output_so_far()?)?;
        check_provider(lab)?;
        check_no_interrupts(lab)?;
        netd.terminate().map(drop)
    })
}

fn check_lease(lab: &Lab) -> Result<()> {
    let plan = &lab.plan;
    let status = lab.json("status")?;
    let address = format!("{}/{}", plan.client, plan.client_prefix);
    // Those of version 6 come when nobody else turned out to have them.
    let addresses = status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let four: Vec<&str> = addresses.filter(|address| !address.contains(':')).collect();
    ensure!(four == [address.as_str()], "the address is not {address}:\n{status:#}");
    ensure!(status["gateway"] == plan.gateway, "the gateway is not {}:\n{status:#}", plan.gateway);
    let interfaces = lab.json("interfaces")?;
    let interface = interfaces.get(0).unwrap_or(&interfaces["interfaces"][0]);
    ensure!(interface["mac"] == plan.mac, "the MAC address is not {}:\n{interface:#}", plan.mac);
    ensure!(
        interface["dns"] == serde_json::json!([plan.dns]),
        "the name server is not {}:\n{interface:#}",
        plan.dns
    );
    if lab.vm.twin() == Twin::Gce {
        ensure!(interface["mtu"] == 1460, "the MTU is not that of option 26:\n{interface:#}");
        let on_link = format!("{}/32", plan.gateway);
        let routes = interface["routes"].as_array().cloned().unwrap_or_default();
        let has_on_link_gateway = routes.iter().any(|route| route["destination"] == on_link.as_str());
        ensure!(has_on_link_gateway, "no on-link route {on_link} of option 121:\n{interface:#}");
    }
    Ok(())
}

fn check_markers(lab: &Lab, output: &Output) -> Result<()> {
    let plan = &lab.plan;
    let text = output.text();
    let markers = [
        "net: virtio-net up".to_owned(),
        format!("net: smoltcp iface up {}", plan.client),
        format!("net: dhcp bound {}/{} gw={}", plan.client, plan.client_prefix, plan.gateway),
        "cloudboot-evidence: provider-nic-bound ".to_owned(),
    ];
    for marker in markers {
        ensure!(text.contains(&marker), "netd did not print {marker:?}:\n{text}");
    }
    Ok(())
}

fn check_provider(lab: &Lab) -> Result<()> {
    let text = lab.vm.guest().read_file(PROVIDER)?;
    let provider: Value = serde_json::from_str(&text).attempt(|| format!("understand {PROVIDER}"))?;
    let present = [
        "provider_nic_proof",
        "enumerated_device_classes",
        "enumerated_device_inventory",
        "dma_pool_grant",
        "interrupt_route_allocated",
        "interrupt_route_delivered",
    ];
    for key in present {
        ensure!(provider.get(key).is_some(), "{PROVIDER} lacks {key}:\n{text}");
    }
    ensure!(!provider["provider_nic_proof"].is_null(), "{PROVIDER} proves nothing:\n{text}");
    ensure!(provider.get("storage_bind_proof").is_some_and(Value::is_null), "a disk is not ours:\n{text}");
    Ok(())
}

fn check_no_interrupts(lab: &Lab) -> Result<()> {
    let interrupts = vfio_interrupts(lab)?;
    ensure!(interrupts == 0, "{interrupts} interrupts were delivered");
    let device = lab.json("device")?;
    ensure!(device["poll"] == "busy", "the device is not polled:\n{device:#}");
    let queues = device["queues"].as_array().cloned().unwrap_or_default();
    ensure!(queues.len() >= 2, "a device without a pair of queues:\n{device:#}");
    for queue in queues {
        ensure!(queue["interrupts"] == 0, "a queue used an interrupt:\n{device:#}");
        ensure!(queue["frames"].as_u64() > Some(0), "a queue carried no frame:\n{device:#}");
    }
    Ok(())
}

/// A million frames without an interrupt while the rings are polled, some once the worker may sleep, and none again when it is told to
/// be busy: the kernel's count and netd's own.
pub fn interrupts_come_only_while_the_mode_asks_for_them(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        let vectors = vfio_interrupts(lab)?;
        ensure!(vectors == 0, "{vectors} interrupts before the first sleep");
        receive(lab, POLLED_FRAMES)?;
        let vectors = vfio_interrupts(lab)?;
        ensure!(vectors == 0, "{vectors} interrupts while the rings were polled");
        lab.netctl(&["poll", "adaptive"])?.success()?;
        host_run(&lab.namespace, "ping", &["-c", "5", "-i", "0.2", "-W", "5", lab.plan.client])?;
        lab.netctl(&["poll", "busy"])?.success()?;
        let asked_for = vfio_interrupts(lab)?;
        ensure!(asked_for > 0, "no interrupt woke the worker for five pings");
        receive(lab, POLLED_FRAMES / 10)?;
        let later = vfio_interrupts(lab)?;
        ensure!(later == asked_for, "{asked_for} interrupts, and later {later}, though polled");
        let device = lab.json("device")?;
        ensure!(device["queues"][0]["interrupts"] == asked_for, "{asked_for} interrupts, but:\n{device:#}");
        netd.terminate().map(drop)
    })
}

/// Interrupts delivered for the function, over all vectors and CPUs.
fn vfio_interrupts(lab: &Lab) -> Result<u64> {
    let interrupts = lab.vm.guest().read_file("/proc/interrupts")?;
    // "24:  0  0  PCI-MSI 49152-edge  vfio-msix[0](0000:00:03.0)": one count for each CPU, then the names.
    let of_line = |line: &str| -> u64 {
        line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
    };
    Ok(interrupts.lines().filter(|line| line.contains("vfio")).map(of_line).sum())
}

/// Has the host send datagrams until so many frames more were received.
fn receive(lab: &Lab, frames: u64) -> Result<()> {
    let received = || -> Result<u64> {
        let device = lab.json("device")?;
        let count = device["queues"][0]["frames"].as_u64();
        count.ok_or_else(|| Error::Expectation(format!("no receive queue:\n{device:#}")))
    };
    let enough = received()? + frames;
    let peer = Binaries::build()?.path("netd-peer");
    wait_until(&format!("{frames} frames"), POLLED_LIMIT, || {
        host_run(
            &lab.namespace,
            &peer.to_string_lossy(),
            &["blast", lab.plan.client, DISCARD_PORT, BLAST_SECONDS],
        )?;
        Ok(received()? >= enough)
    })
}

/// ICMP echo from netd to the gateway and beyond it, and from the host to netd.
pub fn ping_crosses_the_function_both_ways(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        for target in [lab.plan.gateway, lab.plan.remote] {
            lab.netctl(&["ping", target])?.success()?;
        }
        let nobody = lab.netctl(&["ping", "10.201.0.1"])?;
        ensure!(!nobody.is_success(), "a ping that nobody can answer succeeded:\n{}", nobody.text());
        host_run(&lab.namespace, "ping", &["-c", "3", "-i", "0.2", "-W", "5", lab.plan.client])?;
        netd.terminate().map(drop)
    })
}

/// A page fetched from nginx, and a line echoed by a program of ours that the host's nc reaches.
pub fn tcp_reaches_programs_both_ways(twin: Twin) -> Result<()> {
    let refusal = Allowed {
        remark: "Connection reset (RST)",
        on: "tcp.srcport == 81",
        because: "nobody listens there: the host refuses, and netctl must say so",
    };
    scenario(twin, &[refusal], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        let nginx = Nginx::start(&lab.namespace, 80)?;
        nginx.offer("hello.txt", b"hello from nginx\n")?;
        for host in [lab.plan.gateway, lab.plan.remote] {
            let request = b"GET /hello.txt HTTP/1.0\r\n\r\n";
            let page = lab.vm.guest().command(&["netctl", "connect", host, "80"]).stdin(request).run()?;
            ensure!(
                page.starts_with("HTTP/1.1 200") && page.ends_with("hello from nginx\n"),
                "not the page:\n{page}"
            );
        }
        let refused = lab.netctl(&["connect", lab.plan.gateway, "81"])?;
        ensure!(!refused.is_success(), "a connection to a closed port succeeded:\n{}", refused.text());

        let mut listener = lab.vm.guest().command(&["netctl", "listen", PORT_TEXT]).spawn()?;
        listener.write(b"hello from netd\n")?;
        listener.close_stdin()?;
        wait_for_socket(lab, "tcp_listener")?;
        let script = format!("echo hello from the host | nc -N -w 10 {} {PORT}", lab.plan.client);
        let answer = host_run(&lab.namespace, "sh", &["-c", &script])?;
        ensure!(answer == "hello from netd\n", "nc received {answer:?}");
        let heard = listener.wait(EXCHANGE_LIMIT)?.success()?;
        ensure!(heard == "hello from the host\n", "netctl listen received {heard:?}");
        netd.terminate().map(drop)
    })
}

fn wait_for_socket(lab: &Lab, kind: &str) -> Result<()> {
    wait_until(&format!("a {kind} in `netctl sockets`"), EXCHANGE_LIMIT, || {
        let sockets = lab.json("sockets")?;
        let sockets =
            sockets.as_array().or_else(|| sockets["sockets"].as_array()).cloned().unwrap_or_default();
        Ok(sockets.iter().any(|socket| socket["kind"] == kind))
    })
}

/// 256 MiB from a file of the host: the same bytes arrive.
pub fn bulk_received_has_the_digest_that_was_sent(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        bulk::receive(lab, BULK_BYTES, BULK_LIMIT)?;
        netd.terminate().map(drop)
    })
}

/// 256 MiB from a program in the guest: the same bytes arrive at the host.
pub fn bulk_sent_has_the_digest_that_was_received(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        bulk::send(lab, BULK_BYTES, BULK_LIMIT)?;
        netd.terminate().map(drop)
    })
}

/// A stream that the host's reset cuts short fails the client, also after its own half-close; one that ends in order does not.
pub fn stream_cut_by_a_reset_fails_and_an_orderly_end_does_not(twin: Twin) -> Result<()> {
    let reset = Allowed {
        remark: "Connection reset (RST)",
        on: "tcp.srcport == 7100",
        because: "the peer resets on purpose",
    };
    scenario(twin, &[reset], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        for bytes in ["0", "1000", "500000"] {
            // The shell's sleep keeps the client's side open beyond the reset; without it the client half-closes before.
            for input in ["printf '!'; sleep 5", "printf '!'"] {
                let (mut peer, _directory) = resetting_peer(lab, bytes)?;
                let receive =
                    format!("{{ {input}; }} | netctl connect {} {PORT} >/dev/null", lab.plan.gateway);
                let cut = lab.vm.guest().script(&receive).output()?;
                ensure!(!cut.is_success(), "cut after {bytes} bytes it looked complete ({input})");
                let told = peer.finish(EXCHANGE_LIMIT)?;
                ensure!(told.contains("reset"), "the peer did not get to its reset:\n{told}");
            }
        }
        for input in ["sleep 2", "true"] {
            let mut peer =
                Socat::listen(&lab.namespace, PORT, &["TCP-LISTEN:7100,reuseaddr", "SYSTEM:echo all"])?;
            let receive = format!("{input} | netctl connect {} {PORT}", lab.plan.gateway);
            let all = lab.vm.guest().script(&receive).run()?;
            ensure!(all == "all\n", "of a clean end came {all:?} ({input})");
            peer.process.finish(EXCHANGE_LIMIT)?;
        }
        netd.terminate().map(drop)
    })
}

/// With the directory of its log.
fn resetting_peer(lab: &Lab, bytes: &str) -> Result<(Background, TempDir)> {
    let mut peer = lab.namespace.command(&Binaries::build()?.path("netd-peer").to_string_lossy());
    peer.args(["reset", PORT_TEXT, bytes]);
    let directory = scratch()?;
    let mut peer = Background::spawn(&mut peer, &directory.path().join("reset.log"))?;
    wait_for_listener(&lab.namespace, &mut peer, PORT)?;
    Ok((peer, directory))
}

/// SIGTERM, release, and the kernel's own driver works as before.
pub fn function_given_back_works_under_the_kernel(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        netd.terminate()?;
        let left = lab.vm.guest().run(&["ls", "/dev/hugepages"])?;
        ensure!(left.trim().is_empty(), "netd left its DMA memory behind: {left}");
        lab.release()?;

        let find = format!("ls /sys/bus/pci/devices/{}/virtio*/net", lab.vm.bdf(0));
        let interface = lab.vm.guest().script(&find).run()?.trim().to_owned();
        let (address, prefix) = (lab.plan.client, lab.plan.prefix);
        let configure = format!(
            "ip link set {interface} up && ip address add {address}/{prefix} dev {interface} && \
             ping -c 3 -W 5 {}",
            lab.plan.gateway
        );
        lab.vm.guest().script(&configure).run()?;
        let mac = lab.vm.guest().read_file(&format!("/sys/class/net/{interface}/address"))?;
        ensure!(mac.trim() == lab.plan.mac, "the MAC address became {mac}");

        // And once more the other way: nothing of the first time is in the way of a second.
        lab.vm.guest().script(&format!("ip link set {interface} down")).run()?;
        lab.bind()?;
        lab.start_netd()?.terminate().map(drop)
    })
}

/// kill -9 under load: the memory that the death freed stays untouched, and the function can be taken again.
pub fn netd_killed_under_load_leaves_freed_memory_alone(twin: Twin) -> Result<()> {
    scenario(twin, &[ORPHANED], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        let free_at_work = free_hugepages(lab)?;
        let load = Load::start(lab, "60")?;
        load.wait_until_flowing(lab)?;
        netd.kill()?;

        let mut watch = lab.vm.guest().command(&["netd-peer", "hugefill", AFTERMATH_SECONDS]).spawn()?;
        watch.wait_for_text("filled", AFTERMATH_LIMIT)?;
        let verdict = watch.wait(AFTERMATH_LIMIT)?.success()?;
        ensure!(verdict.contains("holds"), "no verdict on the hugepages:\n{verdict}");
        drop(load);

        let netd = lab.start_netd()?;
        lab.netctl(&["ping", lab.plan.gateway])?.success()?;
        let free_again = free_hugepages(lab)?;
        ensure!(free_again == free_at_work, "{free_at_work} hugepages were free at work, now {free_again}");
        netd.terminate().map(drop)
    })
}

/// kill -9 under load, and at once the next netd: it takes the function while the peer is still sending.
pub fn netd_killed_under_load_is_replaced_at_once(twin: Twin) -> Result<()> {
    scenario(twin, &[ORPHANED], |lab| {
        lab.bind()?;
        for _ in 0..2 {
            let netd = lab.start_netd()?;
            let load = Load::start(lab, "60")?;
            load.wait_until_flowing(lab)?;
            netd.kill()?;
            lab.start_netd()?.terminate()?;
        }
        Ok(())
    })
}

fn free_hugepages(lab: &Lab) -> Result<String> {
    lab.vm.guest().script("grep HugePages_Free /proc/meminfo").run()
}

/// Datagrams from the host as fast as they go, and a TCP stream that netd receives.
struct Load {
    _blast: Background,
    _source: Socat,
}

impl Load {
    fn start(lab: &Lab, seconds: &str) -> Result<Load> {
        // A dead netd answers no ARP request: the peer must go on sending without asking.
        let plan = &lab.plan;
        lab.namespace
            .ip(&format!("neigh replace {} lladdr {} dev br0 nud permanent", plan.client, plan.mac))?;
        let source =
            Socat::listen(&lab.namespace, PORT, &["-u", "FILE:/dev/zero", "TCP-LISTEN:7100,reuseaddr"])?;
        let receive = format!("netctl connect {} {PORT} </dev/null >/dev/null 2>&1 &", plan.gateway);
        lab.vm.guest().script(&receive).run()?;
        let mut blast = lab.namespace.command(&Binaries::build()?.path("netd-peer").to_string_lossy());
        blast.args(["blast", plan.client, DISCARD_PORT, seconds]);
        let log = source.file("blast.log");
        Ok(Load { _blast: Background::spawn(&mut blast, &log)?, _source: source })
    }

    /// Until netd has received frames in their thousands.
    fn wait_until_flowing(&self, lab: &Lab) -> Result<()> {
        wait_until("a flow of frames", EXCHANGE_LIMIT, || {
            Ok(lab.json("status")?["received"]["frames"].as_u64() > Some(5_000))
        })
    }
}
