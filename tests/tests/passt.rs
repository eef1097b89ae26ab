//! netd on the software device with passt as its wire: an unprivileged user, and real programs of the host.

use netd_tests::embedded::{Embedded, Network, Options, private_directory};
use netd_tests::peers::{Nginx, Socat, file_of};
use netd_tests::process::{Background, converse, run, wait_until};
use netd_tests::{Error, Result, ensure};
use std::time::Duration;

const BULK_BYTES: u64 = 256 * 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(60);
const REQUEST: &[u8] = b"GET /hello.txt HTTP/1.0\r\n\r\n";
const FORWARDED_PORT: u16 = 7100;

/// netd up with a lease, in a namespace of its own.
fn start() -> Result<Embedded> {
    let options = Options { devnet: true, forwarded_port: FORWARDED_PORT, judged: Some(&[]) };
    Embedded::start(Network::isolated()?, private_directory()?, options)
}

fn with_logs<T>(embedded: &Embedded, result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::Expectation(format!("{error}\nnetd:\n{}", embedded.netd.output())))
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn unprivileged_netd_gets_a_lease_and_pings_the_gateway() -> Result<()> {
    let embedded = start()?;
    let uid = run(std::process::Command::new("stat").args([
        "-c",
        "%u",
        &format!("/proc/{}", embedded.netd.pid()),
    ]))?;
    ensure!(uid.trim() != "0", "netd runs as root");
    let gateway = embedded.host_address()?;
    with_logs(&embedded, run(&mut embedded.netctl(&["ping", &gateway])))?;
    embedded.terminate()
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn page_of_nginx_fetched_by_netctl_and_by_python() -> Result<()> {
    let embedded = start()?;
    let nginx = Nginx::start(embedded.namespace()?, 8080)?;
    nginx.offer("hello.txt", b"hello from nginx\n")?;
    let gateway = embedded.host_address()?;
    let arguments = ["connect", gateway.as_str(), "8080"];
    for mut client in [embedded.netctl(&arguments), embedded.python(&arguments[1..])] {
        let page = with_logs(&embedded, converse(&mut client, REQUEST, "hello from nginx\n", LIMIT))?;
        ensure!(page.starts_with("HTTP/1.1 200"), "not the page:\n{page}");
    }
    embedded.terminate()
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn host_program_reaches_a_listener_of_netctl() -> Result<()> {
    let embedded = start()?;
    let mut listen = embedded.netctl(&["listen", &FORWARDED_PORT.to_string()]);
    let mut listener = Background::spawn(&mut listen, &embedded.path("listen.log"))?;
    wait_until("the listener", LIMIT, || Ok(embedded.json("sockets")?.to_string().contains("tcp_listener")))?;
    let mut nc = embedded.network.command("nc");
    nc.args(["-N", "-w", "10", "127.0.0.1", &FORWARDED_PORT.to_string()]);
    with_logs(&embedded, converse(&mut nc, b"hello from nc\n", "", LIMIT))?;
    let heard = listener.finish(LIMIT)?;
    ensure!(heard.contains("hello from nc\n"), "netctl listen heard {heard:?}");
    embedded.terminate()
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn bulk_both_ways_has_the_digest_that_was_sent() -> Result<()> {
    let embedded = start()?;
    let gateway = embedded.host_address()?;
    let blob = embedded.path("blob");
    let sum = file_of(&blob, BULK_BYTES, 1)?;
    let namespace = embedded.namespace()?;

    let file = format!("FILE:{}", blob.display());
    let mut source = Socat::listen(namespace, 7001, &["-u", &file, "TCP-LISTEN:7001,reuseaddr"])?;
    let mut receive = embedded.netctl(&["connect", &gateway, "7001"]);
    // Its input is kept open until everything is there: see `converse`.
    let (mut receiver, input) = Background::spawn_with_input(&mut receive, &embedded.path("received"))?;
    source.process.finish(LIMIT)?;
    let arrived = || std::fs::metadata(embedded.path("received")).map_or(0, |file| file.len());
    wait_until("the last byte", LIMIT, || Ok(arrived() >= BULK_BYTES))?;
    drop(input);
    let received = with_logs(&embedded, receiver.wait(LIMIT))?;
    ensure!(received.success(), "netctl ended with {received}");
    let arrived = run(std::process::Command::new("sha256sum").arg(embedded.path("received")))?;
    ensure!(arrived.starts_with(&sum), "sent {sum}, received {arrived}");

    let mut sink = Socat::listen(namespace, 7002, &["-u", "TCP-LISTEN:7002,reuseaddr", "CREATE:sink"])?;
    let mut send = embedded.netctl(&["connect", &gateway, "7002"]);
    let blob = std::fs::File::open(&blob)
        .map_err(|source| Error::Io { action: "open the blob".to_owned(), source })?;
    let status = send.stdin(blob).status();
    let status = status.map_err(|source| Error::Io { action: "run netctl".to_owned(), source })?;
    ensure!(status.success(), "netctl ended with {status}");
    sink.process.finish(LIMIT)?;
    let arrived = run(std::process::Command::new("sha256sum").arg(sink.file("sink")))?;
    ensure!(arrived.starts_with(&sum), "sent {sum}, received {arrived}");
    embedded.terminate()
}
