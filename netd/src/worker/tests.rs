//! A whole worker on a software device, against a peer: another stack, at the other end of the link's socket.
//!
//! The worker runs on a thread of its own, as in the daemon; the test plays the control thread, the client and the peer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock};

use netd_ipc::accepted::{Accepted, RECORD_BYTES};
use netd_ipc::datagram::{self, Header, Kind, code};
use netd_ipc::{DeviceState, ErrorKind, PollMode, StreamEnd, passing};
use netd_policy::{Policy, Subject};
use netd_stack::{
    Addressing, Cidr, Config, ConflictDetection, Egress, FlowId, Instant, Ipv6Addressing, Limits, Stack,
    Static,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv};

use super::{Port, Setup, Worker};
use crate::audit::Audit;
use crate::command::{Command, Completion, Reply, Submission, WorkerPort};
use crate::config;
use crate::device::Backend;
use crate::rules::Rules;

mod bounds;
mod frames;
mod names;
mod polling;

/// Nothing here takes longer, except on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(20);
const WORKER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWNER: Subject = Subject { uid: 1000, gid: 1000, pid: 1, unit: None };

/// A stack with a fixed address.
pub(crate) fn stack_config() -> Config {
    stack_at(WORKER)
}

fn stack_at(address: Ipv4Addr) -> Config {
    Config {
        mac: [2, 0, 0, 0, 0, address.octets()[3]],
        mtu: 1500,
        addressing: Addressing::Static(fixed(address)),
        hostname: None,
        seed: [7; 32],
        limits: Limits::default(),
    }
}

fn fixed(address: Ipv4Addr) -> Static {
    Static { cidr: Cidr::new(address, 24).unwrap(), gateway: None, mtu: None, dns: Vec::new() }
}

/// The peer: a stack whose frames go through the link's socket, on a thread of its own.
struct Peer {
    stack: Arc<Mutex<Stack>>,
    link: Arc<Mutex<Option<UnixStream>>>,
    started: Clock,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Wire<'a>(&'a UnixStream);

impl Egress for Wire<'_> {
    fn ready(&self) -> bool {
        true
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let mut frame = vec![0; len];
        let filled = fill(&mut frame);
        if filled {
            // A worker that is gone takes no more frames.
            let _ = self.0.write_all(&(len as u32).to_be_bytes()).and_then(|()| self.0.write_all(&frame));
        }
        filled
    }
}

struct OwnedWire(UnixStream);

impl Egress for OwnedWire {
    fn ready(&self) -> bool {
        true
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        Wire(&self.0).transmit(len, fill)
    }
}

impl Peer {
    fn start(listener: UnixListener) -> Self {
        let stack = Arc::new(Mutex::new(Stack::new(stack_at(PEER), Instant::ZERO).unwrap()));
        let (stop, started) = (Arc::new(AtomicBool::new(false)), Clock::now());
        let link = Arc::new(Mutex::new(None::<UnixStream>));
        let thread = thread::spawn({
            let (stack, stop, link) = (Arc::clone(&stack), Arc::clone(&stop), Arc::clone(&link));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok((accepted, _)) = listener.accept() else { return };
                    *link.lock().unwrap() = Some(accepted.try_clone().unwrap());
                    let link = accepted;
                    serve(&link, &stack, &stop, started);
                }
            }
        });
        Self { stack, started, stop, link, thread: Some(thread) }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.started.elapsed().as_micros() as u64)
    }

    /// A way to the worker for what cannot wait for the peer's own thread.
    fn wire(&self) -> OwnedWire {
        OwnedWire(self.link.lock().unwrap().as_ref().unwrap().try_clone().unwrap())
    }

    /// Waits until `look` finds something in the peer's stack.
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&mut Stack) -> Option<T>) -> T {
        wait(what, || look(&mut self.stack.lock().unwrap()))
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Clock::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Carries frames between the link and the stack until the link closes.
fn serve(link: &UnixStream, stack: &Mutex<Stack>, stop: &AtomicBool, started: Clock) {
    link.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (mut input, mut chunk) = (Vec::new(), vec![0; 65_536]);
    while !stop.load(Ordering::Relaxed) {
        let mut reader = link;
        match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => input.extend_from_slice(&chunk[..count]),
            Err(_) => {}
        }
        let now = Instant::from_micros(started.elapsed().as_micros() as u64);
        let mut stack = stack.lock().unwrap();
        while let Some((prefix, rest)) = input.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*prefix) as usize;
            let Some(frame) = rest.get(..len) else { break };
            stack.handle_frame(now, frame, &mut Wire(link));
            input.drain(..4 + len);
        }
        stack.poll(now, &mut Wire(link));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It waits for a link that may never come again, so it is left to end with the process.
        drop(self.thread.take());
    }
}

