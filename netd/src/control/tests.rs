//! The control thread with a worker that the test plays.

mod policy;

use std::collections::HashSet;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netd_ipc::{Client, Error as ClientError, ErrorKind, Outcome, Pong, StreamEnd, passing};
use netd_policy::Policy;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};

use super::*;
use crate::audit::Audit;
use crate::command::{Command, Completion, QueueFull, Reply, Submission, WorkerPort};
use crate::limits::Limits;
use crate::log::LogLevel;
use crate::rules::Rules;

/// Long enough for a loaded machine; a test that succeeds does not wait for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Port {
    submissions: SyncSender<Submission>,
    completions: Receiver<Completion>,
}

impl WorkerPort for Port {
    fn submit(&self, submission: Submission) -> Result<(), QueueFull> {
        self.submissions.try_send(submission).map_err(|_| QueueFull)
    }

    fn wake(&self) {}

    fn completions(&self) -> impl Iterator<Item = Completion> {
        self.completions.try_iter()
    }
}

/// A running control thread, and the worker's side of its port.
struct Control {
    path: PathBuf,
    submissions: Receiver<Submission>,
    completions: Sender<Completion>,
    waker: Arc<mio::Waker>,
    shutdown: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Error>>>,
    rules: Arc<Rules>,
    console: Arc<Mutex<Vec<u8>>>,
    _directory: tempfile::TempDir,
}

#[derive(Clone)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const GRANTED: &str = r#"
[[grant]]
subject = "any"
allow = ["net.tcp.connect", "net.icmp.ping"]
to = ["192.0.2.0/24"]
[[grant]]
subject = "any"
allow = ["net.tcp.listen", "net.udp.bind", "net.dns.resolve", "net.raw", "net.capture"]
"#;

fn policy_of(devnet_enabled: bool, rules: &str) -> Policy {
    let rules = netd_policy::file::parse("test", rules).unwrap();
    Policy::new(devnet_enabled, rules, |_| None, |_| None).unwrap()
}

impl Control {
    fn start(devnet_enabled: bool) -> Control {
        Control::with_rules(devnet_enabled, GRANTED)
    }

    fn with_rules(devnet_enabled: bool, rules: &str) -> Control {
        Control::with(policy_of(devnet_enabled, rules))
    }

    fn with(policy: Policy) -> Control {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        let listener = netd_ipc::server::listen(&path, 0o600).unwrap();
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER).unwrap());
        let shutdown = Arc::new(AtomicBool::new(false));
        let console = Arc::new(Mutex::new(Vec::new()));
        let (submit, submissions) = sync_channel(8);
        let (completions, complete) = channel();
        let port = Port { submissions: submit, completions: complete };
        let audit = Arc::new(Audit::new(Box::new(Console(Arc::clone(&console)))));
        let (flag, wake) = (Arc::clone(&shutdown), Arc::clone(&waker));
        let rules = Arc::new(Rules::new(
            policy
                .with_operator(rustix::process::geteuid().as_raw())
                .with_representative(rustix::process::geteuid().as_raw()),
            Limits::default(),
        ));
        let in_force = Arc::clone(&rules);
        let setup = Setup { listener, rules: in_force, audit, log: LogLevel::none(), poll, waker: wake };
        let thread = std::thread::spawn(move || run(setup, port, &flag));
        let thread = Some(thread);
        Control {
            path,
            submissions,
            completions,
            waker,
            shutdown,
            thread,
            rules,
            console,
            _directory: directory,
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn next(&self) -> Submission {
        self.submissions.recv_timeout(PATIENCE).expect("a submission")
    }

    fn complete(&self, token: u64, reply: Reply) {
        self.completions.send(Completion { token, reply }).unwrap();
        self.waker.wake().unwrap();
    }

    /// Every client that is well-behaved is still served.
    fn assert_serves(&self) {
        let mut stream = self.raw();
        ask(&mut stream, &json!({ "method": "org.varlink.service.GetInfo" }));
        let reply = answer(&mut stream).expect("an answer");
        assert_eq!(reply["parameters"]["interfaces"], json!(["org.varlink.service", "io.netd"]));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shutdown.store(true, Ordering::Release);
        self.waker.wake().unwrap();
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap().unwrap();
            assert!(!self.path.exists(), "the socket is removed at the end");
        }
    }
}

fn ask(stream: &mut UnixStream, request: &Value) {
    stream.write_all(&netd_ipc::framing::encode(request).unwrap()).unwrap();
}

