//! netd's own captures, beside those of tcpdump on the tap: what `netctl capture -w` writes is what passed, and tshark reads it.

use netd_tests::capture::{examine, fields};
use netd_tests::netns::wait_for_path;
use netd_tests::peers::{Nginx, Radvd};
use netd_tests::process::{Background, converse, run, wait_until};
use netd_tests::tapped::{ADDRESS, BRIDGE, GATEWAY, GATEWAY6, LIMIT, MAC, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use std::path::Path;

const PAGE: &str = "hello from nginx\n";
/// Longer than a frame: it travels in fragments.
const LONG_TEXT_BYTES: usize = 4000;

/// Starts `netctl capture` with its output in `file`; ready when netd has begun to write.
fn capture(tapped: &Tapped, arguments: &[&str], file: &Path) -> Result<Background> {
    let mut command = tapped.netctl(&["capture", "-w"]);
    command.arg(file).args(arguments);
    let capture = Background::spawn(&mut command, &file.with_extension("log"))?;
    wait_for_header(file)?;
    Ok(capture)
}

/// The first block of the stream comes when the capture is in force.
fn wait_for_header(file: &Path) -> Result<()> {
    wait_for_path(file, LIMIT)?;
    wait_until("the head of a capture", LIMIT, || {
        Ok(std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0))
    })
}

/// A page from the namespace's web server.
fn fetch(tapped: &Tapped, server: &str) -> Result<()> {
    let request = format!("GET /hello.txt HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let page = converse(&mut tapped.netctl(&["connect", server, "80"]), request.as_bytes(), PAGE, LIMIT)?;
    ensure!(page.starts_with("HTTP/1.1 200"), "from {server} came:\n{page}");
    Ok(())
}

/// Pings both ways, pages and datagrams in fragments, over both versions.
fn talk(tapped: &Tapped) -> Result<()> {
    let text = "x".repeat(LONG_TEXT_BYTES);
    for server in [GATEWAY, GATEWAY6] {
        run(&mut tapped.netctl(&["ping", server]))?;
        fetch(tapped, server)?;
        let back = run(&mut tapped.netctl(&["udp", "send", "-w", "60", server, "7003", &text]))?;
        ensure!(back.contains(&text), "of {LONG_TEXT_BYTES} bytes to {server} came back {}", back.len());
    }
    tapped.peer("ping", &["-c", "1", "-W", "10", ADDRESS]).map(drop)
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn capture_written_by_netctl_holds_what_passed_the_tap_and_tshark_finds_no_fault() -> Result<()> {
    scenario(&[], |tapped| {
        let _radvd = Radvd::start(&tapped.namespace, BRIDGE, "prefix fd77::/64 {};")?;
        let nginx = Nginx::start(&tapped.namespace, 80)?;
        nginx.offer("hello.txt", PAGE.as_bytes())?;
        let mut echo = tapped.namespace.command("socat");
        echo.args(["UDP6-RECVFROM:7003,fork,ipv6only=0", "EXEC:cat"]);
        let mut echo = Background::spawn(&mut echo, &tapped.path("echo.log"))?;
        echo.wait_until_ready(LIMIT, |_| {
            Ok(tapped.peer("ss", &["-Hlun", "sport = :7003"])?.contains("7003"))
        })?;
        tapped.start(STATIC, "")?;
        tapped.wait("an address of version 6", |tapped| {
            Ok(tapped.interface()?["addresses"].to_string().contains("fd77:"))
        })?;
        let file = tapped.path("netctl.pcapng");
        let mut all = capture(tapped, &[], &file)?;
        talk(tapped)?;

        // netd ends, and with it the stream.
        let on_tap = tapped.finish(&[])?;
        let told = all.finish(LIMIT)?;
        ensure!(told.contains("frames in"), "netctl said {told:?}");
        examine(&file, MAC, &[])?;
        let on_tap = on_tap.ok_or_else(|| Error::Expectation("no capture of the tap".to_owned()))?;
        for (filter, names) in [
            ("tcp", &["tcp.srcport", "tcp.seq_raw", "tcp.ack_raw", "tcp.len", "tcp.flags"][..]),
            ("icmp || icmpv6.type == 128 || icmpv6.type == 129", &["ip.src", "ipv6.src", "frame.len"]),
            ("ip.flags.mf == 1 || ip.frag_offset > 0", &["ip.src", "ip.id", "ip.frag_offset", "ip.len"]),
            ("ipv6.fraghdr", &["ipv6.src", "ipv6.fraghdr.ident", "ipv6.fraghdr.offset", "ipv6.plen"]),
        ] {
            let seen = |file: &Path| -> Result<Vec<String>> {
                let mut lines: Vec<String> =
                    fields(file, filter, names)?.lines().map(str::to_owned).collect();
                lines.sort_unstable();
                Ok(lines)
            };
            let (ours, theirs) = (seen(&file)?, seen(&on_tap)?);
            ensure!(!ours.is_empty(), "netctl's capture has nothing of {filter:?}");
            ensure!(ours == theirs, "of {filter:?}, netctl has\n{ours:#?}\nand the tap had\n{theirs:#?}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn captures_with_a_filter_and_a_count_or_a_pipe_are_read_by_tshark() -> Result<()> {
    scenario(&[], |tapped| {
        let nginx = Nginx::start(&tapped.namespace, 80)?;
        nginx.offer("hello.txt", PAGE.as_bytes())?;
        tapped.start(STATIC, "")?;
        let (counted, piped) = (tapped.path("counted.pcapng"), tapped.path("piped.pcapng"));
        // One after the other: a client may have one.
        let mut first = capture(tapped, &["-c", "3", "tcp", "port", "80"], &counted)?;
        fetch(tapped, GATEWAY)?;
        first.finish(LIMIT)?;
        let pipe =
            format!("exec {} capture -w - icmp | cat > {}", tapped.path("netctl").display(), piped.display());
        let mut shell = tapped.command("sh");
        shell.args(["-c", &pipe]);
        let mut second = Background::spawn(&mut shell, &tapped.path("pipe.log"))?;
        wait_for_header(&piped)?;
        fetch(tapped, GATEWAY)?;
        run(&mut tapped.netctl(&["ping", GATEWAY]))?;
        tapped.stop()?;
        second.finish(LIMIT)?;

        examine(&counted, MAC, &[])?;
        let flags = fields(&counted, "frame", &["tcp.flags"])?;
        ensure!(flags == "0x0002\n0x0012\n0x0010\n", "not a handshake:\n{flags}");
        examine(&piped, MAC, &[])?;
        let others = fields(&piped, "!icmp", &["frame.number"])?;
        ensure!(others.is_empty(), "not ICMP: {others}");
        Ok(())
    })
}
