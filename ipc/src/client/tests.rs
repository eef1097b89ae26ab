//! The library against a server thread that plays the daemon and its worker.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use std::time::Instant;

use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair};

use super::*;
use crate::accepted::Accepted;
use crate::datagram::{Header, code};
use crate::passing;
use crate::types::StreamEnd;

/// What the daemon does with a call: a reply, with descriptors.
type Script = dyn Fn(&str, &Value) -> (Value, Vec<OwnedFd>) + Send + Sync;

/// A daemon that follows a script; it lives until the test's process ends or `stop` is called.
struct Daemon {
    directory: tempfile::TempDir,
    /// Every method called.
    calls: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn start(
        script: impl Fn(&str, &Value) -> (Value, Vec<OwnedFd>) + Send + Sync + 'static,
    ) -> (Daemon, Client) {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&calls));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || serve(&stream.unwrap(), &*script, &log));
            }
        });
        let client = Client::connect(directory.path().join("s")).unwrap();
        (Daemon { directory, calls }, client)
    }

    /// From now on nobody can connect; open connections stay.
    fn stop(&self) {
        std::fs::remove_file(self.directory.path().join("s")).unwrap();
    }
}

fn serve(mut stream: &std::os::unix::net::UnixStream, script: &Script, log: &Mutex<Vec<String>>) {
    let mut decoder = crate::framing::Decoder::new(1000);
    let mut bytes = [0; 100];
    loop {
        let Some(request) = decoder.take().unwrap() else {
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(count) => decoder.push(&bytes[..count]),
            }
            continue;
        };
        let request: Value = serde_json::from_slice(&request).unwrap();
        let method = request["method"].as_str().unwrap().strip_prefix("io.netd.").unwrap();
        log.lock().unwrap().push(method.to_owned());
        let (reply, descriptors) = script(method, &request["parameters"]);
        if reply == json!("hang up") {
            return;
        }
        let reply = crate::framing::encode(&reply).unwrap();
        let borrowed: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
        passing::send(stream, &[std::io::IoSlice::new(&reply)], &borrowed, SendFlags::empty()).unwrap();
    }
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn endpoint(port: u16) -> Value {
    json!({ "address": "192.0.2.1", "port": port })
}

fn returns(parameters: Value) -> Value {
    Value::Object([("parameters".to_owned(), parameters)].into_iter().collect())
}

fn fails(name: &str, message: &str) -> Value {
    json!({ "error": format!("io.netd.{name}"), "parameters": { "message": message } })
}

/// A daemon with one stream: the worker's end of it, and what it answers to `Outcome`.
fn one_stream(outcome: Value) -> (Daemon, TcpStream, OwnedFd) {
    let (ours, theirs) = pair(SocketType::STREAM);
    let theirs = Mutex::new(Some(theirs));
    let (daemon, client) = Daemon::start(move |method, _| match method {
        "Connect" => {
            let reply = json!({ "id": 7, "local": endpoint(50_000), "remote": endpoint(80), "rule": "a:1", "descriptor": 0 });
            (returns(reply), vec![theirs.lock().unwrap().take().unwrap()])
        }
        _ => (outcome.clone(), vec![]),
    });
    let stream = client.tcp_connect("192.0.2.1:80".parse().unwrap(), None).unwrap();
    (daemon, stream, ours)
}

fn ended(end: StreamEnd, receive_finished: bool) -> Value {
    returns(json!(Outcome { end, receive_finished }))
}

fn write(socket: &OwnedFd, bytes: &[u8]) {
    assert_eq!(rustix::io::write(socket, bytes).unwrap(), bytes.len());
}

fn read_all(mut stream: &TcpStream) -> (Vec<u8>, io::Result<usize>) {
    let mut all = Vec::new();
    let result = stream.read_to_end(&mut all);
    (all, result)
}

#[test]
fn read_after_fin_is_the_end_and_asks_nobody() {
    let (daemon, stream, worker) = one_stream(fails("Internal", "not to be asked"));
    write(&worker, b"all of it");
    shutdown(&worker, Shutdown::Write).unwrap();
    let (all, result) = read_all(&stream);
    assert_eq!((&all[..], result.unwrap()), (&b"all of it"[..], 9));
    assert_eq!(*daemon.calls.lock().unwrap(), ["Connect"]);
    // The connection ends later; what was complete stays complete.
    drop(worker);
    assert_eq!(stream.receive(&mut [0; 4]).unwrap(), 0);
}