/// The next reply; none if the connection ends first.
fn answer(stream: &mut UnixStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) if byte[0] == 0 => return Some(serde_json::from_slice(&bytes).unwrap()),
            Ok(_) => bytes.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn connect_request() -> Value {
    json!({ "method": "io.netd.Connect", "parameters": { "address": "192.0.2.1", "port": 80 } })
}

fn stream_pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn name_in_letters_of_its_own_is_resolved_in_idnas_form_and_any_other_as_it_is() {
    let control = Control::start(true);
    for (name, resolved) in [
        ("B\u{fc}cher.example.", "xn--bcher-kva.example."),
        ("b\u{fc}cher\u{3002}example", "xn--bcher-kva.example"),
        ("WWW.example.", "WWW.example."),
        ("_http._tcp.example", "_http._tcp.example"),
        // That is none, and its answer says so.
        ("a b\u{fc}", "a b\u{fc}"),
    ] {
        let mut stream = control.raw();
        ask(&mut stream, &json!({ "method": "io.netd.Resolve", "parameters": { "name": name } }));
        let Submission { token, command, .. } = control.next();
        let Command::Resolve { name: asked, .. } = command else { panic!("{command:?}") };
        assert_eq!(asked, resolved);
        control.complete(token, Reply::Failed(ErrorKind::NotFound, "nobody".into()));
        assert!(answer(&mut stream).is_some());
    }
}

#[test]
fn connect_allowed_goes_to_the_worker_and_its_descriptor_to_the_client() {
    let control = Control::start(true);
    let client = control.client();
    let call = std::thread::spawn(move || client.tcp_connect("192.0.2.1:80".parse().unwrap(), None));
    let Submission { token, owner, command, decided: _ } = control.next();
    let remote = "192.0.2.1:80".parse().unwrap();
    assert_eq!(command, Command::Connect { remote, timeout: netd_ipc::call::CONNECT_TIMEOUT });
    assert_eq!((owner.uid, owner.pid), (rustix::process::geteuid().as_raw(), std::process::id()));
    let (ours, descriptor) = stream_pair();
    let local = "192.0.2.100:50000".parse().unwrap();
    control.complete(
        token,
        Reply::Stream { id: 5, local, remote, rule: "r.toml:1".into(), tls: None, descriptor },
    );
    let mut stream = call.join().unwrap().unwrap();
    assert_eq!((stream.id(), stream.local_addr(), stream.peer_addr()), (5, local, remote));
    assert_eq!(stream.grant().unwrap().rule, "r.toml:1");
    stream.write_all(b"x").unwrap();
    assert_eq!(rustix::io::read(&ours, &mut [0; 2]).unwrap(), 1);
    // Nobody in the daemon keeps a copy: the client's end is the last one.
    drop(stream);
    assert_eq!(rustix::io::read(&ours, &mut [0; 2]).unwrap(), 0);
}

#[test]
fn outbound_calls_with_devnet_off_are_denied_by_name_with_one_marker_each() {
    let control = Control::start(false);
    let client = control.client();
    let error = client.tcp_connect("192.0.2.1:80".parse().unwrap(), None).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::DevnetDisabled));
    assert!(error.to_string().contains("[network.devnet] enabled = true"), "{error}");
    let error = client.ping("192.0.2.1".parse().unwrap(), None, None).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::DevnetDisabled));
    assert_eq!(*control.console.lock().unwrap(), b"net: devnet off deny\nnet: devnet off deny\n");
    assert!(control.submissions.try_recv().is_err(), "the worker hears nothing of it");
}

#[test]
fn listen_with_devnet_off_is_a_matter_of_grants() {
    let control = Control::start(false);
    let client = control.client();
    let call = std::thread::spawn(move || client.tcp_listen(Some(8080), None));
    let Submission { token, command, .. } = control.next();
    assert_eq!(
        command,
        Command::Listen { address: None, port: Some(8080), backlog: netd_ipc::call::BACKLOG }
    );
    control.complete(token, Reply::Failed(ErrorKind::AddrInUse, "port 8080 is taken".into()));
    let error = call.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "AddrInUse: port 8080 is taken");
}

#[test]
fn connect_outside_the_grants_is_denied_by_the_rules_name_without_marker() {
    let control = Control::start(true);
    let error = control.client().tcp_connect("198.51.100.1:80".parse().unwrap(), None).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::PolicyDenied));
    assert!(error.to_string().contains("test:2 (grant, any) allows it, but only towards others"), "{error}");
    assert!(control.console.lock().unwrap().is_empty());
}

