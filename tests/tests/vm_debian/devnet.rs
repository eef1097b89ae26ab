//! The devnet switch, turned by reloads of one daemon on the function: off cuts what is under way, and on lets it begin again.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use netd_tests::debian::{ALICE, DOMAIN, Running};
use netd_tests::guest::Process;
use netd_tests::lab::{Lab, scratch};
use netd_tests::peers::wait_for_listener;
use netd_tests::process::{Background, run, wait_until};
use netd_tests::{Error, Result, ensure};

/// Where every byte comes back.
const ECHO_PORT: u16 = 8097;
/// Where a body begins, and then nothing comes any more.
pub(crate) const STALLING_PORT: u16 = 8098;
const STALLING: &str = "#!/bin/sh\nread -r request\nprintf 'HTTP/1.1 200 OK\\r\\nContent-Length: 1000000\\r\\n\\r\\n'\nhead -c 300000 /dev/zero\n\
    exec cat >/dev/null\n";
/// In the guest.
const FETCHED: &str = "/tmp/stalling";
const LIMIT: Duration = Duration::from_secs(60);

/// Everything is granted to everybody, and the switch is on.
pub(crate) fn check(lab: &Lab, running: &Running<'_>) -> Result<()> {
    let _servers = serve(lab)?;
    let (remote, pid) = (lab.plan.remote, lab.json("status")?["pid"].clone());
    let as_alice = |argv: &[&str]| lab.vm.guest().command(argv).uid(ALICE).spawn();
    let (host, echo) = (format!("www.{DOMAIN}"), ECHO_PORT.to_string());
    let mut stream = as_alice(&["netctl", "--json", "connect", &host, &echo])?;
    answers(&mut stream, "one")?;
    let mut datagrams = as_alice(&["netd-peer", "talk", &format!("{remote}:{echo}")])?;
    answers(&mut datagrams, "two")?;
    let url = format!("http://{host}:{STALLING_PORT}/");
    let mut fetch = as_alice(&["netctl", "--json", "fetch", &url, "-o", FETCHED])?;
    wait_until("a part of the body", LIMIT, || {
        let part = ["test", "-s", &format!("{FETCHED}.part")];
        Ok(lab.vm.guest().command(&part).output()?.is_success())
    })?;
    let shown = lab.netctl(&["sockets"])?.success()?;
    ensure!(shown.contains(&host), "no socket is shown with its name {host}:\n{shown}");

    running.set_devnet(false)?;
    // Its standard input is open: it is cut, and has not come to its end.
    let cut = stream.wait(LIMIT)?;
    ensure!(
        !cut.is_success() && cut.text().contains("cut off on this side"),
        "the stream goes on: {}",
        cut.text()
    );
    let given_up = fetch.wait(LIMIT)?;
    ensure!(given_up.text().contains("DevnetDisabled"), "the fetch ended otherwise: {}", given_up.text());
    datagrams.write(b"three\n")?;
    datagrams.wait_for_text("DevnetDisabled", LIMIT)?;
    let audit = lab.netctl(&["--json", "audit", "tail", "-n", "30"])?.success()?;
    let is_cut = |line: &str| {
        line.contains("\"event\":\"cut\"") && line.contains(&host) && line.contains(&format!(":{echo}"))
    };
    ensure!(audit.lines().any(is_cut), "that the stream was cut is not in the audit:\n{audit}");

    running.set_devnet(true)?;
    answers(&mut datagrams, "four")?;
    let mut again = as_alice(&["netctl", "--json", "connect", &host, &echo])?;
    answers(&mut again, "five")?;
    for mut process in [again, datagrams] {
        process.close_stdin()?;
        process.wait(LIMIT)?.success()?;
    }
    ensure!(lab.json("status")?["pid"] == pid, "netd is another one than before");
    Ok(())
}

/// What is said comes back.
fn answers(process: &mut Process, said: &str) -> Result<()> {
    process.write(format!("{said}\n").as_bytes())?;
    process.wait_for_text(said, LIMIT)
}

fn serve(lab: &Lab) -> Result<(tempfile::TempDir, Vec<Background>)> {
    let directory = scratch()?;
    let script = directory.path().join("stalling");
    let written = fs::write(&script, STALLING)
        .and_then(|()| fs::set_permissions(&script, Permissions::from_mode(0o755)));
    written.map_err(|source| Error::Io { action: "write a server".to_owned(), source })?;
    let mut servers = Vec::new();
    for (name, from, to) in [
        ("tcp", format!("TCP-LISTEN:{ECHO_PORT},fork"), "PIPE".to_owned()),
        ("udp", format!("UDP-LISTEN:{ECHO_PORT},fork"), "PIPE".to_owned()),
        ("http", format!("TCP-LISTEN:{STALLING_PORT},fork"), format!("EXEC:{}", script.display())),
    ] {
        let mut socat = lab.namespace.command("socat");
        socat.args([&from, &to]);
        servers.push(Background::spawn(&mut socat, &directory.path().join(format!("{name}.log")))?);
    }
    for (server, port) in servers.iter_mut().step_by(2).zip([ECHO_PORT, STALLING_PORT]) {
        wait_for_listener(&lab.namespace, server, port)?;
    }
    let filter = format!("sport = :{ECHO_PORT}");
    wait_until("a UDP socket", LIMIT, || {
        Ok(!run(lab.namespace.command("ss").args(["-Hlun", &filter]))?.is_empty())
    })?;
    Ok((directory, servers))
}
