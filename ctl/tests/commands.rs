//! netctl as a program, against a daemon that the test plays.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, and these helpers have none")]

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use netd_ipc::accepted::Accepted;
use netd_ipc::framing::{Decoder, encode};
use netd_ipc::passing;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use serde_json::{Value, json};

type Script = dyn Fn(&str) -> (Value, Vec<OwnedFd>) + Send + Sync;

/// A daemon that answers each method as the script says, for as long as the test runs.
fn daemon(script: impl Fn(&str) -> (Value, Vec<OwnedFd>) + Send + Sync + 'static) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    let script: Arc<Script> = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || serve(&stream.unwrap(), &*script));
        }
    });
    directory
}

fn serve(mut stream: &UnixStream, script: &Script) {
    let mut decoder = Decoder::new(1000);
    let mut bytes = [0; 200];
    loop {
        let Some(request) = decoder.take().unwrap() else {
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(count) => decoder.push(&bytes[..count]),
            }
            continue;
        };
        let request: Value = serde_json::from_slice(&request).unwrap();
        let (reply, descriptors) =
            script(request["method"].as_str().unwrap().strip_prefix("io.netd.").unwrap());
        let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
        passing::send(stream, &[IoSlice::new(&encode(&reply).unwrap())], &borrowed, SendFlags::empty())
            .unwrap();
    }
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn fails(name: &str, message: &str) -> (Value, Vec<OwnedFd>) {
    (json!({ "error": format!("io.netd.{name}"), "parameters": { "message": message } }), vec![])
}

fn outcome(end: &str, receive_finished: bool) -> (Value, Vec<OwnedFd>) {
    (json!({ "parameters": { "end": end, "receive_finished": receive_finished } }), vec![])
}

fn stream_reply() -> Value {
    let local = json!({ "address": "192.0.2.5", "port": 50_000 });
    let remote = json!({ "address": "192.0.2.1", "port": 80 });
    json!({ "parameters": { "id": 7, "local": local, "remote": remote, "rule": "a.toml:1 (grant, any)", "tls": "required", "descriptor": 0 } })
}

/// Runs netctl to its end, with this as standard input.
fn netctl(daemon: &tempfile::TempDir, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_netctl"))
        .args(arguments)
        .env("NETD_SOCKET", daemon.path().join("s"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends early does not read it all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn status(devnet_enabled: bool) -> Value {
    json!({ "parameters": { "status": {
        "version": "0.1.0", "pid": 42, "uptime_seconds": 7500, "devnet_enabled": devnet_enabled, "rules_generation": 0, "device": "ready",
        "link_up": true, "address_source": "dhcp", "addresses": ["192.0.2.5/24"], "gateway": "192.0.2.1", "sockets": 1,
        "received": { "frames": 3, "bytes": 2048 }, "sent": { "frames": 1, "bytes": 60 },
        "counters": { "drop_checksum": 2, "drop_short": 0 },
        "clock": { "trusted": true, "by": "kernel", "reason": "it is synchronised" },
    } } })
}

#[test]
fn status_prints_units_for_people_and_the_interfaces_types_as_json() {
    let daemon = daemon(|_| (status(true), vec![]));
    let shown = netctl(&daemon, &["status"], b"");
    let shown = text(&shown.stdout);
    for part in ["192.0.2.5/24 (dhcp)", "up 2 h 5 min", "3 frames, 2.0 KiB", "drop_checksum"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.contains("drop_short"), "{shown}");
    let json = netctl(&daemon, &["--json", "status"], b"");
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap(), status(true)["parameters"]["status"]);
}

#[test]
fn any_command_without_a_daemon_says_what_was_tried_and_exits_with_3() {
    let nobody = tempfile::tempdir().unwrap();
    let output = netctl(&nobody, &["status"], b"");
    assert_eq!(output.status.code(), Some(3));
    let message = text(&output.stderr);
    assert!(message.contains("no netd answers at") && message.contains("netd run --config"), "{message}");
}

#[test]
fn connect_denied_names_the_rule_and_exits_with_4() {
    let daemon = daemon(|_| fails("PolicyDenied", "no grant allows net.tcp.connect"));
    let output = netctl(&daemon, &["connect", "192.0.2.1", "80"], b"");
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(text(&output.stderr), "netctl: PolicyDenied: no grant allows net.tcp.connect\n");
    let output = netctl(&daemon, &["connect", "192.0.2.1", "80", "--json"], b"");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"], "PolicyDenied");
}

/// One stream, whose other end runs `peer`; afterwards its outcome is this.
fn one_stream(
    end: &'static str,
    receive_finished: bool,
    peer: impl FnOnce(OwnedFd) + Send + 'static,
) -> tempfile::TempDir {
    let peer = Mutex::new(Some(peer));
    daemon(move |method| match method {
        "Connect" => {
            let (ours, theirs) = pair(SocketType::STREAM);
            let peer = peer.lock().unwrap().take().unwrap();
            std::thread::spawn(move || peer(ours));
            (stream_reply(), vec![theirs])
        }
        _ => outcome(end, receive_finished),
    })
}

fn read_to_end(socket: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        match rustix::io::read(socket, &mut bytes).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&bytes[..count]),
        }
    }
}

