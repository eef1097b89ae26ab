//! Clients that mean harm, against a whole daemon: they harm themselves, and others notice nothing.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener as KernelListener, TcpStream as KernelStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netd_ipc::{Client, ErrorKind, passing};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair, sockopt};

use crate::lab::{Lab, assert_serves, kind, wait};

fn raw(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(&lab.ours.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn garbage_and_half_messages_harm_nobody() {
    let lab = Lab::start();
    let mut held = Vec::new();
    for length in [1, 7, 100, 5000, 65_000] {
        let mut stream = raw(&lab);
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
        let _ = stream.write_all(&bytes);
        // Some stay, with half a message.
        held.push(stream);
    }
    let mut stream = raw(&lab);
    let _ = stream.write_all(&vec![b'{'; 200_000]);
    assert_serves(&lab);
}

/// A TCP socket whose last close waits for a peer that reads nothing: 30 s, were it closed by a thread that serves others.
fn lingering() -> (KernelStream, KernelStream) {
    let listener = KernelListener::bind("127.0.0.1:0").unwrap();
    let mut lingering = KernelStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    sockopt::set_socket_linger(&lingering, Some(Duration::from_secs(30))).unwrap();
    lingering.set_nonblocking(true).unwrap();
    while lingering.write(&[0; 65_536]).is_ok() {}
    lingering.set_nonblocking(false).unwrap();
    (lingering, peer)
}

#[test]
fn descriptor_beside_an_urgent_byte_is_not_closed_by_a_thread_that_serves_others() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let begun = Instant::now();
    let (ours, _theirs) = lab.stream(&client);
    let call = raw(&lab);
    for socket in [ours.as_fd(), call.as_fd()] {
        let (lingering, _peer) = lingering();
        passing::send(socket, &[IoSlice::new(b"!")], &[lingering.as_fd()], SendFlags::OOB).unwrap();
        // The kernel drops such a byte when the one behind it is read. By then netd may have closed.
        let _ = passing::send(socket, &[IoSlice::new(b"!")], &[], SendFlags::empty());
        std::thread::spawn(move || drop(lingering));
        assert_serves(&lab);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn descriptors_without_end_and_one_that_lingers_end_the_connection_that_sent_them() {
    let lab = Lab::start();
    let (lingering, _peer) = lingering();
    let begun = Instant::now();
    for _ in 0..20 {
        let (one, _other) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let stream = raw(&lab);
        let request = b"{\"method\":\"io.netd.GetStatus\"}\0";
        let many = [lingering.as_fd(), one.as_fd(), one.as_fd(), one.as_fd()];
        for _ in 0..50 {
            if passing::send(&stream, &[IoSlice::new(request)], &many, SendFlags::DONTWAIT).is_err() {
                break;
            }
        }
    }
    // Whoever closes the last copy waits: netd's closing thread, or this one if netd was faster.
    std::thread::spawn(move || drop(lingering));
    assert_serves(&lab);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn reader_that_stops_holds_up_its_own_stream_alone() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let (stuck, theirs) = lab.stream(&client);
    let writer = theirs.try_clone().unwrap();
    writer.set_write_deadline(Some(Instant::now() + Duration::from_secs(2)));
    let block = vec![7; 1 << 16];
    let mut sent = 0;
    while let Ok(count) = writer.send(&block) {
        sent += count;
        assert!(sent < 64 << 20, "nobody reads, and {sent} bytes were taken");
    }
    for _ in 0..5 {
        assert_serves(&lab);
    }
    drop(stuck);
}

#[test]
fn listener_that_never_accepts_leaves_descriptors_for_others() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let idle = client.tcp_listen(Some(7000), None).unwrap();
    let peer = lab.theirs.client();
    let streams: Vec<_> =
        (0..60).filter_map(|_| peer.tcp_connect("10.9.0.1:7000".parse().unwrap(), None).ok()).collect();
    assert!(streams.len() > 8, "{}", streams.len());
    // Few are delivered; the rest waits in the backlog.
    let delivered = client.sockets().unwrap().iter().filter(|socket| socket.remote.is_some()).count();
    assert!((1..=16).contains(&delivered), "{delivered}");
    assert_serves(&lab);
    drop(idle);
}

#[test]
fn thousand_connections_are_bounded_and_leave_other_users_theirs() {
    let lab = Lab::start();
    let mut held: Vec<UnixStream> =
        (0..1000).filter_map(|_| UnixStream::connect(&lab.ours.socket).ok()).collect();
    let refused =
        wait("a refusal", || match Client::connect(&lab.ours.socket).and_then(|client| client.status()) {
            Ok(_) => None,
            Err(error) => error.kind(),
        });
    assert_eq!(refused, ErrorKind::QuotaExceeded);
    if rustix::process::geteuid().is_root() {
        // Another user has a share of its own.
        let status =
            "import sys; sys.path.insert(0, sys.argv[1]); import netd; netd.client().call('GetStatus')";
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../ipc/python/netd.py");
        let copy = lab.directory.path().join("netd.py");
        std::fs::copy(module, &copy).unwrap();
        let done = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", status])
            .arg(lab.directory.path())
            .env("NETD_SOCKET", &lab.ours.socket)
            .status()
            .unwrap();
        assert!(done.success(), "another user is kept out");
    }
    // Those that were let in are served.
    let mut answers = 0;
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
        let mut bytes = [0; 40];
        if stream.read(&mut bytes).is_ok_and(|count| count > 0)
            && bytes.starts_with(b"{\"parameters\":{\"interfaces")
        {
            answers += 1;
        }
    }
    assert!((1..=64).contains(&answers), "{answers}");
    drop(held);
    wait("room", || Client::connect(&lab.ours.socket).and_then(|client| client.status()).ok());
    assert_serves(&lab);
}

#[test]
fn capture_that_is_not_read_slows_nobody_and_says_what_it_lost() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let mut idle = client.capture("tcp", None).unwrap();
    assert_eq!(kind(client.capture("", None)), ErrorKind::QuotaExceeded);
    let (mut ours, mut theirs) = lab.stream(&client);
    let sender = std::thread::spawn(move || {
        ours.write_all(&vec![1; 8 << 20]).unwrap();
        ours.shutdown_write().unwrap();
        ours
    });
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 8 << 20);
    drop(sender.join().unwrap());
    // Statistics blocks (type 5) come once the reader has caught up.
    idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    loop {
        let mut head = [0; 8];
        idle.read_exact(&mut head).unwrap();
        let [kind, len] = [0, 4].map(|at| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap()));
        idle.read_exact(&mut vec![0; len as usize - 8]).unwrap();
        if kind == 5 {
            break;
        }
    }
}
