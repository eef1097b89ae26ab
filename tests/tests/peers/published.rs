//! Ports of netd's that lead to sshd and nginx: who comes to them, who is kept out, and what is left when something dies.

use netd_tests::capture::Allowed;
use netd_tests::digest::hex;
use netd_tests::peers::{Nginx, SshKey, Sshd, file_of};
use netd_tests::process::{Background, run};
use netd_tests::tapped::{ADDRESS, GATEWAY, LIMIT, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::process::ChildStdin;

const SSHD: u16 = 2222;
const NGINX: u16 = 8088;
/// For what is to be dropped: long enough for the rest on a busy machine.
const DEADLINE_SECONDS: u32 = 3;

/// Whoever breaks a rule is reset, and so is whoever is connected when netd stops.
const RESETS: &[Allowed] = &[Allowed {
    remark: "Connection reset (RST)",
    on: "tcp.srcport in {22, 83, 84} or tcp.dstport in {22, 82, 83, 84}",
    because: "a client that drips or does not read is dropped, one too many is closed with a request unread, and netd is stopped",
}];

/// Connects to port `argv[2]`, sends `argv[3]`, and tells what comes within a minute: bytes, the end, or a reset.
const CLIENT: &str = "
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
peer.sendall(sys.argv[3].encode())
print('connected', flush=True)
if sys.argv[4] == 'read':
    try:
        print('got', peer.recv(100), flush=True)
    except ConnectionResetError:
        print('reset', flush=True)
sys.stdin.read()";

/// A client in the background, until it is dropped.
struct Client {
    program: Background,
    _input: ChildStdin,
}

/// Starts one that reads what comes, or nothing.
fn client(tapped: &Tapped, name: &str, port: u16, sends: &str, reads: bool) -> Result<Client> {
    let mut command = tapped.namespace.command("/usr/bin/python3");
    command.args(["-c", CLIENT, ADDRESS, &port.to_string(), sends, if reads { "read" } else { "wait" }]);
    let (mut program, input) = Background::spawn_with_input(&mut command, &tapped.path(name))?;
    program.wait_until_ready(LIMIT, |log| Ok(log.contains("connected")))?;
    Ok(Client { program, _input: input })
}

/// What `netctl published` says of a port.
fn port(tapped: &Tapped, listen: &str) -> Result<Value> {
    let mut netctl = tapped.netctl(&["--json", "published"]);
    let shown = run(netctl.env("NETD_SERVICES_SOCKET", tapped.path("services.sock")))?;
    let ports: Value = serde_json::from_str(&shown).map_err(|error| Error::Expectation(error.to_string()))?;
    let found = ports.as_array().into_iter().flatten().find(|port| port["listen"] == listen).cloned();
    found.ok_or_else(|| Error::Expectation(format!("{listen} is not among {ports:#}")))
}

fn wait_for_count(tapped: &Tapped, listen: &str, counter: &str, count: u64) -> Result<()> {
    tapped.wait(&format!("{count} {counter} of port {listen}"), |tapped| {
        Ok(port(tapped, listen)?["counters"][counter] == count)
    })
}

fn wait_until_published(tapped: &Tapped) -> Result<()> {
    tapped.wait("the ports", |tapped| Ok(port(tapped, "22")?["listening"] == true))
}

fn page(tapped: &Tapped, port: u16, name: &str) -> Result<String> {
    let url = format!("http://{ADDRESS}:{port}/{name}");
    tapped.peer("curl", &["--silent", "--show-error", "--fail", "--max-time", "60", &url])
}

fn configuration(tapped: &Tapped, nginx: &Nginx) -> String {
    let unix = nginx.proxied_socket().display().to_string();
    let port = |listen: u16, to: &str, more: &str| {
        format!("[[publish]]\nlisten = \"{listen}\"\nto = \"{to}\"\n{more}\n")
    };
    let impatient =
        format!("request_read_seconds = {DEADLINE_SECONDS}\nresponse_send_seconds = {DEADLINE_SECONDS}");
    [
        port(22, &format!("127.0.0.1:{SSHD}"), ""),
        port(80, &format!("unix:{unix}"), "proxy_protocol = true"),
        port(82, "127.0.0.1:9", ""),
        port(83, &format!("127.0.0.1:{NGINX}"), &impatient),
        port(84, &format!("127.0.0.1:{NGINX}"), "connections_per_source = 2\nnew_per_second_per_source = 4"),
        format!("[metrics]\nsocket = {:?}\nmode = \"0600\"\n", tapped.path("metrics.sock")),
    ]
    .concat()
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn published_ports_lead_to_sshd_and_nginx_and_keep_out_who_is_too_many_or_too_slow() -> Result<()> {
    scenario(RESETS, |tapped| {
        tapped.start(STATIC, "")?;
        let key = SshKey::new()?;
        let _sshd = Sshd::start(&tapped.namespace, "127.0.0.1", SSHD, &key)?;
        let nginx = Nginx::start(&tapped.namespace, NGINX)?;
        nginx.offer("hello.txt", b"hello\n")?;
        nginx.offer_zeros("big", 64 << 20)?;
        let mut services = tapped.start_services(&configuration(tapped, &nginx))?;
        wait_until_published(tapped)?;
        let done = carries_ssh_both_ways(tapped, &key)
            .and_then(|()| tells_nginx_who_comes(tapped))
            .and_then(|()| closes_in_order_without_a_server(tapped))
            .and_then(|()| drops_who_is_too_slow(tapped))
            .and_then(|()| bounds_each_source(tapped))
            .and_then(|()| survives_netd(tapped, &key));
        done.map_err(|error| Error::Expectation(format!("{error}\nnetd-services:\n{}", services.output())))?;
        services.signal(Signal::TERM)?;
        services.finish(LIMIT).map(drop)
    })
}

fn carries_ssh_both_ways(tapped: &Tapped, key: &SshKey) -> Result<()> {
    let blob = tapped.path("blob");
    let sum = file_of(&blob, 2 << 20, 7)?;
    let input =
        File::open(&blob).map_err(|source| Error::Io { action: "open the blob".to_owned(), source })?;
    let output = key.client(&tapped.namespace, ADDRESS, 22).arg("cat").stdin(input).output();
    let output = output.map_err(|source| Error::Io { action: "run ssh".to_owned(), source })?;
    ensure!(output.status.success(), "ssh: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(hex(&output.stdout) == sum, "other bytes came back");
    wait_for_count(tapped, "22", "finished", 1)
}

fn tells_nginx_who_comes(tapped: &Tapped) -> Result<()> {
    let told = page(tapped, 80, "who")?;
    ensure!(
        told.starts_with(&format!("{GATEWAY} ")) && told.ends_with(&format!(" {ADDRESS} 80\n")),
        "nginx was told {told:?}"
    );
    Ok(())
}

fn closes_in_order_without_a_server(tapped: &Tapped) -> Result<()> {
    let mut client = client(tapped, "nobody", 82, "", true)?;
    client.program.wait_until_ready(LIMIT, |log| Ok(log.contains("got b''")))?;
    wait_for_count(tapped, "82", "target_failed", 1)
}

/// Others go on meanwhile.
fn drops_who_is_too_slow(tapped: &Tapped) -> Result<()> {
    let mut dripping = client(tapped, "dripping", 83, "GET", true)?;
    let deaf = client(tapped, "deaf", 83, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", false)?;
    ensure!(page(tapped, 83, "hello.txt")? == "hello\n", "others were served something else");
    dripping.program.wait_until_ready(LIMIT, |log| Ok(log.contains("reset")))?;
    wait_for_count(tapped, "83", "request_late", 1)?;
    wait_for_count(tapped, "83", "response_stalled", 1)?;
    ensure!(page(tapped, 83, "hello.txt")? == "hello\n", "others were served something else");
    drop(deaf);
    let metrics = tapped.path("metrics.sock").display().to_string();
    let told = run(tapped.command("curl").args([
        "-sSf",
        "--max-time",
        "20",
        "--unix-socket",
        &metrics,
        "http://netd/metrics",
    ]))?;
    let sample = "netd_published_connections_total{listen=\"83\",event=\"request_late\"} 1";
    ensure!(told.contains(sample), "no {sample} in\n{told}");
    Ok(())
}

fn bounds_each_source(tapped: &Tapped) -> Result<()> {
    let request = "GET /hello.txt HTTP/1.1\r\nHost: x\r\n";
    let held = [client(tapped, "first", 84, request, false)?, client(tapped, "second", 84, request, false)?];
    let third = client(tapped, "third", 84, request, true)?;
    wait_for_count(tapped, "84", "refused_source", 1)?;
    ensure!(port(tapped, "84")?["open"] == 2, "of two: {:#}", port(tapped, "84")?);
    drop((held, third));
    tapped.wait("the end of all", |tapped| Ok(port(tapped, "84")?["open"] == 0))?;
    // Twelve at once are more than the four of a second, however slowly they come: ten of them within two.
    let many = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -s -m 60 -o /dev/null http://{ADDRESS}:84/hello.txt & done; wait"
    );
    let mut refused = 0;
    tapped.wait("one that came too often", |tapped| {
        run(tapped.namespace.command("sh").args(["-c", &many]))?;
        refused = port(tapped, "84")?["counters"]["refused_rate"].as_u64().unwrap_or(0);
        Ok(refused > 0)
    })
}

/// What was open is reset, and the ports are back as soon as netd is.
fn survives_netd(tapped: &mut Tapped, key: &SshKey) -> Result<()> {
    let mut command = key.client(&tapped.namespace, ADDRESS, 22);
    let mut session = Background::spawn(command.arg("echo here; sleep 600"), &tapped.path("session"))?;
    session.wait_until_ready(LIMIT, |log| Ok(log.contains("here")))?;
    tapped.stop()?;
    ensure!(!session.wait(LIMIT)?.success(), "the session did not notice:\n{}", session.output());
    tapped.wait("that nothing is published", |tapped| Ok(port(tapped, "22")?["listening"] == false))?;
    tapped.start(STATIC, "")?;
    wait_until_published(tapped)?;
    let said = run(key.client(&tapped.namespace, ADDRESS, 22).arg("echo again"))?;
    ensure!(said == "again\n", "after netd's restart ssh said {said:?}");
    Ok(())
}
