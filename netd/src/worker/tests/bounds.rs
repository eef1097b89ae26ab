//! What clients may have, and what a reload takes away.

use netd_policy::{Rule, Terms};

use super::*;
use crate::command::Decided;
use crate::limits::{ClientLimits, Limits};

impl Lab {
    /// Puts these rules in force, and waits until the worker has seen them.
    fn reload(&mut self, devnet_enabled: bool, limits: Limits) {
        self.reload_rules(&GRANTED.replace("enabled = true", &format!("enabled = {devnet_enabled}")), limits);
    }

    fn reload_rules(&mut self, text: &str, limits: Limits) {
        let policy = config::Config::parse(Path::new("test"), text).unwrap().policy;
        self.rules.replace(policy, limits);
        self.wake.wake().unwrap();
        wait("the reload", || {
            Some(self.clients()).filter(|report| report.total.sockets.limit == u64::from(limits.sockets))
        });
    }

    fn clients(&mut self) -> netd_ipc::Clients {
        match self.call(Command::Clients) {
            Reply::Clients(report) => report,
            other => panic!("{other:?}"),
        }
    }

    fn udp(&mut self) -> OwnedFd {
        match self.call(Command::BindUdp { address: None, port: None }) {
            Reply::Udp { descriptor, .. } => descriptor,
            other => panic!("{other:?}"),
        }
    }
}

fn limits(client: ClientLimits) -> Limits {
    // Another number than the default, so that the reload can be seen.
    Limits { sockets: 1000, client, ..Limits::default() }
}