/// What a worker is made from here: a software device whose link goes to `link`.
fn setup(directory: &Path, link: PathBuf, poll: PollMode) -> Setup {
    let device = config::Device::Software { link: config::Link::Socket { path: link }, mac: None, mtu: 1500 };
    Setup {
        backend: Backend::open(&device, netd_virtqueue::Switches::default(), directory, poll).unwrap(),
        poll,
        network: config::Network {
            addressing: Addressing::Static(fixed(WORKER)),
            hostname: None,
            additional: Vec::new(),
            routes: Vec::new(),
            conflicts: ConflictDetection::default(),
            ipv6: Ipv6Addressing::default(),
            stable_identifiers: true,
        },
        tables: Limits::default(),
        dns: config::Dns { servers: vec![PEER.into()], ..config::Dns::default() },
        clock: config::Clock::default(),
        rules: Arc::new(Rules::new(policy(), crate::limits::Limits::default())),
        audit: Arc::new(Audit::new(Box::new(std::io::sink()))),
        store: crate::store::Store::open(directory, false).unwrap(),
        runtime_directory: directory.to_owned(),
        descriptors_max: 1024,
    }
}

/// The control thread's poll, and the waker for it.
fn control() -> (mio::Poll, Arc<mio::Waker>) {
    let poll = mio::Poll::new().unwrap();
    let waker = mio::Waker::new(poll.registry(), crate::control::WAKER).unwrap();
    (poll, Arc::new(waker))
}

/// A worker on its thread, and the control thread's side of it.
struct Lab {
    port: Port,
    rules: Arc<Rules>,
    peer: Peer,
    stop: Arc<AtomicBool>,
    wake: Arc<mio::Waker>,
    thread: Option<JoinHandle<()>>,
    next_token: u64,
    completions: Vec<Completion>,
    _control: mio::Poll,
    directory: tempfile::TempDir,
}

const GRANTED: &str = r#"
    [network.devnet]
    enabled = true
    [device]
    kind = "software"
    link = { kind = "socket", path = "/unused" }
    [[grant]]
    subject = "any"
    allow = ["net.udp.send"]
    ports = ["7"]
    [[grant]]
    subject = "any"
    allow = ["net.tcp.connect", "net.tcp.listen", "net.udp.bind"]
"#;