#[test]
fn every_method_of_the_interface_file_is_served() {
    let control = Control::start(true);
    let mut stream = control.raw();
    for line in netd_ipc::call::INTERFACE.lines().filter_map(|line| line.strip_prefix("method ")) {
        let method = line.split('(').next().unwrap();
        let parameters = match method {
            "Connect" => json!({ "address": "192.0.2.1", "port": 80 }),
            "Ping" => json!({ "address": "192.0.2.1" }),
            "Resolve" => json!({ "name": "a.example" }),
            "OpenFrames" => json!({ "ether_type": 0x88b5 }),
            "Outcome" | "SetTcpOptions" | "SetUdpOptions" => json!({ "id": 1 }),
            "SetPollMode" => json!({ "poll": "busy" }),
            "SetOffload" => json!({ "name": "tx_tso4", "on": false }),
            // Answered by the control thread itself.
            "SetLogLevel" | "ListRules" | "Explain" | "ListDenials" | "GetAudit" | "Decide"
            | "RecordTrust" | "RecordState" => continue,
            _ => json!({}),
        };
        ask(&mut stream, &json!({ "method": format!("io.netd.{method}"), "parameters": parameters }));
        let Submission { token, .. } = control.next();
        control.complete(token, Reply::Failed(ErrorKind::Unsupported, method.into()));
        let reply = answer(&mut stream).unwrap();
        assert_eq!(reply, json!({ "error": "io.netd.Unsupported", "parameters": { "message": method } }));
    }
}

#[test]
fn replies_read_back_as_the_types_of_the_client_library() {
    let control = Control::start(true);
    let client = control.client();
    let caller = client.clone();
    let call = std::thread::spawn(move || caller.ping("192.0.2.1".parse().unwrap(), None, Some(8)));
    let pong = Pong { from: "192.0.2.1".parse().unwrap(), rtt_us: 123, ttl: 64, bytes: 8 };
    control.complete(control.next().token, Reply::Ping(pong.clone()));
    assert_eq!(call.join().unwrap().unwrap(), pong);
    let call = std::thread::spawn(move || client.outcome(3));
    let outcome = Outcome { end: StreamEnd::Aborted, receive_finished: true };
    control.complete(control.next().token, Reply::Outcome(outcome));
    assert_eq!(call.join().unwrap().unwrap(), outcome);
}

#[test]
fn log_level_is_set_by_the_daemons_user_and_nonsense_is_refused() {
    let control = Control::start(true);
    let client = control.client();
    assert_eq!(client.set_log_level("netd=debug").unwrap(), "");
    assert_eq!(client.set_log_level("info").unwrap(), "netd=debug");
    let error = client.set_log_level("verbose").unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::InvalidInput));
    assert!(error.to_string().contains("expected error, warn, info"), "{error}");
}

#[test]
fn clients_report_counts_the_connections_of_each_user() {
    let control = Control::start(true);
    let _idle = control.raw();
    let client = control.client();
    let call = std::thread::spawn(move || client.clients());
    let total = netd_ipc::TotalUse::default();
    control.complete(
        control.next().token,
        Reply::Clients(netd_ipc::Clients { total, clients: vec![], tables: vec![], quotas: vec![] }),
    );
    let report = call.join().unwrap().unwrap();
    assert_eq!(report.total.connections.used, 2);
    let [ours] = report.clients[..] else { panic!("{report:?}") };
    assert_eq!((ours.uid, ours.connections.used), (rustix::process::geteuid().as_raw(), 2));
    assert_eq!(ours.connections.limit, 64);
}

#[test]
fn service_interface_answers_info_descriptions_and_errors() {
    let control = Control::start(true);
    let mut stream = control.raw();
    let mut call = |method: &str, parameters: Value| {
        ask(&mut stream, &json!({ "method": method, "parameters": parameters }));
        answer(&mut stream).unwrap()
    };
    let service = "org.varlink.service";
    let described = call("org.varlink.service.GetInterfaceDescription", json!({ "interface": "io.netd" }));
    assert_eq!(described["parameters"]["description"], json!(netd_ipc::call::INTERFACE));
    for (method, parameters, error, detail) in [
        ("io.netd.Fly", json!({}), "MethodNotFound", json!({ "method": "io.netd.Fly" })),
        ("io.other.Fly", json!({}), "InterfaceNotFound", json!({ "interface": "io.other" })),
        ("io.netd.Listen", json!({ "port": "no" }), "InvalidParameter", json!({ "parameter": "port" })),
        (
            "org.varlink.service.GetInterfaceDescription",
            json!({ "interface": "io.other" }),
            "InterfaceNotFound",
            json!({ "interface": "io.other" }),
        ),
    ] {
        let reply = call(method, parameters);
        assert_eq!(reply, json!({ "error": format!("{service}.{error}"), "parameters": detail }));
    }
}

