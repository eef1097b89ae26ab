//! Programs that carry bytes: nginx, curl, socat and iperf3, on both sides and over both IP versions.

use netd_tests::capture::Allowed;
use netd_tests::peers::{Nginx, Radvd, Socat, file_of, wait_for_listener};
use netd_tests::process::{Background, converse, run};
use netd_tests::tapped::{ADDRESS, BRIDGE, GATEWAY, GATEWAY6, LIMIT, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use serde_json::Value;
use std::fs::File;

/// Enough for windows to fill and move; tshark reads every byte of it.
const BULK_BYTES: u64 = 8 * 1024 * 1024;
const BULK_TEXT: &str = "8M";
const PAGE: &str = "hello from nginx\n";

/// netd with an address of each version; returns the one of version 6.
fn start(tapped: &mut Tapped) -> Result<(Radvd, String)> {
    let radvd = Radvd::start(&tapped.namespace, BRIDGE, "prefix fd77::/64 {};")?;
    tapped.start(STATIC, "")?;
    let mut found = String::new();
    tapped.wait("an address of version 6", |tapped| {
        let interface = tapped.interface()?;
        let addresses = interface["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let six = addresses
            .filter_map(|address| address.strip_suffix("/64"))
            .find(|address| address.starts_with("fd77:"));
        found = six.unwrap_or_default().to_owned();
        Ok(!found.is_empty())
    })?;
    Ok((radvd, found))
}

fn open(path: &std::path::Path) -> Result<File> {
    File::open(path).map_err(|source| Error::Io { action: format!("open {}", path.display()), source })
}

fn sha256(path: &std::path::Path) -> Result<String> {
    run(std::process::Command::new("sha256sum").arg(path))
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn page_of_nginx_comes_over_both_versions() -> Result<()> {
    scenario(&[], |tapped| {
        let (_radvd, _) = start(tapped)?;
        let nginx = Nginx::start(&tapped.namespace, 80)?;
        nginx.offer("hello.txt", PAGE.as_bytes())?;
        for server in [GATEWAY, GATEWAY6] {
            let request = format!("GET /hello.txt HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
            let page =
                converse(&mut tapped.netctl(&["connect", server, "80"]), request.as_bytes(), PAGE, LIMIT)?;
            ensure!(page.starts_with("HTTP/1.1 200"), "from {server} came:\n{page}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn curl_fetches_from_a_program_behind_netd_over_both_versions() -> Result<()> {
    scenario(&[], |tapped| {
        let (_radvd, six) = start(tapped)?;
        let response = tapped.path("response");
        let text =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}", PAGE.len());
        std::fs::write(&response, text)
            .map_err(|source| Error::Io { action: "write the response".to_owned(), source })?;
        for host in [ADDRESS.to_owned(), format!("[{six}]")] {
            let mut listen = tapped.netctl(&["listen", "8080"]);
            let mut listener =
                Background::spawn_from(&mut listen, open(&response)?, &tapped.path("listen.log"))?;
            tapped.wait("the listener", |tapped| {
                Ok(tapped.json(&["sockets", "-l"])?.to_string().contains("8080"))
            })?;
            let url = format!("http://{host}:8080/");
            let page =
                tapped.peer("curl", &["--silent", "--show-error", "--fail", "--max-time", "60", &url])?;
            ensure!(page == PAGE, "curl got {page:?} from {url}");
            let heard = listener.finish(LIMIT)?;
            ensure!(heard.contains("User-Agent: curl/"), "the program behind netd heard {heard:?}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn bulk_through_socat_has_the_digest_that_was_sent() -> Result<()> {
    scenario(&[], |tapped| {
        tapped.start(STATIC, "")?;
        let blob = tapped.path("blob");
        let sum = file_of(&blob, BULK_BYTES, 1)?;
        let source = format!("FILE:{}", blob.display());
        let mut server =
            Socat::listen(&tapped.namespace, 7001, &["-u", &source, "TCP-LISTEN:7001,reuseaddr"])?;
        // Its own side ends at once: a half-closed connection receives all the same.
        let received = tapped.path("received");
        let mut client = Background::spawn(&mut tapped.netctl(&["connect", GATEWAY, "7001"]), &received)?;
        client.wait(LIMIT)?;
        server.process.finish(LIMIT)?;
        let arrived = sha256(&received)?;
        ensure!(arrived.starts_with(&sum), "sent {sum}, received {arrived}");

        let mut sink =
            Socat::listen(&tapped.namespace, 7002, &["-u", "TCP-LISTEN:7002,reuseaddr", "CREATE:sink"])?;
        let mut client = tapped.netctl(&["connect", GATEWAY, "7002"]);
        let mut client = Background::spawn_from(&mut client, open(&blob)?, &tapped.path("sent.log"))?;
        client.finish(LIMIT)?;
        sink.process.finish(LIMIT)?;
        let arrived = sha256(&sink.file("sink"))?;
        ensure!(arrived.starts_with(&sum), "sent {sum}, received {arrived}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn datagrams_echoed_by_socat_come_back_over_both_versions() -> Result<()> {
    scenario(&[], |tapped| {
        let (_radvd, _) = start(tapped)?;
        let mut command = tapped.namespace.command("socat");
        command.args(["UDP6-RECVFROM:7003,fork,ipv6only=0", "EXEC:cat"]);
        let mut echo = Background::spawn(&mut command, &tapped.path("echo.log"))?;
        echo.wait_until_ready(LIMIT, |_| {
            Ok(tapped.peer("ss", &["-Hlun", "sport = :7003"])?.contains("7003"))
        })?;
        // The longer one travels in fragments.
        for text in ["hello".to_owned(), "fragment ".repeat(500)] {
            for server in [GATEWAY, GATEWAY6] {
                let back = run(&mut tapped.netctl(&["udp", "send", "-w", "60", server, "7003", &text]))?;
                ensure!(
                    back.contains(&text),
                    "of {} bytes to {server} came back {} bytes",
                    text.len(),
                    back.len()
                );
            }
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn iperf3_measures_through_netd_in_both_directions() -> Result<()> {
    let allowed = Allowed {
        remark: "Connection reset (RST)",
        on: "tcp.srcport == 5201",
        because: "iperf3's server closes a test's connection with bytes unread when the control connection says that it is over",
    };
    scenario(&[allowed], |tapped| {
        tapped.start(STATIC, "")?;
        let mut server = tapped.namespace.command("iperf3");
        server.args(["--server", "--bind", GATEWAY]);
        let mut server = Background::spawn(&mut server, &tapped.path("iperf3.log"))?;
        wait_for_listener(&tapped.namespace, &mut server, 5201)?;
        // iperf3 has no socket of netd's: socat gives it one for every connection that it makes.
        let connect = format!(
            "EXEC:{0} --socket {1} connect {GATEWAY} 5201",
            path(tapped, "netctl"),
            path(tapped, "netd.sock")
        );
        let mut relay = tapped.command("socat");
        relay.args(["-t", "60", "TCP-LISTEN:5202,bind=127.0.0.1,reuseaddr,fork", &connect]);
        let mut relay = Background::spawn(&mut relay, &tapped.path("relay.log"))?;
        wait_for_listener(&tapped.namespace, &mut relay, 5202)?;
        for direction in [&[][..], &["--reverse"]] {
            let mut arguments =
                vec!["--client", "127.0.0.1", "--port", "5202", "--bytes", BULK_TEXT, "--json"];
            arguments.extend(direction);
            let report: Value = serde_json::from_str(&tapped.peer("iperf3", &arguments)?)
                .map_err(|error| Error::Expectation(format!("iperf3's report: {error}")))?;
            let bytes = |end: &str| report["end"][end]["bytes"].as_u64().unwrap_or_default();
            // Its count of received bytes ends with the control connection, which overtakes what is still in socat's hands.
            let (sent, received) = (bytes("sum_sent"), bytes("sum_received"));
            ensure!(
                sent >= BULK_BYTES && received > 0,
                "iperf3 {direction:?}: {sent}, {received}\n{report:#}"
            );
        }
        Ok(())
    })
}

fn path(tapped: &Tapped, name: &str) -> String {
    tapped.path(name).display().to_string()
}
