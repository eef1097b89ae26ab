//! What a client holds when its daemon is replaced: refused by name, and never somebody else's; new calls reach the new daemon.

use std::io::{Read, Write};

use netd_ipc::{Error, ErrorKind, StreamEnd};

use crate::lab::{Lab, assert_serves, kind, wait};

/// `CutShort`, whose bytes must not look complete.
fn cut_short<T: std::fmt::Debug>(result: std::io::Result<T>) {
    let error = result.unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    assert!(matches!(inner, Some(Error::CutShort { .. })), "{error:?}");
}

#[test]
fn handles_of_a_killed_daemon_are_refused_by_name_and_new_calls_reach_its_successor() {
    let mut lab = Lab::start();
    let client = lab.ours.client();
    let first = client.status().unwrap().pid;
    let (mut stream, _theirs) = lab.stream(&client);
    let (mut finished, _their_other) = lab.stream(&client);
    finished.shutdown_write().unwrap();
    let listener = client.tcp_listen(None, None).unwrap();
    let udp = client.udp_bind(None).unwrap();
    let stale = [stream.id(), finished.id(), listener.id(), udp.id()];
    lab.restart();

    // The same client object: its connections are the old daemon's, and a call makes a new one.
    let second = wait("the new daemon", || client.status().ok()).pid;
    assert_ne!(first, second);
    // Others' sockets in the new daemon, which no old handle may touch.
    let (mut fresh, mut theirs) = lab.stream(&client);
    let fresh_udp = client.udp_bind(None).unwrap();
    let fresh_listener = client.tcp_listen(None, None).unwrap();
    let ids = [fresh.id(), fresh_udp.id(), fresh_listener.id()];
    assert!(ids.iter().all(|id| !stale.contains(id)), "{ids:?} and {stale:?}");

    cut_short(stream.read(&mut [0; 8]));
    cut_short(stream.write(b"x"));
    assert!(finished.read(&mut [0; 8]).is_err(), "after the own half-close, too");
    assert_eq!(kind(listener.accept()), ErrorKind::InvalidListener);
    assert_eq!(kind(udp.send_to(b"x", fresh.peer_addr())), ErrorKind::InvalidSocket);
    assert_eq!(kind(udp.recv_from(&mut [0; 8])), ErrorKind::InvalidSocket);
    for id in stale {
        assert_eq!(kind(client.outcome(id)), ErrorKind::InvalidSocket);
    }
    assert_eq!(kind(stream.set_nodelay(true)), ErrorKind::InvalidSocket);
    assert_eq!(kind(udp.set_broadcast(true)), ErrorKind::InvalidSocket);
    assert_eq!(kind(udp.connect(fresh.peer_addr())), ErrorKind::InvalidSocket);

    fresh.write_all(b"untouched").unwrap();
    let mut bytes = [0; 9];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(client.outcome(fresh.id()).unwrap().end, StreamEnd::Open);
    assert_serves(&lab);
}