impl Lab {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// With a worker that is made from something else, and what may lie in its directory.
    fn with(adjust: impl FnOnce(&mut Setup, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let peer = Peer::start(UnixListener::bind(&path).unwrap());
        let (control, waker) = control();
        let mut setup = setup(directory.path(), path, PollMode::Adaptive);
        adjust(&mut setup, directory.path());
        let rules = Arc::clone(&setup.rules);
        let (worker, port, wake) = Worker::new(setup, waker).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || worker.run(&stop, &AtomicU64::new(0)).unwrap()
        });
        Self {
            port,
            rules,
            peer,
            stop,
            wake,
            thread: Some(thread),
            next_token: 0,
            completions: Vec::new(),
            _control: control,
            directory,
        }
    }

    fn submit(&mut self, command: Command) -> u64 {
        self.next_token += 1;
        let submission = Submission { token: self.next_token, owner: OWNER, command, decided: None };
        assert!(self.port.submit(submission).is_ok());
        self.next_token
    }

    fn answer(&mut self, token: u64) -> Reply {
        wait("an answer", || {
            self.completions.extend(self.port.completions());
            let at = self.completions.iter().position(|completion| completion.token == token)?;
            Some(self.completions.swap_remove(at).reply)
        })
    }

    fn call(&mut self, command: Command) -> Reply {
        let token = self.submit(command);
        self.answer(token)
    }

    fn connect(&mut self, port: u16) -> Reply {
        let remote = SocketAddr::from((PEER, port));
        self.call(Command::Connect { remote, timeout: PATIENCE })
    }

    /// A stream from the client to a listener of the peer: its id, the client's end, the peer's end.
    fn stream(&mut self, port: u16) -> (u64, UnixStream, FlowId) {
        let (listener, _) = self.peer.stack.lock().unwrap().tcp_listen(Some(port), 8).unwrap();
        let Reply::Stream { id, descriptor, .. } = self.connect(port) else { panic!("no stream") };
        let flow = self.peer.wait("the connection", |stack| stack.tcp_accept(listener).unwrap());
        let client = UnixStream::from(descriptor);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (id, client, flow)
    }

    fn outcome(&mut self, id: u64) -> netd_ipc::Outcome {
        match self.call(Command::Outcome { id }) {
            Reply::Outcome(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn wait_for_end(&mut self, id: u64) -> netd_ipc::Outcome {
        wait("the end", || Some(self.outcome(id)).filter(|outcome| outcome.end != StreamEnd::Open))
    }

    fn sockets(&mut self) -> Vec<netd_ipc::Socket> {
        match self.call(Command::Sockets) {
            Reply::Sockets(sockets) => sockets,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.wake().unwrap();
        if let Some(thread) = self.thread.take()
            && !thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

fn policy() -> Policy {
    config::Config::parse(Path::new("test"), GRANTED).unwrap().policy
}

fn send_all(stack: &mut Stack, flow: FlowId, bytes: &[u8]) {
    let sent = stack.tcp_send(flow, |room| {
        room[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    });
    assert_eq!(sent.unwrap(), bytes.len());
}

fn received(stack: &mut Stack, flow: FlowId) -> Vec<u8> {
    let mut bytes = Vec::new();
    while stack
        .tcp_receive(flow, |part| {
            bytes.extend_from_slice(part);
            part.len()
        })
        .is_ok_and(|count| count > 0)
    {}
    bytes
}

/// Whether the descriptor has hung up.
fn hung_up(descriptor: &impl std::os::fd::AsFd) -> bool {
    let mut fds = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

#[test]
fn bytes_cross_both_ways() {
    let mut lab = Lab::new();
    let (_, mut client, flow) = lab.stream(80);
    client.write_all(b"hello").unwrap();
    let heard = lab.peer.wait("hello", |stack| Some(received(stack, flow)).filter(|bytes| !bytes.is_empty()));
    assert_eq!(heard, b"hello");
    send_all(&mut lab.peer.stack.lock().unwrap(), flow, b"good day");
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"good day");
}

#[test]
fn peer_that_finishes_gives_end_of_file_without_hang_up() {
    let mut lab = Lab::new();
    let (id, mut client, flow) = lab.stream(80);
    {
        let mut stack = lab.peer.stack.lock().unwrap();
        send_all(&mut stack, flow, b"all of it");
        stack.tcp_finish(flow).unwrap();
    }
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "all of it");
    assert!(!hung_up(&client));
    assert!(lab.outcome(id).receive_finished);
    // The other direction goes on.
    client.write_all(b"and mine").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let heard = lab.peer.wait("the rest", |stack| {
        let finished = stack.tcp_status(flow).unwrap().readable == 8;
        finished.then(|| received(stack, flow))
    });
    assert_eq!(heard, b"and mine");
    let outcome = lab.wait_for_end(id);
    assert_eq!((outcome.end, outcome.receive_finished), (StreamEnd::Finished, true));
}

#[test]
fn peer_that_resets_gives_end_of_file_with_hang_up() {
    let mut lab = Lab::new();
    let (id, mut client, flow) = lab.stream(80);
    send_all(&mut lab.peer.stack.lock().unwrap(), flow, b"half of");
    let mut part = [0; 7];
    client.read_exact(&mut part).unwrap();
    lab.peer.stack.lock().unwrap().tcp_abort(flow);
    assert_eq!(client.read(&mut part).unwrap(), 0);
    assert!(hung_up(&client));
    let outcome = lab.outcome(id);
    assert_eq!((outcome.end, outcome.receive_finished), (StreamEnd::ConnectionReset, false));
}

#[test]
fn client_that_closes_has_its_last_bytes_sent_and_its_socket_gone() {
    let mut lab = Lab::new();
    let (_, mut client, flow) = lab.stream(80);
    client.write_all(b"last words").unwrap();
    drop(client);
    let heard = lab.peer.wait("the end", |stack| {
        let status = stack.tcp_status(flow).unwrap();
        (status.readable == 10).then(|| received(stack, flow))
    });
    assert_eq!(heard, b"last words");
    lab.peer.wait("FIN", |stack| stack.tcp_status(flow).unwrap().receive_finished.then_some(()));
    wait("an empty table", || lab.sockets().is_empty().then_some(()));
}

#[test]
fn client_that_closes_unread_resets_the_peer() {
    let mut lab = Lab::new();
    let (_, client, flow) = lab.stream(80);
    drop(client);
    wait("an empty table", || lab.sockets().is_empty().then_some(()));
    send_all(&mut lab.peer.stack.lock().unwrap(), flow, b"anybody?");
    lab.peer.wait("a reset", |stack| stack.tcp_status(flow).unwrap().closed);
}

#[test]
fn client_that_does_not_read_stops_only_itself() {
    let mut lab = Lab::new();
    let (_, lazy, flow) = lab.stream(80);
    // More than all buffers on the way hold.
    let mut sent = 0;
    let mut stalled_since = Clock::now();
    while stalled_since.elapsed() < Duration::from_millis(300) {
        let more = lab.peer.stack.lock().unwrap().tcp_send(flow, |room| room.len()).unwrap();
        if more > 0 {
            (sent, stalled_since) = (sent + more, Clock::now());
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(sent < 2 << 20, "{sent} bytes went to a client that reads none");
    let (_, mut other, flow) = lab.stream(81);
    send_all(&mut lab.peer.stack.lock().unwrap(), flow, b"you");
    let mut heard = [0; 3];
    other.read_exact(&mut heard).unwrap();
    drop(lazy);
}

#[test]
fn connect_to_a_closed_port_is_refused_by_name() {
    let mut lab = Lab::new();
    assert!(matches!(lab.connect(81), Reply::Failed(ErrorKind::ConnectionRefused, _)));
    assert!(lab.sockets().is_empty());
}

#[test]
fn connect_that_nobody_answers_times_out_at_its_deadline() {
    let mut lab = Lab::new();
    let remote = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 99), 80));
    let start = Clock::now();
    let reply = lab.call(Command::Connect { remote, timeout: Duration::from_millis(300) });
    assert!(matches!(reply, Reply::Failed(ErrorKind::TimedOut | ErrorKind::Unreachable, _)), "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn connect_that_is_cancelled_answers_nobody_and_leaves_nothing() {
    let mut lab = Lab::new();
    let remote = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 99), 80));
    let token = lab.submit(Command::Connect { remote, timeout: Duration::from_secs(1) });
    let cancel = Submission { token, owner: OWNER, command: Command::Cancel, decided: None };
    assert!(lab.port.submit(cancel).is_ok());
    thread::sleep(Duration::from_millis(1200));
    assert!(lab.sockets().is_empty());
    lab.completions.extend(lab.port.completions());
    assert!(lab.completions.iter().all(|completion| completion.token != token));
}

#[test]
fn listener_delivers_streams_with_their_addresses() {
    let mut lab = Lab::new();
    let Reply::Listener { descriptor: listener, local, .. } =
        lab.call(Command::Listen { address: None, port: Some(8080), backlog: 4 })
    else {
        panic!("no listener")
    };
    assert_eq!(local.to_string(), "[::]:8080", "both families");
    let now = lab.peer.now();
    let flow = lab.peer.stack.lock().unwrap().tcp_connect(now, (WORKER, 8080).into()).unwrap();
    let (accepted, mut stream) = accept(&listener);
    assert_eq!((accepted.remote.ip(), accepted.local), (PEER.into(), (WORKER, 8080).into()));
    lab.peer.wait("the handshake", |stack| stack.tcp_status(flow).unwrap().established.then_some(()));
    stream.write_all(b"welcome").unwrap();
    lab.peer.wait("welcome", |stack| (received(stack, flow) == b"welcome").then_some(()));
    drop(listener);
    wait("the listener to go", || (lab.sockets().len() == 1).then_some(()));
}

fn accept(listener: &OwnedFd) -> (Accepted, UnixStream) {
    let mut record = [0; RECORD_BYTES];
    let mut descriptors = Vec::new();
    let mut parts = [std::io::IoSliceMut::new(&mut record)];
    passing::receive(listener, &mut parts, &mut descriptors, RecvFlags::empty()).unwrap();
    (Accepted::decode(&record).unwrap(), UnixStream::from(descriptors.pop().unwrap()))
}

#[test]
fn connections_beyond_what_is_delivered_wait_and_are_not_lost() {
    let mut lab = Lab::new();
    let Reply::Listener { descriptor: listener, .. } =
        lab.call(Command::Listen { address: None, port: Some(8080), backlog: 64 })
    else {
        panic!("no listener")
    };
    let now = lab.peer.now();
    let flows: Vec<FlowId> = (0..30)
        .map(|_| lab.peer.stack.lock().unwrap().tcp_connect(now, (WORKER, 8080).into()).unwrap())
        .collect();
    for flow in &flows {
        lab.peer.wait("a handshake", |stack| stack.tcp_status(*flow).unwrap().established.then_some(()));
    }
    let streams: Vec<_> = (0..30).map(|_| accept(&listener)).collect();
    assert_eq!(streams.len(), 30);
    for flow in &flows {
        assert_eq!(lab.peer.stack.lock().unwrap().tcp_status(*flow).unwrap().closed, None);
    }
}

#[test]
fn datagrams_go_where_a_grant_says_and_nowhere_else() {
    let mut lab = Lab::new();
    let (echo, _) = lab.peer.stack.lock().unwrap().udp_bind(Some(7)).unwrap();
    let Reply::Udp { descriptor: socket, .. } = lab.call(Command::BindUdp { address: None, port: None })
    else {
        panic!("no socket")
    };
    let send = |port: u16, text: &[u8]| {
        let mut message = Header::data((PEER, port).into()).encode().to_vec();
        message.extend_from_slice(text);
        rustix::net::send(&socket, &message, SendFlags::empty()).unwrap();
    };
    send(7, b"echo?");
    let from = lab.peer.wait("the datagram", |stack| {
        let mut from = None;
        let taken = stack.udp_receive(echo, |meta, payload| {
            assert_eq!(payload, b"echo?");
            from = Some(meta.from);
            true
        });
        assert!(taken.is_ok());
        from
    });
    let mut buffer = [0; datagram::HEADER_BYTES + 100];
    send(9, b"not granted");
    let (_, len) = recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
    let (header, _) = Header::decode(&buffer[..len]).unwrap();
    assert_eq!((header.kind, header.peer), (Kind::Error(code::POLICY_DENIED), (PEER, 9).into()));
    assert_eq!(from.ip(), WORKER);
    drop(socket);
    wait("an empty table", || lab.sockets().is_empty().then_some(()));
}

#[test]
fn ping_is_answered() {
    let mut lab = Lab::new();
    match lab.call(Command::Ping { to: PEER.into(), timeout: PATIENCE, bytes: 56 }) {
        Reply::Ping(pong) => assert_eq!((pong.from, pong.bytes), (PEER.into(), 56)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn outcome_of_another_user_is_not_told() {
    let mut lab = Lab::new();
    let (id, _client, _) = lab.stream(80);
    let token = lab.submit(Command::Status);
    lab.answer(token);
    let other = Subject { uid: 1001, ..OWNER };
    let submission =
        Submission { token: token + 1, owner: other, command: Command::Outcome { id }, decided: None };
    lab.next_token = token + 1;
    assert!(lab.port.submit(submission).is_ok());
    assert!(matches!(lab.answer(token + 1), Reply::Failed(ErrorKind::InvalidSocket, _)));
}

#[test]
fn device_that_fails_ends_every_socket_by_name_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("link.sock");
    let _peer = Peer::start(UnixListener::bind(&path).unwrap());
    let (_control, waker) = control();
    let setup = setup(directory.path(), path, PollMode::Busy);
    let (mut worker, port, _wake) = Worker::new(setup, waker).unwrap();
    let events = mio::Events::with_capacity(8);
    let turn = |worker: &mut Worker, at: u64| worker.turn(Instant::from_micros(at), &events);
    let submit = |token, command| {
        assert!(port.submit(Submission { token, owner: OWNER, command, decided: None }).is_ok());
    };

    submit(1, Command::Listen { address: None, port: Some(80), backlog: 1 });
    turn(&mut worker, 0);
    let listener = port.completions().next().unwrap();
    let Reply::Listener { descriptor, .. } = listener.reply else { panic!("no listener") };
    worker.fail(Instant::ZERO, &netd_virtqueue::Fault::NeedsReset.into());
    wait("the end of its descriptor", || hung_up(&descriptor).then_some(()));
    submit(2, Command::Listen { address: None, port: Some(80), backlog: 1 });
    submit(3, Command::Status);
    turn(&mut worker, 1);
    let answers: Vec<_> = port.completions().map(|completion| completion.reply).collect();
    assert!(
        matches!(&answers[0], Reply::Failed(ErrorKind::DeviceUnavailable, why) if why.contains("NEEDS_RESET"))
    );
    let Reply::Status(status) = &answers[1] else { panic!("no status") };
    assert_eq!((status.device, status.addresses.len()), (DeviceState::Resetting, 0));

    turn(&mut worker, 200_000);
    submit(4, Command::Listen { address: None, port: Some(80), backlog: 1 });
    submit(5, Command::Device);
    turn(&mut worker, 200_001);
    let answers: Vec<_> = port.completions().map(|completion| completion.reply).collect();
    assert!(matches!(&answers[0], Reply::Listener { .. }));
    assert!(
        matches!(&answers[1], Reply::Device(device) if device.resets == 1 && device.state == DeviceState::Ready)
    );
}
