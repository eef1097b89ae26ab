//! The frontend against a backend of the test's own: one that answers as told, or lies, or says nothing.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use super::*;
use crate::{NetDevice, Options};

const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;
const SET_STATUS: u32 = 39;
const GET_STATUS: u32 = 40;
const NEED_REPLY: u32 = 1 << 3;

/// What a backend does at one of the requests.
#[derive(Clone, Copy)]
enum Quirk {
    None,
    CloseAt(u32),
    SilentAt(u32),
    RefuseAt(u32),
    VersionTwoAt(u32),
}

/// A backend in a thread; it hands out the requests that it got.
struct Backend {
    thread: JoinHandle<()>,
    requests: Receiver<(u32, Vec<u8>)>,
}

impl Backend {
    fn start(features: u64, protocol: u64, quirk: Quirk) -> (UnixStream, Backend) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (log, requests) = channel();
        let serve = move || {
            let mut status = 0;
            let mut socket = theirs;
            let mut header = [0; 12];
            while socket.read_exact(&mut header).is_ok() {
                let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
                let (request, flags) = (word(0), word(4));
                let mut payload = vec![0; word(8) as usize];
                socket.read_exact(&mut payload).unwrap();
                let _ = log.send((request, payload.clone()));
                let mut version = 1;
                let mut verdict = 0_u64;
                match quirk {
                    Quirk::CloseAt(at) if at == request => return,
                    Quirk::SilentAt(at) if at == request => {
                        let _ = socket.read(&mut header);
                        return;
                    }
                    Quirk::RefuseAt(at) if at == request => verdict = 1,
                    Quirk::VersionTwoAt(at) if at == request => version = 2,
                    _ => {}
                }
                if request == SET_STATUS {
                    status = payload[0];
                }
                let reply = match request {
                    GET_FEATURES => features.to_ne_bytes().to_vec(),
                    GET_PROTOCOL_FEATURES => protocol.to_ne_bytes().to_vec(),
                    GET_QUEUE_NUM => 4_u64.to_ne_bytes().to_vec(),
                    GET_STATUS => u64::from(status).to_ne_bytes().to_vec(),
                    GET_VRING_BASE => payload,
                    GET_CONFIG => {
                        let mut reply = payload;
                        reply[12..24].copy_from_slice(&[2, 0, 0, 0, 0, 9, 1, 0, 1, 0, 0xdc, 5]);
                        reply
                    }
                    _ if flags & NEED_REPLY != 0 => verdict.to_ne_bytes().to_vec(),
                    _ => continue,
                };
                let mut message = Vec::new();
                for word in [request, version | 1 << 2, reply.len() as u32] {
                    message.extend(word.to_ne_bytes());
                }
                message.extend(reply);
                if socket.write_all(&message).is_err() {
                    return;
                }
            }
        };
        (ours, Backend { thread: thread::spawn(serve), requests })
    }

    /// Every request, once the session is over.
    fn finish(self) -> Vec<u32> {
        self.thread.join().unwrap();
        self.requests.iter().map(|(request, _)| request).collect()
    }
}

const FEATURES: u64 = 1 << 32 | 1 << 15 | 1 << 33 | 1 << 17 | 1 << 22 | PROTOCOL_FEATURES | LOG_ALL;

fn options() -> VhostUserOptions {
    VhostUserOptions { mac: [2, 0, 0, 0, 0, 1], mtu: 1400, memory_bytes: 4 << 20 }
}

fn bring_up(socket: UnixStream) -> Result<NetDevice, Error> {
    let session = VhostUser::open(socket, &options())?;
    let memory = session.memory();
    NetDevice::bring_up(Box::new(session), memory, &Options { untrusted: true, ..Options::default() })
}

fn failure(quirk: Quirk) -> Error {
    let (socket, backend) = Backend::start(FEATURES, PROTOCOL_USED.bits(), quirk);
    let error = bring_up(socket).err().expect("a session with such a backend");
    backend.thread.join().unwrap();
    error
}

#[test]
fn device_brought_up_and_shut_down_starts_and_stops_both_rings() {
    let protocol = PROTOCOL_USED - VhostUserProtocolFeatures::CONFIG;
    let (socket, backend) = Backend::start(FEATURES, protocol.bits(), Quirk::None);
    let mut device = bring_up(socket).unwrap();
    assert_eq!(device.info().mac, Some([2, 0, 0, 0, 0, 1]));
    assert_eq!(device.info().mtu, 1400);
    assert_eq!(device.info().transport, TransportKind::VhostUser);
    device.check_health().unwrap();
    device.shut_down().unwrap();
    let requests = backend.finish();
    let count = |wanted| requests.iter().filter(|request| **request == wanted).count();
    assert_eq!(count(SET_MEM_TABLE), 1);
    assert_eq!(count(SET_VRING_KICK), 2);
    assert_eq!(count(SET_VRING_ENABLE), 4, "both rings enabled and disabled");
    assert_eq!(count(GET_VRING_BASE), 2);
    let first = |wanted| requests.iter().position(|request| *request == wanted);
    assert!(first(SET_MEM_TABLE) < first(SET_VRING_KICK));
    assert!(first(SET_VRING_KICK) < first(SET_VRING_ENABLE));
}

