//! Connections by name: unbound, and after it dnsmasq, answer for the names, `openssl s_server` behind them, and Python's TLS as the client of netd.

use std::fs;
use std::process::Command;

use netd_tests::binaries;
use netd_tests::capture::Allowed;
use netd_tests::peers::{Unbound, wait_for_listener};
use netd_tests::process::{Background, run};
use netd_tests::tapped::{BRIDGE, GATEWAY, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};

/// An address that is nobody's own, behind the gateway; one that the gateway knows no way to; one that is private.
const RECORDS: &str = "ns 60 IN A 10.77.0.1\nwww 60 IN A 198.51.100.7\nraced 60 IN A 203.0.113.99\nraced 60 IN A 198.51.100.7\n\
    xn--bcher-kva 60 IN A 198.51.100.7\nlocal 60 IN AAAA fe80::1\nprivate 60 IN A 10.77.0.1\nwww.sub 60 IN A 198.51.100.7\n";
const SERVER: &str = "198.51.100.7";
const GRANTS: &str = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nhosts = [\"*.netd.example\"]\nports = [\"443\"]\n\
    [[deny]]\nsubject = \"any\"\ndeny = [\"net.tcp.connect\"]\nhosts = [\"*.sub.netd.example\"]\n";

/// Connects to HOST, asks in TLS for NAME (`-`: for none; `plain`: speaks no TLS), and prints what became of it.
const CLIENT: &str = r#"
import socket, ssl, sys
import netd
host, name = sys.argv[1:]
try:
    stream = netd.create_connection((host, 443), timeout=40)
except netd.Error as error:
    sys.exit(print(f"refused: {error.name}: {error}"))
stream.settimeout(40)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
tls = context.wrap_bio(incoming, outgoing, server_hostname=None if name == "-" else name)

def until_done(step):
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            stream.sendall(outgoing.read())
            received = stream.recv(65536)
            if not received:
                raise EOFError("the server ended")
            incoming.write(received)

try:
    if name == "plain":
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        stream.recv(1)
    until_done(tls.do_handshake)
    tls.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = until_done(lambda: tls.read(15)).decode()
    # To the end: closing with bytes unread is a reset (RFC 1122, 4.2.2.13).
    stream.shutdown(socket.SHUT_WR)
    while stream.recv(65536):
        pass
    print(f"answered {stream.getpeername()[0]} tls={stream.tls}:", answer)
except OSError:
    print("cut:", netd.client().call("Outcome", id=stream.id)[0]["end"])
"#;

fn failed(action: &str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action: action.to_owned(), source }
}

/// What the client prints.
fn ask(tapped: &Tapped, host: &str, name: &str) -> Result<String> {
    let mut client = tapped.command("/usr/bin/python3");
    client.env("PYTHONPATH", tapped.path("")).arg(tapped.path("by_name.py")).args([host, name]);
    run(&mut client)
}

/// Whether `netctl policy explain` says that anybody may connect to it, or the name of its error.
fn explained(tapped: &Tapped, host: &str) -> Result<String> {
    let target = format!("{host}:443");
    let mut explain = tapped.netctl(&["--json", "policy", "explain", "any", "net.tcp.connect", &target]);
    let output = explain.output().map_err(failed("run netctl"))?;
    Ok(match output.status.code() {
        Some(0) => "allowed".to_owned(),
        Some(4) => "denied".to_owned(),
        _ => {
            let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap_or_default();
            told["error"].as_str().unwrap_or_default().to_owned()
        }
    })
}

/// Another resolver at the same address, for names that were not asked for yet.
fn dnsmasq(tapped: &Tapped) -> Result<Background> {
    let mut command = tapped.namespace.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    command.args(["--log-facility=-", "--pid-file=", "--bind-interfaces", "--local=/netd.example/"]);
    command.args([&format!("--listen-address={GATEWAY}"), "--cname=alias.netd.example,second.netd.example"]);
    for (name, address) in [("second", SERVER), ("xn--mnchen-3ya", SERVER), ("inside", GATEWAY)] {
        command.arg(format!("--host-record={name}.netd.example,{address}"));
    }
    let mut dnsmasq = Background::spawn(&mut command, &tapped.path("dnsmasq.log"))?;
    tapped.namespace.wait_for_tcp(&mut dnsmasq, GATEWAY, 53)?;
    Ok(dnsmasq)
}