fn write_all(socket: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = rustix::io::write(socket, bytes).unwrap();
        bytes = &bytes[count..];
    }
}

#[test]
fn connect_carries_both_ways_half_closes_and_ends_well() {
    let daemon = one_stream("finished", true, |socket| {
        let request = read_to_end(&socket);
        write_all(&socket, &[b"you said: ", &request[..]].concat());
        shutdown(&socket, Shutdown::Write).unwrap();
    });
    let input = vec![b'x'; 1 << 20];
    let output = netctl(&daemon, &["connect", "192.0.2.1", "80", "--json"], &input);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(output.stdout, [b"you said: ", &input[..]].concat());
    let report: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&report["sent_bytes"], &report["complete"]), (&json!(1 << 20), &json!(true)));
}

#[test]
fn connect_cut_short_prints_what_came_and_fails() {
    let daemon = one_stream("connection_reset", false, |socket| {
        read_to_end(&socket);
        write_all(&socket, b"half an ans");
    });
    let output = netctl(&daemon, &["connect", "192.0.2.1", "80"], b"question");
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("half an ans", Some(1)));
    assert!(text(&output.stderr).contains("may be incomplete"), "{}", text(&output.stderr));
}

#[test]
fn connect_whose_data_never_arrived_fails_although_the_answer_is_whole() {
    let daemon = one_stream("timed_out", true, |socket| {
        shutdown(&socket, Shutdown::Write).unwrap();
        read_to_end(&socket);
    });
    let output = netctl(&daemon, &["connect", "192.0.2.1", "80"], b"data");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("stopped answering"), "{}", text(&output.stderr));
}