#[test]
fn read_after_reset_with_open_writing_side_is_an_error_after_the_data() {
    let (_daemon, stream, worker) = one_stream(ended(StreamEnd::ConnectionReset, false));
    write(&worker, b"a part");
    drop(worker);
    let (all, result) = read_all(&stream);
    let error = result.unwrap_err();
    assert_eq!((&all[..], error.kind()), (&b"a part"[..], io::ErrorKind::ConnectionReset));
    assert!(error.to_string().contains("may be incomplete"), "{error}");
}

#[test]
fn read_after_reset_without_a_daemon_to_ask_is_still_an_error() {
    let (daemon, stream, worker) = one_stream(json!("hang up"));
    daemon.stop();
    drop(worker);
    let (_, result) = read_all(&stream);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn read_after_own_half_close_asks_and_finished_is_the_end() {
    for outcome in [ended(StreamEnd::Finished, true), ended(StreamEnd::Open, true)] {
        let (daemon, stream, worker) = one_stream(outcome);
        stream.shutdown_write().unwrap();
        write(&worker, b"answer");
        shutdown(&worker, Shutdown::Write).unwrap();
        let (all, result) = read_all(&stream);
        assert_eq!((&all[..], result.unwrap()), (&b"answer"[..], 6));
        assert_eq!(*daemon.calls.lock().unwrap(), ["Connect", "Outcome"]);
    }
}

#[test]
fn read_after_own_half_close_asks_and_another_end_is_its_error() {
    for (end, kind) in [
        (StreamEnd::ConnectionReset, io::ErrorKind::ConnectionReset),
        (StreamEnd::TimedOut, io::ErrorKind::TimedOut),
        (StreamEnd::DeviceUnavailable, io::ErrorKind::NetworkDown),
        (StreamEnd::PolicyDenied, io::ErrorKind::PermissionDenied),
        (StreamEnd::Open, io::ErrorKind::ConnectionReset),
    ] {
        let (_daemon, stream, worker) = one_stream(ended(end, false));
        stream.shutdown_write().unwrap();
        write(&worker, b"half an ans");
        drop(worker);
        let (all, result) = read_all(&stream);
        assert_eq!((&all[..], result.unwrap_err().kind()), (&b"half an ans"[..], kind));
    }
}

#[test]
fn read_after_own_half_close_without_a_daemon_to_ask_is_an_error() {
    let (daemon, stream, worker) = one_stream(json!("hang up"));
    daemon.stop();
    stream.shutdown_write().unwrap();
    drop(worker);
    let (_, result) = read_all(&stream);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("could not be asked"), "{error}");
}

#[test]
fn read_after_own_half_close_with_a_forgotten_id_is_an_error() {
    let (_daemon, stream, worker) = one_stream(fails("InvalidSocket", "there is no stream 7"));
    stream.shutdown_write().unwrap();
    drop(worker);
    assert!(read_all(&stream).1.is_err());
}

