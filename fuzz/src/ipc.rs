//! What goes over the daemon's socket and the descriptors it hands out, in both directions.

use std::io::{self, IoSlice, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use netd_ipc::accepted::Accepted;
use netd_ipc::call::{Call, Request};
use netd_ipc::datagram::Header;
use netd_ipc::framing::{Decoder, REQUEST_BYTES_MAX, encode};
use netd_ipc::{Client, RecordKind, passing};
use rustix::net::SendFlags;

use crate::input::Input;

/// A client's bytes at the daemon: `chunk size u8`, then what comes over the socket.
pub fn ipc_request(data: &[u8]) {
    let Some((chunk, stream)) = data.split_first() else { return };
    let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
    for bytes in stream.chunks(usize::from(*chunk).max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.take() {
                Ok(Some(message)) => understand(&message),
                Ok(None) => break,
                // The daemon closes such a connection.
                Err(_) => return,
            }
        }
    }
}

fn understand(message: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(message) else { return };
    let again = encode(&request).expect("a request that was JSON");
    let (end, text) = again.split_last().expect("a message with its end");
    assert_eq!(*end, 0);
    assert_eq!(serde_json::from_slice::<Request>(text).expect("what we wrote"), request);
    match Call::parse(request) {
        Ok(Call::Connect { host: _, port, timeout }) => {
            assert!(port != 0 && !timeout.is_zero());
        }
        Ok(_) => {}
        Err(refused) => drop(encode(&refused.response()).expect("an answer that is JSON")),
    }
}

/// What the impostor says to the next call, and how many descriptors it adds.
static SPEECH: Mutex<(usize, Vec<u8>)> = Mutex::new((0, Vec::new()));

/// The client library, at a daemon that says anything: `{ method u8, descriptors u8, reply }`.
pub fn ipc_reply(data: &[u8]) {
    let mut input = Input::new(data);
    let (Some(method), Some(descriptors)) = (input.u8(), input.u8()) else { return };
    *SPEECH.lock().expect("no thread fails while it holds it") =
        (usize::from(descriptors % 4), input.rest().to_vec());
    let client = Client::connect(impostor()).expect("the impostor listens");
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    // A refusal by name is as good as an answer: nothing panics, and nothing waits for ever.
    match method % 12 {
        0 => drop(client.status()),
        1 => drop(client.device()),
        2 => drop(client.interfaces()),
        3 => drop(client.sockets()),
        4 => drop(client.neighbors()),
        5 => drop(client.statistics()),
        6 => drop(client.clients()),
        7 => drop(client.tcp_connect((address, 80).into(), None)),
        8 => drop(client.tcp_listen(Some(80), None)),
        9 => drop(client.udp_bind(None)),
        10 => drop(client.ping(address, None, None)),
        _ => drop(client.resolve_records("www.example.com", RecordKind::Addresses, None)),
    }
}

/// The socket of a daemon that is none: it reads a request, says what it was told to say, and hangs up.
fn impostor() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("netd-fuzz-{}.sock", std::process::id()));
        let _stale = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket in the temporary directory");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The client may be gone already, having heard enough.
                let _gone = speak(stream);
            }
        });
        path.to_str().expect("a path of ASCII").to_owned()
    })
}

fn speak(mut stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    loop {
        match stream.read(&mut request)? {
            0 => return Ok(()),
            count if request[..count].ends_with(&[0]) => break,
            _ => {}
        }
    }
    let (count, reply) = SPEECH.lock().map(|speech| speech.clone()).unwrap_or_default();
    let descriptors: Vec<OwnedFd> =
        (0..count).map(|_| UnixStream::pair().map(|(ours, _)| ours.into())).collect::<io::Result<_>>()?;
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    passing::send(&stream, &[IoSlice::new(&reply)], &borrowed, SendFlags::empty())?;
    Ok(())
}

/// Messages on descriptors: headers of datagrams, records of listeners.
pub fn ipc_records(data: &[u8]) {
    if let Ok((header, payload)) = Header::decode(data) {
        let again = [&header.encode()[..], payload].concat();
        assert_eq!(Header::decode(&again), Ok((header, payload)));
    }
    if let Ok(accepted) = Accepted::decode(data) {
        assert_eq!(Accepted::decode(&accepted.encode()), Ok(accepted));
    }
}
