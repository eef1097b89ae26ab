//! The server as clients meet it: real sockets, the stub backend, and a netd that answers as it is told.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use netd_ipc::call::Request;
use netd_ipc::framing::{self, Decoder};
use netd_ipc::services::{Client, Error, FetchOptions};
use serde_json::{Value, json};

use super::*;

/// Answers Decide: what is asked for `allowed` hosts is granted. To anything else it has no answer that is understood.
fn netd(directory: &Path, allowed: &'static [&'static str]) {
    let listener = UnixListener::bind(directory.join("netd.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut decoder = Decoder::new(1 << 16);
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                decoder.push(&bytes[..count]);
                while let Some(request) = decoder.take().unwrap() {
                    let request: Request = serde_json::from_slice(&request).unwrap();
                    let parameters = request.parameters.unwrap_or_default();
                    let granted = allowed.iter().any(|host| parameters.get("target") == Some(&json!(host)));
                    let decision = json!({
                        "allowed": granted, "error": (!granted).then_some("PolicyDenied"),
                        "reason": if granted { "so it is" } else { "nobody may" }, "rule": "test.toml:1",
                    });
                    let reply = json!({ "parameters": { "decision": decision } });
                    stream.write_all(&framing::encode(&reply).unwrap()).unwrap();
                }
            }
        }
    });
}

/// A running server; ends when dropped.
struct Running {
    directory: tempfile::TempDir,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(allowed: &'static [&'static str], text: &str) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        netd(path, allowed);
        std::fs::create_dir(path.join("fixtures")).unwrap();
        std::fs::write(path.join("fixtures/hello"), "hello, world").unwrap();
        std::fs::write(path.join("fixtures/big"), vec![7; 3_000_000]).unwrap();
        let text = format!(
            "{text}\n[netd]\nsocket = {:?}\n[fetch]\nfixtures = {:?}\n",
            path.join("netd.sock"),
            path.join("fixtures")
        );
        let config = Config::parse(Path::new("services.toml"), &text).unwrap();
        let listener = netd_ipc::server::listen(&path.join("services.sock"), 0o600).unwrap();
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let published = Arc::new(Published::new(config.publish.clone()));
            runtime.block_on(run(listener, config, published, stopped)).unwrap();
            runtime.shutdown_background();
        });
        Running { directory, stop, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::at(self.directory.path().join("services.sock"))
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("services.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send(true).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

const FIXTURES: &[&str] = &["fixture.local:80", "fixture.local:443"];

fn body(client: &Client, url: &str, options: &FetchOptions) -> Result<Vec<u8>, Error> {
    let mut fetching = client.fetch(url, options)?;
    let mut body = Vec::new();
    fetching.read_to_end(&mut body).unwrap();
    assert_eq!(fetching.finish()?.bytes, body.len() as u64);
    Ok(body)
}

fn kind(error: &Error) -> ErrorKind {
    error.kind().unwrap_or_else(|| panic!("{error}"))
}

fn answer(stream: &mut UnixStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) | Err(_) => return None,
            Ok(_) if byte[0] == 0 => return Some(serde_json::from_slice(&bytes).unwrap()),
            Ok(_) => bytes.push(byte[0]),
        }
    }
}

#[test]
fn fixture_is_fetched_whole_from_a_byte_on_and_bounded() {
    let running = Running::start(FIXTURES, "");
    let client = running.client();
    let fetching = client.fetch("https://fixture.local/hello", &FetchOptions::default()).unwrap();
    let head = fetching.head().clone();
    assert_eq!((head.length, head.offset, head.hops[0].protocol.as_str()), (Some(12), 0, "fixture"));
    assert_eq!(head.hops[0].rule, "test.toml:1");
    assert_eq!(
        body(&client, "http://fixture.local/hello", &FetchOptions::default()).unwrap(),
        b"hello, world"
    );
    assert_eq!(body(&client, "http://fixture.local/big", &FetchOptions::default()).unwrap().len(), 3_000_000);
    let rest = FetchOptions { from: Some(7), validator: head.validator, ..FetchOptions::default() };
    assert_eq!(body(&client, "http://fixture.local/hello", &rest).unwrap(), b"world");
    let other = FetchOptions { validator: Some("\"another\"".into()), ..rest };
    assert_eq!(body(&client, "http://fixture.local/hello", &other).unwrap(), b"hello, world");
    let small = FetchOptions { size_max: Some(11), ..FetchOptions::default() };
    assert_eq!(kind(&client.fetch("http://fixture.local/hello", &small).unwrap_err()), ErrorKind::TooLarge);
    let missing = client.fetch("http://fixture.local/none", &FetchOptions::default()).unwrap_err();
    assert_eq!(kind(&missing), ErrorKind::StatusRefused);
}

#[test]
fn fetch_without_a_grant_is_denied_in_netds_words() {
    let running = Running::start(&[], "");
    let error = running.client().fetch("http://fixture.local/hello", &FetchOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "PolicyDenied: nobody may");
    let error = running.client().fetch("ftp://fixture.local/", &FetchOptions::default()).unwrap_err();
    assert_eq!(kind(&error), ErrorKind::InvalidInput);
}

#[test]
fn fetch_of_a_real_server_takes_both_grants() {
    let running = Running::start(&["a.example:443"], "");
    let error = running.client().fetch("https://a.example/", &FetchOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "PolicyDenied: nobody may", "net.http.devnet is not granted");
}

