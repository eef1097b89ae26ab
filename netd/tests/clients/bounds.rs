//! Reload, bounds and log level of a running daemon.

use std::fs;
use std::io::Read;
use std::time::Instant;

use netd_ipc::{ErrorKind, StreamEnd};

use crate::lab::{Lab, PEER, assert_serves, configuration, kind, wait};

#[test]
fn hang_up_with_devnet_off_cuts_outbound_streams_audits_them_and_goes_back_on() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let (mut ours, mut theirs) = lab.stream(&client);
    let write = |devnet, more: &str| {
        let text = configuration(lab.directory.path(), "ours", "10.9.0.1", &lab.link, devnet, more);
        fs::write(&lab.ours.config, text).unwrap();
        lab.ours.hang_up();
    };
    // First one that is wrong: it changes nothing.
    write(false, "[limits]\nsockets = 0\n");
    wait("the complaint", || lab.ours.log().contains("the old configuration stays in force").then_some(()));
    assert!(client.status().unwrap().devnet_enabled);
    write(false, "");
    wait("the switch", || (!client.status().unwrap().devnet_enabled).then_some(()));
    assert!(ours.read(&mut [0; 1]).is_err(), "cut short is an error");
    assert_eq!(wait("the end", || client.outcome(ours.id()).ok()).end, StreamEnd::Aborted);
    assert!(theirs.read(&mut [0; 1]).is_err());
    assert!(lab.ours.log().contains("cut"), "{}", lab.ours.log());
    assert_eq!(kind(client.resolve("peer.test")), ErrorKind::DevnetDisabled);
    write(true, "");
    wait("the switch", || client.status().unwrap().devnet_enabled.then_some(()));
    assert_serves(&lab);
}

#[test]
fn bounds_of_the_configuration_hold_and_are_shown() {
    let lab = Lab::with("[limits.client]\nsockets = 3\nmemory_mib = 2\nconnections = 5\n");
    let client = lab.ours.client();
    let held: Vec<_> = std::iter::from_fn(|| client.udp_bind(None).ok()).take(10).collect();
    // Of 768 KiB each, two fit 2 MiB.
    assert_eq!(held.len(), 2);
    let error = client.udp_bind(None).unwrap_err();
    assert!(error.to_string().contains("'[limits.client] memory_mib'"), "{error}");
    let refused = client.tcp_connect("10.9.0.2:9".parse().unwrap(), None);
    assert_eq!(kind(refused), ErrorKind::QuotaExceeded);
    let report = client.clients().unwrap();
    let [user] = report.clients[..] else { panic!("{report:?}") };
    assert_eq!((user.sockets.used, user.sockets.limit, user.connections.limit), (2, 3, 5));
    assert!(user.memory_bytes.refused >= 2 && user.memory_bytes.used > 1 << 20, "{user:?}");
    drop(held);
    wait("room", || client.udp_bind(None).ok());
}

#[test]
fn log_level_set_by_the_daemons_user_takes_effect_at_once() {
    let lab = Lab::start();
    let client = lab.ours.client();
    assert_eq!(client.set_log_level("netd=trace").unwrap(), "info");
    drop(lab.ours.client());
    wait("a trace", || lab.ours.log().contains("TRACE").then_some(()));
    assert_eq!(client.set_log_level("info").unwrap(), "netd=trace");
}

#[test]
fn killed_client_closes_its_sockets_and_frees_their_memory() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let port = lab.http_server();
    // A client that holds a stream, a listener and a UDP socket, and says so.
    let script = format!(
        "import sys, time; sys.path.insert(0, sys.argv[1]); import netd\n\
         held = [netd.create_connection(('{PEER}', {port})), netd.create_server(0), netd.client().bind_udp()]\n\
         print('ready', flush=True); time.sleep(600)"
    );
    let mut child = std::process::Command::new("python3")
        .args(["-c", &script, concat!(env!("CARGO_MANIFEST_DIR"), "/../ipc/python")])
        .env("NETD_SOCKET", &lab.ours.socket)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    assert_eq!(client.clients().unwrap().total.sockets.used, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    wait("the end of its sockets", || (client.clients().unwrap().total.sockets.used == 0).then_some(()));
    println!("reclaimed after {:?}", killed.elapsed());
    assert_eq!(client.clients().unwrap().total.memory_bytes.used, 0);
    assert!(client.sockets().unwrap().is_empty());
}