#[test]
fn write_after_reset_names_the_outcome() {
    let (_daemon, mut stream, worker) = one_stream(ended(StreamEnd::TimedOut, false));
    drop(worker);
    let error = stream.write(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
}

#[test]
fn deadlines_that_passed_take_and_write_nothing() {
    let (_daemon, mut stream, worker) = one_stream(fails("Internal", ""));
    write(&worker, b"there");
    stream.set_read_deadline(Some(Instant::now()));
    stream.set_write_deadline(Some(Instant::now()));
    assert_eq!(stream.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
    stream.set_read_deadline(Some(Instant::now() + Duration::from_millis(50)));
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 5);
    assert_eq!(stream.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn accept_delivers_streams_with_their_addresses_and_names_the_end() {
    let (worker, listener) = pair(SocketType::SEQPACKET);
    let listener = Mutex::new(Some(listener));
    let (_daemon, client) = Daemon::start(move |method, parameters| {
        assert_eq!((method, parameters), ("Listen", &json!({ "port": 8080 })));
        let reply = json!({ "id": 1, "local": endpoint(8080), "descriptor": 0 });
        (returns(reply), vec![listener.lock().unwrap().take().unwrap()])
    });
    let listener = client.tcp_listen(Some(8080), None).unwrap();
    let (ours, theirs) = pair(SocketType::STREAM);
    let record = Accepted {
        id: 9,
        remote: "192.0.2.7:1234".parse().unwrap(),
        local: "192.0.2.1:8080".parse().unwrap(),
    };
    let record = record.encode();
    passing::send(
        &worker,
        &[std::io::IoSlice::new(&record)],
        &[std::os::fd::AsFd::as_fd(&theirs)],
        SendFlags::empty(),
    )
    .unwrap();
    let (stream, remote) = listener.accept().unwrap();
    assert_eq!((stream.id(), remote.to_string()), (9, "192.0.2.7:1234".to_owned()));
    assert_eq!(stream.local_addr().to_string(), "192.0.2.1:8080");
    write(&ours, b"hi");
    assert_eq!(stream.receive(&mut [0; 9]).unwrap(), 2);
    drop(worker);
    assert_eq!(listener.accept().unwrap_err().kind(), Some(ErrorKind::InvalidListener));
}

#[test]
fn udp_carries_datagrams_both_ways_and_errors_back() {
    let (worker, socket) = pair(SocketType::SEQPACKET);
    let socket = Mutex::new(Some(socket));
    let (_daemon, client) = Daemon::start(move |_, _| {
        let reply = json!({ "id": 1, "local": endpoint(5353), "descriptor": 0 });
        (returns(reply), vec![socket.lock().unwrap().take().unwrap()])
    });
    let udp = client.udp_bind(None).unwrap();
    let peer = "192.0.2.9:53".parse().unwrap();
    udp.send_to(b"question", peer).unwrap();
    let mut bytes = [0; 100];
    let count = rustix::io::read(&worker, &mut bytes).unwrap();
    assert_eq!(Header::decode(&bytes[..count]), Ok((Header::data(peer), &b"question"[..])));
    write(&worker, &[&Header::data(peer).encode()[..], b"answer"].concat());
    assert_eq!(udp.recv_from(&mut bytes).unwrap(), (6, peer));
    assert_eq!(&bytes[..6], b"answer");
    write(&worker, &Header::error(peer, code::PORT_UNREACHABLE).encode());
    let error = udp.recv_from(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ConnectionRefused));
    assert!(error.to_string().contains("192.0.2.9:53"), "{error}");
    let error = udp.send_to(&vec![0; 70_000], peer).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::InvalidInput));
}

#[test]
fn call_errors_keep_name_and_message_as_io_errors_too() {
    for kind in ErrorKind::ALL {
        let (_daemon, client) = Daemon::start(move |_, _| (fails(kind.name(), "the reason"), vec![]));
        let error = client.tcp_connect("192.0.2.1:80".parse().unwrap(), None).unwrap_err();
        assert_eq!(error.kind(), Some(kind));
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (kind.io_kind(), format!("{kind}: the reason")));
    }
}

#[test]
fn call_with_a_reply_without_descriptor_is_an_error() {
    let (_daemon, client) =
        Daemon::start(|_, _| (returns(json!({ "id": 1, "local": endpoint(1), "descriptor": 0 })), vec![]));
    let error = client.udp_bind(None).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}

#[test]
fn calls_from_many_threads_do_not_wait_for_a_slow_one() {
    let (_daemon, client) = Daemon::start(|method, _| {
        if method == "Ping" {
            std::thread::sleep(Duration::from_secs(2));
        }
        (fails("TimedOut", "no answer"), vec![])
    });
    let slow = client.clone();
    let slow = std::thread::spawn(move || slow.ping("192.0.2.1".parse().unwrap(), None, None));
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    client.outcome(1).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(slow.join().unwrap().unwrap_err().kind(), Some(ErrorKind::TimedOut));
}

#[test]
fn call_after_the_daemon_came_back_uses_a_new_connection() {
    let (daemon, client) = Daemon::start(|_, _| (json!("hang up"), vec![]));
    client.outcome(1).unwrap_err();
    client.outcome(1).unwrap_err();
    assert_eq!(daemon.calls.lock().unwrap().len(), 2);
}

#[test]
fn connect_without_a_daemon_says_what_was_tried_and_how_to_start_one() {
    let error = Client::connect("/nonexistent/netd.sock").unwrap_err();
    let message = error.to_string();
    assert!(message.contains("/nonexistent/netd.sock (no such file)"), "{message}");
    assert!(message.contains("netd run --config"), "{message}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}