#[test]
fn request_in_pieces_is_answered_once_whole() {
    let control = Control::start(true);
    let mut stream = control.raw();
    for piece in b"{\"method\":\"org.varlink.service.GetInfo\"}\0".chunks(7) {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(answer(&mut stream).unwrap()["parameters"]["product"], "netd");
}

#[test]
fn requests_in_one_go_are_answered_in_order() {
    let control = Control::start(true);
    let mut stream = control.raw();
    // More than one turn's worth, with a call of the worker in the middle.
    let mut bytes = Vec::new();
    for number in 0..50 {
        let method =
            if number == 20 { "io.netd.GetStatus".to_owned() } else { format!("io.netd.No{number}") };
        bytes.extend(netd_ipc::framing::encode(&json!({ "method": method })).unwrap());
    }
    stream.write_all(&bytes).unwrap();
    control.complete(control.next().token, Reply::Failed(ErrorKind::Internal, "the twentieth".into()));
    for number in 0..50 {
        let reply = answer(&mut stream).unwrap();
        let expected = if number == 20 {
            json!({ "message": "the twentieth" })
        } else {
            json!({ "method": format!("io.netd.No{number}") })
        };
        assert_eq!(reply["parameters"], expected);
    }
}

#[test]
fn oneway_request_gets_no_reply() {
    let control = Control::start(true);
    let mut stream = control.raw();
    ask(&mut stream, &json!({ "method": "io.netd.GetStatus", "oneway": true }));
    control.complete(control.next().token, Reply::Failed(ErrorKind::Internal, "unheard".into()));
    ask(&mut stream, &json!({ "method": "io.netd.Nothing" }));
    assert_eq!(answer(&mut stream).unwrap()["error"], "org.varlink.service.MethodNotFound");
}

#[test]
fn garbage_is_answered_a_few_times_and_then_cut_off() {
    let control = Control::start(true);
    let mut stream = control.raw();
    let _ = stream.write_all(&b"garbage\0".repeat(100));
    let mut answers = 0;
    while let Some(reply) = answer(&mut stream) {
        assert_eq!(reply["error"], "org.varlink.service.InvalidParameter");
        answers += 1;
    }
    assert!((1..10).contains(&answers), "{answers}");
    control.assert_serves();
}

#[test]
fn request_that_is_too_long_ends_the_connection() {
    let control = Control::start(true);
    let mut stream = control.raw();
    // Without its end: a server that waits for the end would collect for ever.
    let _ = stream.write_all(&vec![b'x'; 2 * netd_ipc::framing::REQUEST_BYTES_MAX]);
    assert_eq!(answer(&mut stream), None);
    control.assert_serves();
}

#[test]
fn unasked_descriptors_are_closed_and_end_the_connection() {
    let control = Control::start(true);
    let mut stream = control.raw();
    let (ours, theirs) = stream_pair();
    let request = netd_ipc::framing::encode(&json!({ "method": "io.netd.GetStatus" })).unwrap();
    let many = [theirs.as_fd(); 4];
    passing::send(&stream, &[IoSlice::new(&request)], &many, SendFlags::empty()).unwrap();
    drop(theirs);
    assert_eq!(answer(&mut stream), None);
    // The end of file comes when the last copy is closed.
    assert_eq!(rustix::io::read(&ours, &mut [0; 1]).unwrap(), 0);
    assert!(control.submissions.try_recv().is_err());
    control.assert_serves();
}

#[test]
fn connections_beyond_the_users_share_are_told_so_and_room_returns() {
    let control = Control::start(true);
    let mut held: Vec<UnixStream> = (0..64).map(|_| control.raw()).collect();
    for stream in &mut held {
        ask(stream, &json!({ "method": "org.varlink.service.GetInfo" }));
        assert!(answer(stream).unwrap()["error"].is_null());
    }
    let mut refused = control.raw();
    let reply = answer(&mut refused).unwrap();
    assert_eq!(reply["error"], "io.netd.QuotaExceeded");
    assert_eq!(answer(&mut refused), None);
    // The library reports it as the result of its first call, whichever came first.
    let error = control.client().status().unwrap_err();
    assert!(matches!(error, ClientError::Refused { kind: ErrorKind::QuotaExceeded, .. }), "{error}");
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = control.raw();
        let _ = stream.write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
        if answer(&mut stream).is_some_and(|reply| reply["error"].is_null()) {
            break;
        }
        assert!(Instant::now() < deadline, "room never returned");
    }
}

