//! Roots of trust and a server of OpenSSL's: what is shown there, and what is thought of it, by netd-services over netd's sockets.

use netd_tests::capture::Allowed;
use netd_tests::peers::wait_for_listener;
use netd_tests::process::{Background, run};
use netd_tests::tapped::{GATEWAY, LIMIT, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;

const MORE: &str = "[clock]\ntrust = \"host\"\n[[grant]]\nsubject = \"any\"\nallow = [\"net.trust.manage\", \"net.tls.validate\"]\n";

/// A root, and two servers that it vouches for: one for the gateway's address, one for somebody else.
const CERTIFICATES: &str = "
    key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
    openssl req -x509 $key -keyout ca.key -out ca.pem -days 30 -subj '/CN=Test Root' \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
    for name in right:IP:10.77.0.1 wrong:DNS:other.example; do
        openssl req -new $key -keyout ${name%%:*}.key -out request.pem -subj \"/CN=${name%%:*}\"
        echo \"subjectAltName=${name#*:}\" > extensions
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions \
            -out ${name%%:*}.pem
    done";

/// Who has seen the certificates leaves, whatever else the server has to say.
const RESETS: &[Allowed] = &[Allowed {
    remark: "Connection reset (RST)",
    on: "tcp.dstport == 4433 or tcp.dstport == 4434",
    because: "the connection is closed while session tickets of TLS 1.3 are unread (RFC 9293, 3.6.1)",
}];

fn io(action: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action: action.to_owned(), source }
}

fn serve(tapped: &Tapped, directory: &Path, name: &str, port: u16) -> Result<Background> {
    let mut command = tapped.namespace.command("openssl");
    command.args(["s_server", "-quiet", "-accept", &format!("{GATEWAY}:{port}")]).current_dir(directory);
    command.args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")]);
    let mut server = Background::spawn(&mut command, &directory.join(format!("{name}.log")))?;
    wait_for_listener(&tapped.namespace, &mut server, port)?;
    Ok(server)
}

/// netctl trust with `--json`: what it prints, and whether it succeeds.
fn trust(tapped: &Tapped, arguments: &[&str]) -> Result<(bool, Value)> {
    let mut command = tapped.netctl(&["--json", "trust"]);
    command.args(arguments).env("NETD_SERVICES_SOCKET", tapped.path("services.sock"));
    let output = command.output().map_err(io("run netctl"))?;
    let told = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    let value = serde_json::from_slice(told).map_err(|error| {
        Error::Expectation(format!("netctl trust {}: {error}: {output:?}", arguments.join(" ")))
    })?;
    Ok((output.status.success(), value))
}

/// Looks at a server, and compares the reason for refusing it; "accepted" for none.
fn expect(tapped: &Tapped, port: u16, reason: &str) -> Result<Value> {
    let (accepted, check) = trust(tapped, &["check", &format!("{GATEWAY}:{port}")])?;
    let said = if accepted { "accepted" } else { check["reason"].as_str().unwrap_or("an error") };
    ensure!(said == reason, "expected {reason}:\n{check:#}");
    ensure!(check["sent"][0]["issuer"] == "CN=Test Root" && check["version"].is_string(), "{check:#}");
    Ok(check)
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn server_is_believed_while_its_root_is_installed_and_each_change_is_recorded() -> Result<()> {
    scenario(RESETS, |tapped| {
        let certificates = tempfile::tempdir().map_err(io("make a directory"))?;
        let directory = certificates.path();
        run(std::process::Command::new("sh").args(["-ec", CERTIFICATES]).current_dir(directory))?;
        let _right = serve(tapped, directory, "right", 4433)?;
        let _wrong = serve(tapped, directory, "wrong", 4434)?;
        tapped.start(STATIC, MORE)?;
        let path = |name: &str| tapped.path(name).display().to_string();
        let more = format!("[trust]\npackaged = {:?}\ninstalled = {:?}\n", path("none"), path("installed"));
        let mut services = tapped.start_services(&more)?;

        expect(tapped, 4433, "no_roots")?;
        let copy = |name: &str| {
            let pem = fs::read(directory.join(name)).map_err(io("read a certificate"))?;
            fs::write(tapped.path(name), pem).map_err(io("copy a certificate"))?;
            Ok::<_, Error>(path(name))
        };
        let (added, refused) = trust(tapped, &["add", &copy("right.pem")?])?;
        ensure!(!added && refused["message"].to_string().contains("is not a CA's"), "{refused:#}");
        let (added, roots) = trust(tapped, &["add", &copy("ca.pem")?])?;
        ensure!(added && roots[0]["certificate"]["subject"] == "CN=Test Root", "{roots:#}");
        let check = expect(tapped, 4433, "accepted")?;
        ensure!(check["root"]["sha256"] == roots[0]["sha256"], "{check:#}");
        ensure!(check["chain"][0]["subject"] == "CN=right", "{check:#}");
        expect(tapped, 4434, "wrong_host")?;
        let sha256 = roots[0]["sha256"].as_str().unwrap_or_default();
        let (removed, removal) = trust(tapped, &["remove", sha256.get(..12).unwrap_or_default()])?;
        ensure!(removed && removal["roots"][0]["sha256"] == sha256, "{removal:#}");
        expect(tapped, 4433, "no_roots")?;

        let log = fs::read_to_string(tapped.path("state/audit/audit.jsonl")).map_err(io("read the audit"))?;
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let changes: Vec<_> = records
            .filter(|record| record["event"] == "trust" && record["detail"].to_string().contains(sha256))
            .map(|record| record["change"].clone())
            .collect();
        ensure!(changes == ["added", "removed"], "the audit has {changes:?}:\n{log}");
        services.signal(Signal::TERM)?;
        services.finish(LIMIT).map(drop)
    })
}