#[test]
fn features_that_are_not_the_backends_business_are_not_offered_to_the_driver() {
    let (socket, backend) = Backend::start(FEATURES, PROTOCOL_USED.bits(), Quirk::None);
    let session = VhostUser::open(socket, &options()).unwrap();
    let offered = session.device_features().unwrap();
    assert_eq!(offered, 1 << 32 | 1 << 15 | Feature::MAC.mask() | Feature::MTU.mask());
    assert_eq!(session.queues_max(), 8);
    drop(session);
    backend.finish();
}

#[test]
fn configuration_of_the_backend_counts_only_where_it_has_the_feature() {
    let features = FEATURES | Feature::MAC.mask();
    let (socket, backend) = Backend::start(features, PROTOCOL_USED.bits(), Quirk::None);
    let device = bring_up(socket).unwrap();
    assert_eq!(device.info().mac, Some([2, 0, 0, 0, 0, 9]), "the backend's");
    assert_eq!(device.info().mtu, 1400, "ours");
    device.shut_down().unwrap();
    backend.finish();
}

#[test]
fn backend_without_protocol_features_is_driven_all_the_same() {
    let (socket, backend) = Backend::start(FEATURES & !PROTOCOL_FEATURES, 0, Quirk::None);
    bring_up(socket).unwrap().shut_down().unwrap();
    let requests = backend.finish();
    assert!(requests.contains(&SET_VRING_KICK));
    assert!(!requests.contains(&SET_PROTOCOL_FEATURES) && !requests.contains(&SET_VRING_ENABLE));
}

#[test]
fn backend_that_closes_fails_by_name() {
    for at in [GET_FEATURES, SET_MEM_TABLE, SET_STATUS] {
        let error = failure(Quirk::CloseAt(at));
        assert!(matches!(error, Error::BackendClosed { .. }), "at {at}: {error:?}");
    }
}

#[test]
fn backend_that_says_nothing_fails_by_name() {
    for at in [GET_PROTOCOL_FEATURES, SET_VRING_KICK, GET_STATUS] {
        let error = failure(Quirk::SilentAt(at));
        assert!(matches!(error, Error::BackendSilent { .. }), "at {at}: {error:?}");
    }
}

#[test]
fn backend_that_refuses_fails_by_name() {
    for at in [SET_MEM_TABLE, SET_VRING_ENABLE, SET_STATUS] {
        let error = failure(Quirk::RefuseAt(at));
        assert!(matches!(error, Error::BackendRefused { .. }), "at {at}: {error:?}");
    }
}

#[test]
fn backend_of_another_version_fails_by_name() {
    for at in [GET_FEATURES, GET_QUEUE_NUM, GET_STATUS] {
        let error = failure(Quirk::VersionTwoAt(at));
        assert!(matches!(error, Error::BackendProtocol { .. }), "at {at}: {error:?}");
    }
}

#[test]
fn backend_that_died_is_noticed_and_a_reset_is_complete_without_it() {
    let (socket, backend) = Backend::start(FEATURES, PROTOCOL_USED.bits(), Quirk::CloseAt(GET_VRING_BASE));
    let mut session = VhostUser::open(socket, &options()).unwrap();
    session.set_status(status::ACKNOWLEDGE).unwrap();
    session.frontend.get_vring_base(0).unwrap_err();
    backend.finish();
    assert!(matches!(session.check_health(), Err(Error::Fault(Fault::BackendGone))));
    session.reset().unwrap();
    assert_eq!(session.status().unwrap(), 0);
}

#[test]
fn shared_memory_cannot_be_cut_short() {
    let memory = SharedMemory::new(1, ADDRESS_BASE).unwrap();
    assert_eq!(memory.dma().size(), 2 << 20);
    memory.file().set_len(0).unwrap_err();
}

#[test]
fn doorbell_that_the_backend_saturated_counts_as_rung() {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    event.write(u64::MAX - 1).unwrap();
    Kick(event).ring(Position(0)).unwrap();
}

#[test]
fn socket_that_is_absent_or_deserted_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vhost.sock");
    let connect = || VhostUserSocket::new(&path, VhostUserRole::Client).unwrap().connect().unwrap_err();
    assert!(connect().to_string().contains("no such socket"), "{}", connect());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(connect().to_string().contains("nobody listens"), "{}", connect());
}

#[test]
fn server_replaces_a_deserted_socket_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vhost.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = VhostUserSocket::new(&path, VhostUserRole::Server).unwrap();
    assert!(matches!(server.connect(), Err(Error::BackendAbsent { .. })));
    assert!(!server.is_awaited());
    let second = VhostUserSocket::new(&path, VhostUserRole::Server).unwrap_err();
    assert!(second.to_string().contains("somebody else listens"), "{second}");
    // What the second one tried was a connection.
    server.connect().unwrap();
    let _backend = UnixStream::connect(&path).unwrap();
    assert!(server.is_awaited());
    server.connect().unwrap();
    drop(server);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let taken = VhostUserSocket::new(&path, VhostUserRole::Server).unwrap_err();
    assert!(taken.to_string().contains("left alone"), "{taken}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