#[test]
fn disconnect_during_a_call_cancels_it_and_its_late_reply_is_dropped() {
    let control = Control::start(true);
    let mut stream = control.raw();
    ask(&mut stream, &connect_request());
    let Submission { token, .. } = control.next();
    drop(stream);
    let cancel = control.next();
    assert_eq!((cancel.token, cancel.command), (token, Command::Cancel));
    let (ours, descriptor) = stream_pair();
    let address = "192.0.2.1:80".parse().unwrap();
    control.complete(
        token,
        Reply::Stream { id: 1, local: address, remote: address, rule: String::new(), tls: None, descriptor },
    );
    assert_eq!(rustix::io::read(&ours, &mut [0; 1]).unwrap(), 0, "its descriptor is closed");
    control.assert_serves();
}

#[test]
fn half_close_during_a_call_still_gets_the_reply() {
    let control = Control::start(true);
    let mut stream = control.raw();
    ask(&mut stream, &connect_request());
    let Submission { token, .. } = control.next();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    control.complete(token, Reply::Failed(ErrorKind::Unreachable, "no route".into()));
    assert_eq!(answer(&mut stream).unwrap()["error"], "io.netd.Unreachable");
    assert_eq!(answer(&mut stream), None);
}

#[test]
fn full_worker_queue_fails_the_call_by_name_and_others_go_on() {
    let control = Control::start(true);
    let mut streams: Vec<UnixStream> = (0..9).map(|_| control.raw()).collect();
    streams.iter_mut().for_each(|stream| ask(stream, &connect_request()));
    // Eight fit, whichever they are; the ninth is told at once.
    let mut tokens = HashSet::new();
    let refused = loop {
        let ready = streams.iter_mut().position(|stream| {
            stream.set_nonblocking(true).unwrap();
            let ready = rustix::net::recv(&*stream, &mut [0u8; 1], rustix::net::RecvFlags::PEEK).is_ok();
            stream.set_nonblocking(false).unwrap();
            ready
        });
        if let Some(index) = ready {
            break index;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(answer(&mut streams[refused]).unwrap()["error"], "io.netd.NoBufs");
    for _ in 0..8 {
        let Submission { token, .. } = control.next();
        assert!(tokens.insert(token), "tokens are used once");
        control.complete(token, Reply::Failed(ErrorKind::TimedOut, "no answer".into()));
    }
    for (index, stream) in streams.iter_mut().enumerate().filter(|(index, _)| *index != refused) {
        assert_eq!(answer(stream).unwrap()["error"], "io.netd.TimedOut", "{index}");
    }
}

#[test]
fn client_that_never_reads_costs_one_reply_and_the_others_nothing() {
    let control = Control::start(true);
    let mut stream = control.raw();
    stream.set_nonblocking(true).unwrap();
    let request = b"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"io.netd\"}}\0";
    // Until the socket is full both ways, the server has stopped reading.
    let mut sent = 0;
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        match stream.write(request) {
            Ok(count) => sent += count,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    assert!(sent < 8 * 1024 * 1024, "the server read {sent} bytes from a client that reads nothing");
    control.assert_serves();
}

#[test]
fn random_bytes_from_many_clients_never_stop_the_service() {
    let control = Control::start(true);
    // xorshift64 (Marsaglia 2003); the seed is fixed, so that a failure replays.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..200 {
        let mut stream = control.raw();
        let length = random() % 5000;
        let bytes: Vec<u8> =
            (0..length).map(|_| b"{}[]\":,\0\\ iomethd."[(random() % 17) as usize]).collect();
        // The server may have had enough before the end.
        let _ = stream.write_all(&bytes);
        if random() % 2 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while answer(&mut stream).is_some() {}
        }
    }
    control.assert_serves();
    assert!(control.submissions.try_recv().is_err(), "none of it was a call");
}