#[test]
fn connect_told_to_says_which_address_it_is_and_which_rule_allows_it() {
    let daemon = one_stream("finished", true, |socket| {
        shutdown(&socket, Shutdown::Write).unwrap();
        read_to_end(&socket);
    });
    let output = netctl(&daemon, &["connect", "-v", "www.example.org", "80"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = "connected to 192.0.2.1:80, by a.toml:1 (grant, any), must begin with TLS for that name\n";
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn connect_goes_on_sending_after_the_peer_finished() {
    let (report, received) = std::sync::mpsc::channel();
    let daemon = one_stream("finished", true, move |socket| {
        shutdown(&socket, Shutdown::Write).unwrap();
        report.send(read_to_end(&socket)).unwrap();
    });
    let input = vec![7; 3 << 20];
    assert!(netctl(&daemon, &["connect", "192.0.2.1", "80"], &input).status.success());
    assert_eq!(received.recv().unwrap(), input);
}

#[test]
fn listen_serves_the_stream_that_is_accepted() {
    let keep = Mutex::new(None);
    let daemon = daemon(move |method| match method {
        "Listen" => {
            let (ours, theirs) = pair(SocketType::SEQPACKET);
            let (stream, accepted) = pair(SocketType::STREAM);
            let record = Accepted {
                id: 9,
                remote: "192.0.2.7:1234".parse().unwrap(),
                local: "192.0.2.1:8080".parse().unwrap(),
            }
            .encode();
            passing::send(&ours, &[IoSlice::new(&record)], &[accepted.as_fd()], SendFlags::empty()).unwrap();
            *keep.lock().unwrap() = Some(ours);
            std::thread::spawn(move || {
                write_all(&stream, b"hello");
                shutdown(&stream, Shutdown::Write).unwrap();
                read_to_end(&stream)
            });
            let local = json!({ "address": "192.0.2.5", "port": 8080 });
            (json!({ "parameters": { "id": 1, "local": local, "descriptor": 0 } }), vec![theirs])
        }
        _ => outcome("finished", true),
    });
    let output = netctl(&daemon, &["listen", "8080"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "hello");
}

#[test]
fn ping_unanswered_fails_and_answered_prints_the_time() {
    let silent = daemon(|_| fails("TimedOut", "no answer within 1 s"));
    let output = netctl(&silent, &["ping", "192.0.2.1", "-c", "2", "-i", "0.01"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("2 sent, 0 received"), "{}", text(&output.stdout));
    let lively = daemon(|_| {
        (json!({ "parameters": { "from": "192.0.2.1", "rtt_us": 1234, "ttl": 64, "bytes": 56 } }), vec![])
    });
    let output = netctl(&lively, &["ping", "192.0.2.1", "-c", "1"], b"");
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("56 bytes from 192.0.2.1: seq=1 ttl=64 time=1.234 ms"));
}

#[test]
fn selftest_with_devnet_off_passes_the_denial_and_claims_nothing_else() {
    let daemon = daemon(|method| match method {
        "GetStatus" => (status(false), vec![]),
        "ListInterfaces" => (
            json!({ "parameters": { "interfaces": [{
                "name": "net0", "mac": "02:00:00:00:00:01", "mtu": 1500, "link_up": true, "link_changes": 0,
                "address_source": "dhcp", "address_details": [], "events": [],
                "addresses": ["192.0.2.5/24"], "gateway": "192.0.2.1", "routes": [], "dns": [], "ntp": [],
                "hostname": null, "domain": null, "search": [], "dhcp_server": null, "lease_seconds": null,
                "renew_in_seconds": null, "rebind_in_seconds": null, "expires_in_seconds": null,
            }] } }),
            vec![],
        ),
        _ => fails("DevnetDisabled", "the devnet switch is off"),
    });
    let output = netctl(&daemon, &["selftest"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    for line in ["SELFTEST: net iface ok", "SELFTEST: net dev off deny ok"] {
        assert!(lines.contains(&line), "{shown}");
    }
    for start in ["ping", "udp dns", "tcp listen", "https"] {
        assert!(
            lines.iter().any(|line| line.starts_with(&format!("SELFTEST: net {start} placeholder: "))),
            "{shown}"
        );
    }
}

fn resolved(address: &str) -> (Value, Vec<OwnedFd>) {
    let parameters = json!({
        "name": "www.example.", "aliases": [], "addresses": [address], "names": [], "services": [], "texts": [], "strings": [],
        "ttl_seconds": 60, "source": "cache", "incomplete": false,
    });
    (json!({ "parameters": parameters }), vec![])
}

#[test]
fn ping_and_resolve_take_names() {
    let daemon = daemon(|method| match method {
        "Resolve" => resolved("192.0.2.1"),
        _ => (json!({ "parameters": { "from": "192.0.2.1", "rtt_us": 1, "ttl": 64, "bytes": 56 } }), vec![]),
    });
    let output = netctl(&daemon, &["ping", "www.example", "-c", "1"], b"");
    assert!(text(&output.stdout).contains("from 192.0.2.1"), "{}", text(&output.stderr));
    let output = netctl(&daemon, &["resolve", "www.example"], b"");
    assert!(text(&output.stdout).starts_with("192.0.2.1\n# www.example. from cache"));
}

#[test]
fn capture_to_standard_output_passes_the_stream_on_as_it_is() {
    let stream = [&6u32.to_ne_bytes()[..], &16u32.to_ne_bytes(), b"body", &16u32.to_ne_bytes()].concat();
    let expected = stream.clone();
    let daemon = daemon(move |_| {
        let (ours, theirs) = pair(SocketType::STREAM);
        write_all(&ours, &stream);
        (json!({ "parameters": { "descriptor": 0 } }), vec![theirs])
    });
    let output = netctl(&daemon, &["capture", "-w", "-", "tcp", "port", "80"], b"");
    assert_eq!((output.stdout, output.status.code()), (expected, Some(0)));
}

/// netctl with nobody to talk to.
fn alone(arguments: &[&str]) -> Output {
    let nobody = tempfile::tempdir().unwrap();
    netctl(&nobody, arguments, b"")
}

const RULES: &str = "\
[[grant]]
subject = \"user:root\"
allow = [\"net.tcp.connect\"]
ports = [\"443\"]
to = [\"192.0.2.0/24\"]

[[deny]]
subject = \"any\"
deny = [\"net.tcp.connect\"]
to = [\"192.0.2.7/32\"]
";

#[test]
fn policy_check_counts_rules_and_reports_every_wrong_file_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.toml"), RULES).unwrap();
    let path = directory.path().to_str().unwrap();
    let output = alone(&["policy", "check", path]);
    assert_eq!(text(&output.stdout), "1 files with 2 rules: fine\n", "{}", text(&output.stderr));
    for name in ["b.toml", "c.toml"] {
        std::fs::write(directory.path().join(name), "\n[[grant]]\nsubject = \"me\"\nallow = []\n").unwrap();
    }
    std::fs::write(directory.path().join("d.toml"), "[network.devnet]\nenabled = true\n").unwrap();
    let output = alone(&["policy", "check", path]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for part in ["b.toml:3:", "c.toml:3:", "'me' is not a subject", "d.toml:1:2", "netd check --config"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn policy_explain_of_files_names_the_rule_and_exits_as_the_decision() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    std::fs::write(&file, RULES).unwrap();
    let file = file.to_str().unwrap();
    let explain = |target: &str, more: &[&str]| {
        let arguments = ["policy", "explain", "user:root", "net.tcp.connect", target, "--files", file];
        alone(&[&arguments[..], more].concat())
    };
    let allowed = explain("192.0.2.1:443", &["--json"]);
    let value: Value = serde_json::from_slice(&allowed.stdout).unwrap();
    assert_eq!((&value["decision"]["allowed"], &value["decision"]["line"]), (&json!(true), &json!(1)));
    assert_eq!(allowed.status.code(), Some(0));
    let denied = explain("192.0.2.7:443", &[]);
    assert!(text(&denied.stdout).contains("a.toml:7 (deny, any)"), "{}", text(&denied.stdout));
    assert_eq!(denied.status.code(), Some(4));
    let off = explain("192.0.2.1:443", &["--devnet-off"]);
    assert!(text(&off.stdout).contains("with devnet on"), "{}", text(&off.stdout));
    assert_eq!((explain("nowhere", &[]).status.code(), off.status.code()), (Some(1), Some(4)));
}

#[test]
fn policy_test_says_which_expectations_do_not_hold() {
    let directory = tempfile::tempdir().unwrap();
    let (rules, expectations) = (directory.path().join("a.toml"), directory.path().join("expect.toml"));
    std::fs::write(&rules, RULES).unwrap();
    let expect = |target: &str, decision: &str, more: &str| {
        format!(
            "[[expect]]\nsubject = \"user:root\"\ncapability = \"net.tcp.connect\"\ntarget = \"{target}\"\n\
             decision = \"{decision}\"\n{more}\n"
        )
    };
    let good = expect("192.0.2.1:443", "allow", "rule = \"a.toml:1\"") + &expect("192.0.2.1:80", "deny", "");
    let test = |text: &str| {
        std::fs::write(&expectations, text).unwrap();
        alone(&["policy", "test", expectations.to_str().unwrap(), "--files", rules.to_str().unwrap()])
    };
    let output = test(&good);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("2 expectations hold\n", Some(0)));
    let output = test(
        &(good
            + &expect("192.0.2.7:443", "allow", "")
            + &expect("192.0.2.1:443", "allow", "rule = \"b.toml:1\"")),
    );
    let said = text(&output.stdout);
    for part in [
        "expect.toml:13: expected allow, but TCP connection to 192.0.2.7:443: denied",
        "2 of 4",
        "expected rule b.toml:1",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn policy_learn_prints_the_smallest_grant_for_what_was_denied() {
    let decision = json!({
        "allowed": false, "error": "PolicyDenied", "reason": "no grant", "rule": "deny by default", "file": null, "line": null,
    });
    let daemon = daemon(move |_| {
        let denied = json!({
            "uid": 0, "unit": null, "capability": "net.udp.send", "target": "192.0.2.1:53", "count": 3, "decision": decision,
        });
        (json!({ "parameters": { "denials": [denied], "next": 4 } }), vec![])
    });
    let output = netctl(&daemon, &["policy", "learn", "user:root"], b"");
    let expected = "[[grant]]\nsubject = \"user:root\"\nallow = [\"net.udp.send\"]\nports = [\"53\"]\nto = [\"192.0.2.1/32\"]\n";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("recording what user:root is denied"));
}

#[test]
fn audit_verify_takes_an_untouched_log_and_tells_an_edited_and_a_cut_one() {
    use netd_policy::audit::{Checkpoint, Head, KEY_BYTES, Key};
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (key, mut head) = (Key::new([1; KEY_BYTES]), Head::NONE);
    let lines: Vec<String> =
        (0..4).map(|n| head.append(&key, &json!({ "event": "denied", "uid": n })).unwrap() + "\n").collect();
    std::fs::write(path("key"), key.to_hex()).unwrap();
    std::fs::write(path("head"), Checkpoint { first: 1, head }.to_text(&key)).unwrap();
    let verify = |older: &[String], current: &[String]| {
        std::fs::write(path("log.1"), older.concat()).unwrap();
        std::fs::write(path("log"), current.concat()).unwrap();
        let [log, head, key] = ["log", "head", "key"].map(|name| path(name).to_str().unwrap().to_owned());
        alone(&["audit", "verify", "--file", &log, "--checkpoint", &head, "--key", &key])
    };
    let output = verify(&lines[..2], &lines[2..]);
    assert!(text(&output.stdout).starts_with("4 records, 1 to 4: all"), "{}", text(&output.stderr));
    let output = verify(&lines[..2], &lines[2..3]);
    assert!(text(&output.stderr).contains("its end was cut off"), "{}", text(&output.stderr));
    let edited = [lines[2].clone(), lines[3].replace("denied", "nothing")];
    let output = verify(&lines[..2], &edited);
    assert!(text(&output.stderr).contains("line 4 was edited"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    let output = alone(&["audit", "tail", "-n", "1", "--file", path("log").to_str().unwrap()]);
    assert_eq!(text(&output.stdout), "nothing uid=3\n");
}

#[test]
fn udp_send_reports_a_refusal_that_comes_back() {
    let keep = Mutex::new(None);
    let daemon = daemon(move |_| {
        let (ours, theirs) = pair(SocketType::SEQPACKET);
        let peer = "192.0.2.1:9".parse().unwrap();
        let refusal =
            netd_ipc::datagram::Header::error(peer, netd_ipc::datagram::code::PORT_UNREACHABLE).encode();
        passing::send(&ours, &[IoSlice::new(&refusal)], &[], SendFlags::empty()).unwrap();
        *keep.lock().unwrap() = Some(ours);
        let local = json!({ "address": "192.0.2.5", "port": 50_000 });
        (json!({ "parameters": { "id": 1, "local": local, "descriptor": 0 } }), vec![theirs])
    });
    let output = netctl(&daemon, &["udp", "send", "192.0.2.1", "9", "hello"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("ConnectionRefused"), "{}", text(&output.stderr));
}