#[test]
fn fetch_without_netd_fails_closed() {
    let running = Running::start(FIXTURES, "");
    std::fs::remove_file(running.directory.path().join("netd.sock")).unwrap();
    let error = running.client().fetch("http://fixture.local/hello", &FetchOptions::default()).unwrap_err();
    assert_eq!(kind(&error), ErrorKind::NetdUnavailable);
}

#[test]
fn fetch_whose_client_leaves_frees_its_share() {
    let running = Running::start(FIXTURES, "[limits]\nfetches_per_user = 1");
    let client = running.client();
    let held = client.fetch("http://fixture.local/big", &FetchOptions::default()).unwrap();
    let refused = client.fetch("http://fixture.local/hello", &FetchOptions::default()).unwrap_err();
    assert_eq!(kind(&refused), ErrorKind::QuotaExceeded);
    drop(held);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = body(&client, "http://fixture.local/hello", &FetchOptions::default()) {
        assert_eq!(kind(&error), ErrorKind::QuotaExceeded);
        assert!(std::time::Instant::now() < deadline, "room never returned");
    }
}

#[test]
fn interface_is_described_and_nonsense_answered_by_name() {
    let running = Running::start(FIXTURES, "");
    let mut stream = running.raw();
    let service = "org.varlink.service";
    for (method, parameters, error) in [
        ("org.varlink.service.GetInfo", json!({}), Value::Null),
        (
            "org.varlink.service.GetInterfaceDescription",
            json!({ "interface": "io.netd.services" }),
            Value::Null,
        ),
        (
            "org.varlink.service.GetInterfaceDescription",
            json!({ "interface": "io.netd" }),
            json!(format!("{service}.InterfaceNotFound")),
        ),
        ("io.netd.services.Fly", json!({}), json!(format!("{service}.MethodNotFound"))),
        ("io.netd.services.Fetch", json!({}), json!(format!("{service}.InvalidParameter"))),
        (
            "io.netd.services.Fetch",
            json!({ "url": "http://fixture.local/hello" }),
            json!(format!("{service}.ExpectedMore")),
        ),
    ] {
        let request = json!({ "method": method, "parameters": parameters });
        stream.write_all(&framing::encode(&request).unwrap()).unwrap();
        assert_eq!(answer(&mut stream).unwrap()["error"], error, "{method}");
    }
}

#[test]
fn garbage_long_requests_and_descriptors_end_the_connection() {
    let running = Running::start(FIXTURES, "");
    let mut stream = running.raw();
    let _ = stream.write_all(&b"garbage\0".repeat(100));
    let answers = std::iter::from_fn(|| answer(&mut stream)).count();
    assert!((1..10).contains(&answers), "{answers}");
    let mut stream = running.raw();
    let _ = stream.write_all(&vec![b'x'; 2 * framing::REQUEST_BYTES_MAX]);
    assert_eq!(answer(&mut stream), None);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut stream = running.raw();
    let flags = rustix::net::SendFlags::empty();
    passing::send(&stream, &[IoSlice::new(b"{}\0")], &[theirs.as_fd(); 4], flags).unwrap();
    drop(theirs);
    assert_eq!(answer(&mut stream), None);
    // The end of file comes when the last copy is closed.
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    assert_eq!(
        body(&running.client(), "http://fixture.local/hello", &FetchOptions::default()).unwrap().len(),
        12
    );
}

#[test]
fn connections_beyond_the_users_share_are_told_so() {
    let running = Running::start(FIXTURES, "[limits]\nconnections_per_user = 2");
    let held = [running.raw(), running.raw()];
    let error = loop {
        match running.client().fetch("http://fixture.local/hello", &FetchOptions::default()) {
            // The two are admitted in their own time.
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(kind(&error), ErrorKind::QuotaExceeded);
    drop(held);
}

/// What the bus of a server offers.
fn offered(running: &Running) -> Value {
    let mut stream = running.raw();
    stream.write_all(b"{\"method\":\"io.netd.services.GetBus\"}\0").unwrap();
    let mut reply = Vec::new();
    let mut byte = [0];
    while reply.last() != Some(&0) {
        stream.read_exact(&mut byte).unwrap();
        reply.push(byte[0]);
    }
    let reply: Value = serde_json::from_slice(&reply[..reply.len() - 1]).unwrap();
    reply["parameters"]["bus"]["services"].clone()
}

#[test]
fn service_is_withdrawn_when_its_client_dies_while_it_waits_for_a_stream() {
    let running = Running::start(&["video"], "");
    let serve =
        b"{\"method\":\"io.netd.services.ServeBus\",\"parameters\":{\"service\":\"video\"}}\0".to_vec();
    let accept =
        b"{\"method\":\"io.netd.services.AcceptBus\",\"parameters\":{\"service\":\"video\"}}\0".to_vec();
    // It waits for one; it asks for more than it waits for; it says that it will send no more, and then goes.
    for (requests, half) in [(1, false), (2, false), (1, true)] {
        let mut client = running.raw();
        client.write_all(&serve).unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert_eq!(offered(&running), json!(["video"]));
        client.write_all(&accept.repeat(requests)).unwrap();
        if half {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        // So that it is waited for.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(offered(&running), json!(["video"]), "half-closed is not gone");
        drop(client);
        let started = std::time::Instant::now();
        while offered(&running) != json!([]) {
            assert!(started.elapsed() < Duration::from_secs(60), "{requests} requests, half closed: {half}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