fn refusal(reply: &Reply) -> (ErrorKind, &str) {
    match reply {
        Reply::Failed(kind, message) => (*kind, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn devnet_turned_off_cuts_outbound_streams_and_leaves_accepted_ones() {
    let mut lab = Lab::new();
    let (outbound, mut client, flow) = lab.stream(80);
    let Reply::Listener { descriptor: listener, .. } =
        lab.call(Command::Listen { address: None, port: Some(81), backlog: 1 })
    else {
        panic!("no listener")
    };
    let now = lab.peer.now();
    let inbound = lab.peer.stack.lock().unwrap().tcp_connect(now, (WORKER, 81).into()).unwrap();
    let (accepted, _accepted) = accept(&listener);
    lab.reload(false, limits(ClientLimits::default()));
    assert_eq!(lab.wait_for_end(outbound).end, StreamEnd::Aborted);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert!(hung_up(&client));
    lab.peer.wait("the reset", |stack| stack.tcp_status(flow).unwrap().closed);
    assert_eq!(lab.outcome(accepted.id).end, StreamEnd::Open);
    assert!(lab.peer.stack.lock().unwrap().tcp_status(inbound).unwrap().closed.is_none());
}

#[test]
fn rules_that_deny_what_is_open_cut_it_and_nothing_else() {
    let mut lab = Lab::new();
    let (outbound, _client, flow) = lab.stream(80);
    let (kept, _kept_client, _) = lab.stream(82);
    let Reply::Listener { descriptor: listener, .. } =
        lab.call(Command::Listen { address: None, port: Some(81), backlog: 1 })
    else {
        panic!("no listener")
    };
    let now = lab.peer.now();
    lab.peer.stack.lock().unwrap().tcp_connect(now, (WORKER, 81).into()).unwrap();
    let (accepted, _accepted) = accept(&listener);
    let udp = lab.udp();
    let denied = r#"
        [[deny]]
        subject = "any"
        deny = ["net.tcp.connect", "net.tcp.listen"]
        ports = ["80-81"]
        [[deny]]
        subject = "any"
        deny = ["net.udp.bind"]
    "#;
    lab.reload_rules(&format!("{GRANTED}{denied}"), limits(ClientLimits::default()));
    assert_eq!(lab.wait_for_end(outbound).end, StreamEnd::Aborted);
    assert_eq!(lab.wait_for_end(accepted.id).end, StreamEnd::Aborted);
    // A thread of their own closes them.
    wait("the end of both descriptors", || (hung_up(&listener) && hung_up(&udp)).then_some(()));
    assert_eq!(lab.outcome(kept).end, StreamEnd::Open);
    lab.peer.wait("the reset", |stack| stack.tcp_status(flow).unwrap().closed);
    assert_eq!(lab.clients().total.sockets.used, 1);
}

/// By rules that deny it, so that whether they are asked can be told.
#[test]
fn connect_that_was_decided_by_older_rules_is_decided_again_and_no_other() {
    let mut lab = Lab::with(|setup, _| {
        let off = GRANTED.replace("enabled = true", "enabled = false");
        let policy = config::Config::parse(Path::new("test"), &off).unwrap().policy;
        setup.rules = Arc::new(Rules::new(policy, Limits::default()));
    });
    let now = lab.rules.generation();
    let (remote, timeout) = (SocketAddr::from((PEER, 80)), PATIENCE);
    let mut connect = |generation: u64| {
        let decided = Some(Decided { generation, rule: Rule::Default, terms: Terms::Free });
        let (token, command) = (lab.next_token + 1, Command::Connect { remote, timeout });
        lab.next_token = token;
        assert!(lab.port.submit(Submission { token, owner: OWNER, command, decided }).is_ok());
        refusal(&lab.answer(token)).0
    };
    // Nobody listens there: it was sent.
    assert_eq!(connect(now), ErrorKind::ConnectionRefused);
    assert_eq!(connect(now + 1), ErrorKind::DevnetDisabled);
}

#[test]
fn devnet_turned_off_ends_connects_under_way_and_stops_datagrams_that_were_permitted() {
    let mut lab = Lab::new();
    let udp = lab.udp();
    let message = [&Header::data((PEER, 7).into()).encode()[..], b"x"].concat();
    send(&udp, &message);
    // To an address that nobody has, so that it stays under way.
    let remote = SocketAddr::from(([10, 0, 0, 77], 80));
    let token = lab.submit(Command::Connect { remote, timeout: PATIENCE });
    lab.reload(false, limits(ClientLimits::default()));
    assert_eq!(refusal(&lab.answer(token)).0, ErrorKind::DevnetDisabled);
    send(&udp, &message);
    let mut buffer = [0; 100];
    let denied = wait("the denial", || {
        let (_, count) = recv(&udp, &mut buffer, RecvFlags::empty()).unwrap();
        Header::decode(&buffer[..count])
            .ok()
            .map(|(header, _)| header.kind)
            .filter(|kind| *kind != Kind::Data)
    });
    // The peer has nobody at port 7: that error may come first.
    let denied = match denied {
        Kind::Error(code::PORT_UNREACHABLE) => {
            let (_, count) = recv(&udp, &mut buffer, RecvFlags::empty()).unwrap();
            Header::decode(&buffer[..count]).unwrap().0.kind
        }
        denied => denied,
    };
    assert_eq!(denied, Kind::Error(code::DEVNET_DISABLED));
}

fn send(socket: &OwnedFd, message: &[u8]) {
    assert_eq!(rustix::net::send(socket, message, SendFlags::empty()).unwrap(), message.len());
}

#[test]
fn sockets_beyond_the_users_share_are_refused_by_name_and_room_returns() {
    let mut lab = Lab::new();
    lab.reload(true, limits(ClientLimits { sockets: 2, ..ClientLimits::default() }));
    let (first, _second) = (lab.udp(), lab.udp());
    let reply = lab.call(Command::BindUdp { address: None, port: None });
    let (kind, message) = refusal(&reply);
    assert_eq!(kind, ErrorKind::QuotaExceeded);
    assert_eq!(message, "user 1000 has 2 sockets, the most that '[limits.client] sockets' allows");
    let reply = lab.connect(80);
    assert_eq!(refusal(&reply).0, ErrorKind::QuotaExceeded);
    let report = lab.clients();
    assert_eq!((report.clients[0].sockets.used, report.clients[0].sockets.refused), (2, 2));
    drop(first);
    wait("room", || match lab.call(Command::BindUdp { address: None, port: None }) {
        Reply::Udp { descriptor, .. } => Some(descriptor),
        _ => None,
    });
}

#[test]
fn connect_that_fails_gives_back_what_it_was_charged() {
    let mut lab = Lab::new();
    for _ in 0..3 {
        assert_eq!(refusal(&lab.connect(9)).0, ErrorKind::ConnectionRefused);
    }
    let report = lab.clients();
    assert_eq!((report.total.sockets.used, report.total.memory_bytes.used), (0, 0));
    assert!(report.clients[0].connects_per_second.used <= 3);
}

#[test]
fn connects_faster_than_the_rate_are_refused_by_name() {
    let mut lab = Lab::new();
    lab.reload(true, limits(ClientLimits { connects_per_second: 1, ..ClientLimits::default() }));
    let replies: Vec<Reply> = (0..3).map(|_| lab.connect(9)).collect();
    let refused =
        replies.iter().find(|reply| refusal(reply).0 == ErrorKind::QuotaExceeded).expect("a refusal");
    assert!(refusal(refused).1.contains("connects_per_second"), "{refused:?}");
}

#[test]
fn datagrams_faster_than_the_rate_wait_and_none_is_lost() {
    let mut lab = Lab::new();
    let (udp, _) = lab.peer.stack.lock().unwrap().udp_bind(Some(7)).unwrap();
    lab.reload(true, limits(ClientLimits { packets_per_second: 10, ..ClientLimits::default() }));
    let socket = lab.udp();
    let message = [&Header::data((PEER, 7).into()).encode()[..], b"x"].concat();
    let begun = Clock::now();
    (0..16).for_each(|_| send(&socket, &message));
    let mut count = 0;
    lab.peer.wait("all datagrams", |stack| {
        while stack.udp_receive(udp, |_, _| true).unwrap() {
            count += 1;
        }
        (count == 16).then_some(())
    });
    // Ten at once, and six at ten per second. No more at once than may wait for the peer's hardware address.
    assert!(begun.elapsed() >= Duration::from_millis(550), "{:?}", begun.elapsed());
    assert!(lab.clients().clients[0].packets_per_second.refused > 0);
}

#[test]
fn accepted_connections_beyond_the_share_wait_in_the_backlog_until_there_is_room() {
    let mut lab = Lab::new();
    lab.reload(true, limits(ClientLimits { sockets: 2, ..ClientLimits::default() }));
    let Reply::Listener { descriptor: listener, .. } =
        lab.call(Command::Listen { address: None, port: Some(80), backlog: 8 })
    else {
        panic!("no listener")
    };
    let now = lab.peer.now();
    for _ in 0..3 {
        lab.peer.stack.lock().unwrap().tcp_connect(now, (WORKER, 80).into()).unwrap();
    }
    for _ in 0..3 {
        // Each is dropped before the next can come: there is room for one beside the listener.
        accept(&listener);
    }
}

#[test]
fn statistics_count_payload_and_what_was_copied_for_it() {
    let mut lab = Lab::new();
    let (_, mut client, flow) = lab.stream(80);
    client.write_all(&[1; 5000]).unwrap();
    let mut heard = 0;
    lab.peer.wait("the bytes", |stack| {
        heard += received(stack, flow).len();
        (heard == 5000).then_some(())
    });
    let Reply::Statistics(statistics) = lab.call(Command::Statistics) else { panic!("no statistics") };
    let sent = statistics.sent;
    assert_eq!((sent.carried_bytes, sent.kernel_copied_bytes), (5000, 5000));
    // Once, with headers; nothing is lost on this wire.
    assert!((5000..6000).contains(&sent.user_copied_bytes), "{sent:?}");
}

#[test]
fn capture_shows_frames_both_ways_and_ends_with_its_descriptor() {
    let mut lab = Lab::new();
    let filter = crate::capture::Filter::parse("icmp").unwrap();
    let command = Command::Capture { filter, snap_bytes: 1000 };
    let Reply::Capture(descriptor) = lab.call(command.clone()) else { panic!("no capture") };
    assert_eq!(refusal(&lab.call(command)).0, ErrorKind::QuotaExceeded);
    lab.call(Command::Ping { to: PEER.into(), timeout: PATIENCE, bytes: 8 });
    let mut stream = UnixStream::from(descriptor);
    let mut packets = 0;
    while packets < 2 {
        let mut head = [0; 8];
        stream.read_exact(&mut head).unwrap();
        let [kind, len] = [0, 4].map(|at| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap()));
        stream.read_exact(&mut vec![0; len as usize - 8]).unwrap();
        packets += u32::from(kind == 6);
    }
    drop(stream);
    wait("the end of the capture", || (lab.clients().total.captures.used == 0).then_some(()));
}

#[test]
fn name_is_asked_of_the_server_and_its_answer_told() {
    let mut lab = Lab::new();
    let (server, _) = lab.peer.stack.lock().unwrap().udp_bind(Some(53)).unwrap();
    let token = lab.submit(Command::Resolve { name: "a.example.".into(), kind: netd_ipc::RecordKind::A });
    let (asker, query) = lab.peer.wait("the question", |stack| {
        let mut asked = None;
        let take = |meta: netd_stack::UdpMeta, bytes: &[u8]| {
            asked = Some((meta.from, bytes.to_vec()));
            true
        };
        stack.udp_receive(server, take).unwrap();
        asked
    });
    // The question as it was asked (RFC 1035, 4.1), no additional records, and one answer: A 192.0.2.9 for a minute.
    let question_end = 12 + 1 + 1 + 1 + 7 + 1 + 4;
    let mut answer = query[..question_end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
    let now = lab.peer.now();
    lab.peer.stack.lock().unwrap().udp_send(now, server, asker, None, &answer, &mut lab.peer.wire()).unwrap();
    let Reply::Resolved(resolved) = lab.answer(token) else { panic!("not resolved") };
    assert_eq!(resolved.addresses, ["192.0.2.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((resolved.source.as_str(), resolved.ttl_seconds), ("10.0.0.1", 60));
}

#[test]
fn names_that_nobody_answers_for_are_bounded_by_user() {
    let mut lab = Lab::new();
    let resolve =
        |number| Command::Resolve { name: format!("a{number}.example."), kind: netd_ipc::RecordKind::A };
    let tokens: Vec<u64> = (0..17).map(|number| lab.submit(resolve(number))).collect();
    let reply = lab.answer(tokens[16]);
    assert_eq!(refusal(&reply).0, ErrorKind::QuotaExceeded);
}
