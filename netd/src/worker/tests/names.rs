//! Connections by name: who gets one, to which of the addresses, and what it must begin with.

use std::fs;

use netd_stack::dns::Hosts;

use super::*;
use crate::audit::{Log, log};

/// The peer; an address that nobody answers for beside it; the same twice; one that is nobody's on this link.
const HOSTS: &str = "\
10.0.0.1 web.example
10.0.0.99 race.example
10.0.0.1 race.example
10.0.0.98 nobody.example
10.0.0.99 nobody.example
10.0.0.1 other.example
";

/// Names with TLS on 443 and none on 80; the peer's address may be what they answer with, and be dialled on port 81.
const BY_NAME: &str = r#"
    [network.devnet]
    enabled = true
    [device]
    kind = "software"
    link = { kind = "socket", path = "/unused" }
    [[grant]]
    subject = "any"
    allow = ["net.tcp.connect"]
    hosts = ["web.example", "race.example", "nobody.example", "*.slow.example"]
    ports = ["80", "443"]
    [[grant]]
    subject = "group:1000"
    allow = ["net.tcp.connect"]
    to = ["10.0.0.0/24"]
"#;

impl Lab {
    /// With names, and these rules.
    fn by_name(rules: &str) -> Lab {
        Lab::with(|setup, directory| {
            setup.dns.hosts = Hosts::parse(HOSTS);
            let policy = config::Config::parse(Path::new("test"), rules).unwrap().policy;
            setup.rules = Arc::new(Rules::new(policy, crate::limits::Limits::default()));
            let log = Log::open(log::Setup {
                target: log::Target::File {
                    path: directory.join("audit.jsonl"),
                    bytes_max: 1 << 20,
                    kept: 1,
                },
                checkpoint: directory.join("audit-head.json"),
                key: directory.join("audit-key"),
                applied: directory.join("audit-rules"),
            });
            setup.audit = Arc::new(Audit::new(Box::new(std::io::sink())).with_log(log.unwrap()));
        })
    }

    fn connect_name(&mut self, name: &str, port: u16) -> Reply {
        self.call(Command::ConnectName { name: name.parse().unwrap(), port, timeout: PATIENCE })
    }

    /// Has the peer take questions and answer none.
    fn silent_server(&self) {
        self.peer.stack.lock().unwrap().udp_bind(Some(53)).unwrap();
    }