fn serve(tapped: &Tapped) -> Result<Background> {
    let (key, certificate) = (tapped.path("key.pem"), tapped.path("certificate.pem"));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=www.netd.example",
    ]);
    run(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    let mut server = tapped.namespace.command("openssl");
    server
        .args(["s_server", "-accept", "443", "-www", "-quiet", "-key"])
        .arg(&key)
        .arg("-cert")
        .arg(&certificate);
    let mut server = Background::spawn(&mut server, &tapped.path("s_server.log"))?;
    wait_for_listener(&tapped.namespace, &mut server, 443)?;
    Ok(server)
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn name_is_resolved_checked_and_held_to_its_client_hello() -> Result<()> {
    let cut = Allowed {
        remark: "Connection reset (RST)",
        on: "tcp.port == 443 && tcp.len == 0 && tcp.seq == 1",
        because: "netd cuts what is no ClientHello for the name, and nothing of it has left",
    };
    scenario(&[cut], |tapped| {
        let unbound = Unbound::start(&tapped.namespace, &[GATEWAY], &[("netd.example.", RECORDS)])?;
        tapped.namespace.ip(&format!("address add {SERVER}/32 dev {BRIDGE}"))?;
        let _server = serve(tapped)?;
        fs::write(tapped.path("by_name.py"), CLIENT).map_err(failed("write the client"))?;
        let module = binaries::workspace().join("ipc/python/netd.py");
        fs::copy(module, tapped.path("netd.py")).map_err(failed("copy netd.py"))?;
        tapped.start_granting(STATIC, "", GRANTS)?;
        let answered = format!("answered {SERVER} tls=required: HTTP/1.0 200 ok\n");
        for (host, name, wanted) in [
            ("www.netd.example", "www.netd.example", answered.as_str()),
            ("WWW.Netd.Example.", "www.netd.example", &answered),
            ("bücher.netd.example", "xn--bcher-kva.netd.example", &answered),
            ("BÜCHER.netd.example.", "xn--bcher-kva.netd.example", &answered),
            ("XN--BCHER-KVA.netd.example", "xn--bcher-kva.netd.example", &answered),
            ("www\u{3002}netd.example", "www.netd.example", &answered),
            ("raced.netd.example", "raced.netd.example", &answered),
            ("www.netd.example", "other.netd.example", "cut: policy_denied\n"),
            ("www.netd.example", "-", "cut: policy_denied\n"),
            ("www.netd.example", "plain", "cut: policy_denied\n"),
            ("local.netd.example", "local.netd.example", "refused: PolicyDenied"),
            ("private.netd.example", "private.netd.example", "refused: PolicyDenied"),
            ("www.sub.netd.example", "www.sub.netd.example", "refused: PolicyDenied"),
            ("netd.example", "netd.example", "refused: PolicyDenied"),
            ("wwwnetd.example", "wwwnetd.example", "refused: PolicyDenied"),
            // With a Cyrillic letter.
            ("www.netd.ex\u{430}mple", "www.netd.example", "refused: PolicyDenied"),
            ("xn--a.netd.example", "-", "refused: InvalidInput"),
            ("fe80::1%eth0", "-", "refused: InvalidInput"),
            (SERVER, "www.netd.example", "refused: PolicyDenied"),
        ] {
            let told = ask(tapped, host, name)?;
            ensure!(told.starts_with(wanted), "{host}, asked for as {name}: {told}");
            // What depends on the answer, or on what the client says, is not known before.
            let before = match wanted {
                "refused: InvalidInput" => "InvalidInput",
                "refused: PolicyDenied" if !host.starts_with(['l', 'p']) => "denied",
                _ => "allowed",
            };
            let said = explained(tapped, host)?;
            ensure!(said == before, "{host}: {told}, and explained: {said}, expected {before}");
        }
        drop(unbound);
        let _dnsmasq = dnsmasq(tapped)?;
        for (host, name, wanted) in [
            ("SECOND.netd.example.", "second.netd.example", answered.as_str()),
            ("alias.netd.example", "alias.netd.example", &answered),
            ("münchen.netd.example", "xn--mnchen-3ya.netd.example", &answered),
            ("inside.netd.example", "inside.netd.example", "refused: PolicyDenied"),
        ] {
            let told = ask(tapped, host, name)?;
            ensure!(told.starts_with(wanted), "{host}, by dnsmasq, asked for as {name}: {told}");
        }
        let record = fs::read_to_string(tapped.path("state/audit/audit.jsonl"));
        let record = record.map_err(failed("read the audit"))?;
        for reason in [
            "its ClientHello asks for another server: 'other.netd.example'",
            "its ClientHello has no server name",
            "it does not begin with a TLS handshake",
            "private.netd.example:443@10.77.0.1",
            "local.netd.example:443@fe80::1",
        ] {
            ensure!(record.contains(reason), "{reason:?} is not in the audit:\n{record}");
        }
        Ok(())
    })
}