    /// As `stream`, by name.
    fn named_stream(&mut self, name: &str, port: u16) -> (u64, UnixStream, FlowId) {
        let (listener, _) = self.peer.stack.lock().unwrap().tcp_listen(Some(port), 8).unwrap();
        let reply = self.connect_name(name, port);
        let Reply::Stream { id, remote, descriptor, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(remote, (PEER, port).into());
        let flow = self.peer.wait("the connection", |stack| stack.tcp_accept(listener).unwrap());
        let client = UnixStream::from(descriptor);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (id, client, flow)
    }

    /// The audit's lines with this event, once there is one.
    fn audited(&self, event: &str) -> Vec<serde_json::Value> {
        wait("the record", || {
            let text = fs::read_to_string(self.directory.path().join("audit.jsonl")).ok()?;
            let records =
                text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let found: Vec<_> = records.filter(|record| record["event"] == event).collect();
            (!found.is_empty()).then_some(found)
        })
    }

    /// What the peer has of a flow, and whether it was reset.
    fn heard_until_reset(&self, flow: FlowId) -> Vec<u8> {
        let mut heard = Vec::new();
        self.peer.wait("the reset", |stack| {
            heard.extend(received(stack, flow));
            stack.tcp_status(flow).map_or(Some(()), |status| status.closed.map(|_| ()))
        });
        heard
    }
}

/// A ClientHello in one record, with a server name and nothing else (RFC 8446, 4.1.2; RFC 6066, 3).
fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let names = sized(&[&[0][..], &sized(name.as_bytes())].concat());
    let extensions = sized(&[&[0, 0][..], &sized(&names)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &extensions].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

#[test]
fn hello_for_the_name_is_held_until_it_is_whole_and_then_everything_flows() {
    let mut lab = Lab::by_name(BY_NAME);
    let (id, mut client, flow) = lab.named_stream("web.example", 443);
    // Who speaks first is not heard first.
    send_all(&mut lab.peer.stack.lock().unwrap(), flow, b"220 ");
    let (first, rest) = (&hello("WEB.example")[..60], &hello("WEB.example")[60..]);
    for byte in first {
        client.write_all(&[*byte]).unwrap();
    }
    let (_, _other, _) = lab.stream(81);
    assert_eq!(lab.peer.stack.lock().unwrap().tcp_status(flow).unwrap().readable, 0);
    client.set_nonblocking(true).unwrap();
    assert!(client.read(&mut [0; 1]).is_err());
    client.set_nonblocking(false).unwrap();
    client.write_all(&[rest, b"early data"].concat()).unwrap();
    let whole = [&hello("WEB.example")[..], b"early data"].concat();
    let heard = lab.peer.wait("the hello", |stack| {
        (stack.tcp_status(flow).unwrap().readable == whole.len()).then(|| received(stack, flow))
    });
    assert_eq!(heard, whole);
    let mut greeting = [0; 4];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ");
    client.write_all(b"more").unwrap();
    lab.peer.wait("more", |stack| (received(stack, flow) == b"more").then_some(()));
    assert_eq!(lab.outcome(id).end, StreamEnd::Open);
}

#[test]
fn first_bytes_that_are_no_hello_for_the_name_are_cut_and_none_of_them_leaves() {
    let hidden = {
        let mut hello = hello("web.example");
        let at = hello.len() - 20;
        hello[at..at + 2].copy_from_slice(&[0xfe, 0x0d]);
        hello
    };
    for (sent, reason) in [
        (hello("other.example"), "its ClientHello asks for another server: 'other.example'"),
        (hello("web.example."), "the server name in its ClientHello ends with a dot"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "it does not begin with a TLS handshake"),
        (hidden, "its ClientHello may hide another one (extension 0xfe0d, encrypted ClientHello)"),
    ] {
        let mut lab = Lab::by_name(BY_NAME);
        let (id, mut client, flow) = lab.named_stream("web.example", 443);
        client.write_all(&sent).unwrap();
        assert_eq!(lab.heard_until_reset(flow), b"", "{reason}");
        assert_eq!(lab.wait_for_end(id).end, StreamEnd::PolicyDenied);
        wait("the hang-up", || hung_up(&client).then_some(()));
        let cut = &lab.audited("cut")[0];
        assert_eq!((&cut["reason"], &cut["target"]), (&reason.into(), &"web.example:443@10.0.0.1".into()));
        assert_eq!((&cut["error"], &cut["line"]), (&"PolicyDenied".into(), &7.into()));
        wait("an empty table", || lab.sockets().is_empty().then_some(()));
    }
}

#[test]
fn client_that_ends_within_its_hello_is_cut_and_one_that_says_nothing_ends_in_order() {
    let mut lab = Lab::by_name(BY_NAME);
    let (id, mut client, flow) = lab.named_stream("web.example", 443);
    client.write_all(&hello("web.example")[..30]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(lab.heard_until_reset(flow), b"");
    assert_eq!(lab.wait_for_end(id).end, StreamEnd::PolicyDenied);
    let mut lab = Lab::by_name(BY_NAME);
    let (_, client, flow) = lab.named_stream("web.example", 443);
    drop(client);
    lab.peer.wait("FIN", |stack| stack.tcp_status(flow).unwrap().receive_finished.then_some(()));
}

#[test]
fn port_without_the_demand_carries_anything_at_once() {
    let mut lab = Lab::by_name(BY_NAME);
    let (_, mut client, flow) = lab.named_stream("web.example", 80);
    client.write_all(b"GET /").unwrap();
    lab.peer.wait("GET /", |stack| (received(stack, flow) == b"GET /").then_some(()));
}

#[test]
fn name_without_a_grant_is_denied_and_so_are_addresses_that_only_names_allow() {
    let only_names =
        BY_NAME.replace("to = [\"10.0.0.0/24\"]", "to = [\"10.0.0.1/32\"]\n    ports = [\"81\"]");
    let mut lab = Lab::by_name(&only_names);
    let message = |reply: Reply| match reply {
        Reply::Failed(ErrorKind::PolicyDenied, message) => message,
        other => panic!("{other:?}"),
    };
    assert!(message(lab.connect_name("other.example", 443)).contains("no grant allows net.tcp.connect"));
    assert!(message(lab.connect(443)).contains("allows it, but only for other ports"));
    // The name is granted, and answers with an address that is not everybody's.
    let private = message(lab.connect_name("web.example", 443));
    assert!(private.contains("the name answers with a private address (RFC 1918)"), "{private}");
    let denied = wait("all records", || Some(lab.audited("denied")).filter(|denied| denied.len() == 3));
    let targets: Vec<_> = denied.iter().map(|record| record["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["other.example:443", "10.0.0.1:443", "web.example:443@10.0.0.1"]);
    assert!(lab.sockets().is_empty());
}

#[test]
fn addresses_are_raced_and_the_first_that_answers_is_the_only_one_left() {
    let mut lab = Lab::by_name(BY_NAME);
    let (_, mut client, flow) = lab.named_stream("race.example", 80);
    client.write_all(b"here").unwrap();
    lab.peer.wait("the bytes", |stack| (received(stack, flow) == b"here").then_some(()));
    let Reply::Clients(report) = lab.call(Command::Clients) else { panic!("no report") };
    assert_eq!(report.total.sockets.used, 1, "the attempt that lost is given back");
}

#[test]
fn addresses_that_all_fail_end_the_call_once_and_leave_nothing() {
    let mut lab = Lab::by_name(BY_NAME);
    let timeout = Duration::from_millis(600);
    let name = "nobody.example".parse().unwrap();
    let reply = lab.call(Command::ConnectName { name, port: 80, timeout });
    assert!(matches!(reply, Reply::Failed(ErrorKind::TimedOut | ErrorKind::Unreachable, _)), "{reply:?}");
    // The peer refuses.
    assert!(matches!(lab.connect_name("web.example", 80), Reply::Failed(ErrorKind::ConnectionRefused, _)));
    let Reply::Clients(report) = lab.call(Command::Clients) else { panic!("no report") };
    assert_eq!((report.total.sockets.used, report.total.memory_bytes.used), (0, 0));
    assert!(lab.port.completions().next().is_none());
}

#[test]
fn name_that_is_not_resolved_in_time_ends_the_call_and_its_question() {
    let mut lab = Lab::by_name(BY_NAME);
    lab.silent_server();
    let dial = |name: &str, timeout| Command::ConnectName { name: name.parse().unwrap(), port: 80, timeout };
    let reply = lab.call(dial("a.slow.example", Duration::from_millis(100)));
    let Reply::Failed(ErrorKind::TimedOut, message) = reply else { panic!("{reply:?}") };
    assert!(message.contains("was not resolved in time"), "{message}");
    let token = lab.submit(dial("b.slow.example", PATIENCE));
    let cancel = Submission { token, owner: OWNER, command: Command::Cancel, decided: None };
    assert!(lab.port.submit(cancel).is_ok());
    wait("no question under way", || {
        let Reply::Clients(report) = lab.call(Command::Clients) else { panic!("no report") };
        report.clients.iter().all(|client| client.names.used == 0).then_some(())
    });
}

#[test]
fn rules_without_the_names_grant_cut_its_streams_and_calls_and_no_others() {
    let mut lab = Lab::by_name(BY_NAME);
    lab.silent_server();
    let (named, _client, flow) = lab.named_stream("web.example", 443);
    let (raw, _raw, _) = lab.stream(81);
    let slow = "c.slow.example".parse().unwrap();
    let token = lab.submit(Command::ConnectName { name: slow, port: 80, timeout: PATIENCE });
    // It has begun by then.
    lab.sockets();
    let rules = BY_NAME.replace("\"web.example\", ", "").replace("\"*.slow.example\"", "\"d.slow.example\"");
    lab.rules.replace(
        config::Config::parse(Path::new("test"), &rules).unwrap().policy,
        crate::limits::Limits::default(),
    );
    lab.wake.wake().unwrap();
    assert_eq!(lab.wait_for_end(named).end, StreamEnd::Aborted);
    lab.peer.wait("the reset", |stack| stack.tcp_status(flow).unwrap().closed);
    assert!(matches!(lab.answer(token), Reply::Failed(ErrorKind::PolicyDenied, _)));
    assert_eq!(lab.outcome(raw).end, StreamEnd::Open);
    let cut = wait("both records", || Some(lab.audited("cut")).filter(|cut| cut.len() == 2));
    let mut targets: Vec<_> = cut.iter().map(|record| record["target"].as_str().unwrap()).collect();
    targets.sort_unstable();
    assert_eq!(targets, ["c.slow.example:80", "web.example:443@10.0.0.1"]);
}

#[test]
fn rules_that_demand_tls_of_what_began_without_cut_it_and_leave_what_was_shown() {
    let ports = "ports = [\"80\", \"443\"]";
    let demanding = BY_NAME.replace(ports, &format!("{ports}\n    tls = \"required\""));
    let mut lab = Lab::by_name(BY_NAME);
    let (shown, mut client, flow) = lab.named_stream("web.example", 443);
    client.write_all(&hello("web.example")).unwrap();
    lab.peer.wait("the hello", |stack| (!received(stack, flow).is_empty()).then_some(()));
    let (free, mut other, flow) = lab.named_stream("web.example", 80);
    other.write_all(b"anything").unwrap();
    lab.peer.wait("anything", |stack| (!received(stack, flow).is_empty()).then_some(()));
    let policy = config::Config::parse(Path::new("test"), &demanding).unwrap().policy;
    lab.rules.replace(policy, crate::limits::Limits::default());
    lab.wake.wake().unwrap();
    assert_eq!(lab.wait_for_end(free).end, StreamEnd::Aborted);
    assert_eq!(lab.outcome(shown).end, StreamEnd::Open);
}
