//! Hostile clients as a user of their own: the daemons run as one ordinary user, they as another, and their victims as a third.
//! Whatever they do, the others' connections are made and carry bytes, and netd is as before once they are gone.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netd_ipc::{Client, ErrorKind};

use crate::lab::{HOSTILE_UID, Lab, OURS, PEER, kind, run_as, wait};

/// Connections to netd that a victim makes one after the other: more than one user may have at once.
const CONNECTIONS: usize = 100;
/// Streams that it makes one after the other.
const STREAMS: usize = 20;
/// What it sends over one of them, and gets back.
const BULK_BYTES: usize = 4 << 20;
/// What netd's memory may grow by from the first attack of a kind to the last: what the allocator may keep of one user's sockets,
/// 256 streams with 128 KiB of buffers each, in pieces that do not fit together again.
const GROWTH_BYTES_MAX: u64 = 40 << 20;
/// Connections that the peer makes to listeners which do not accept.
const TO_IDLE_MAX: usize = 100;

/// A hostile client at work, which ends with this.
struct Attack(Child);

impl Attack {
    fn start(lab: &Lab, what: &str) -> Attack {
        let script = lab.directory.path().join("attacker.py");
        if !script.exists() {
            fs::write(&script, include_str!("attacker.py")).unwrap();
            fs::set_permissions(&script, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let mut command = Command::new("python3");
        command.arg(script).arg(what).arg(&lab.ours.socket).args([PEER, &lab.flood_server().to_string()]);
        command.stdout(Stdio::piped());
        let mut child = run_as(&mut command, HOSTILE_UID).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (ready, begun) = mpsc::channel();
        let peer = lab.theirs.client();
        thread::spawn(move || {
            let mut streams = Vec::new();
            for line in lines.map_while(Result::ok) {
                match line.strip_prefix("listening ") {
                    None => drop(ready.send(line)),
                    Some(port) if streams.len() < TO_IDLE_MAX => {
                        let to = format!("{OURS}:{port}").parse().unwrap();
                        streams.extend(
                            (0..20).map_while(|_| peer.tcp_connect(to, Some(Duration::from_secs(1))).ok()),
                        );
                    }
                    Some(_) => {}
                }
            }
        });
        let attack = Attack(child);
        assert_eq!(
            begun.recv_timeout(crate::lab::PATIENCE).as_deref(),
            Ok("ready"),
            "the attack did not begin"
        );
        attack
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a daemon holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    resident_bytes: u64,
}

impl Holdings {
    fn of(pid: u32) -> Holdings {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let pages: u64 = fs::read_to_string(process.join("statm"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        Holdings {
            descriptors: fs::read_dir(process.join("fd")).unwrap().count(),
            resident_bytes: pages * rustix::param::page_size() as u64,
        }
    }
}

/// What a victim does, from new connections to bulk. Returns how long that took.
fn work(socket: &Path, echo: u16) -> Duration {
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        Client::connect(socket).unwrap().status().unwrap();
    }
    let client = Client::connect(socket).unwrap();
    let to = format!("{PEER}:{echo}").parse().unwrap();
    for _ in 0..STREAMS {
        let mut stream = client.tcp_connect(to, Some(crate::lab::PATIENCE)).unwrap();
        stream.write_all(b"question").unwrap();
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"question");
    }
    let stream = client.tcp_connect(to, Some(crate::lab::PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..BULK_BYTES).map(|at| (at % 251) as u8).collect();
    let mut echoed = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&sent).and_then(|()| Ok(stream.shutdown_write()?)).unwrap());
        (&stream).read_to_end(&mut echoed).unwrap();
    });
    assert!(echoed == sent, "{} of {BULK_BYTES} bytes", echoed.len());
    begun.elapsed()
}

/// Waits until nobody has anything any more, and says what netd holds then.
fn settled(client: &Client, pid: u32, descriptors_max: usize) -> Holdings {
    wait("everything to be given back", || {
        let report = client.clients().unwrap();
        let idle = report.clients.iter().all(|client| {
            let connections = client.connections.used == 0 || client.uid != HOSTILE_UID;
            connections && client.sockets.used + client.memory_bytes.used + client.captures.used == 0
        });
        let holdings = Holdings::of(pid);
        (idle && report.total.sockets.used == 0 && holdings.descriptors <= descriptors_max)
            .then_some(holdings)
    })
}

/// Lets a hostile client have its way, and looks at what others notice and what is left of it.
fn withstands(what: &str, rounds: usize) {
    let lab = Lab::start();
    let (client, echo, pid) = (lab.ours.client(), lab.echo_servers(), lab.ours.pid());
    let alone = work(&lab.ours.socket, echo);
    let before = settled(&client, pid, usize::MAX);
    let mut after = Vec::new();
    for _ in 0..rounds {
        let attack = Attack::start(&lab, what);
        let attacked = work(&lab.ours.socket, echo);
        drop(attack);
        after.push(settled(&client, pid, before.descriptors));
        println!(
            "{what}: {alone:?} alone, {attacked:?} under attack; {before:?} before, {:?} after",
            after.last()
        );
    }
    let (first, last) = (after[0].resident_bytes, after[rounds - 1].resident_bytes);
    assert!(last <= first + GROWTH_BYTES_MAX, "from {first} to {last} bytes in {rounds} attacks");
    assert!(!lab.ours.log().contains("panicked"), "{}", lab.ours.log());
    work(&lab.ours.socket, echo);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn garbage_harms_only_its_sender() {
    withstands("garbage", 1);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn descriptors_without_end_harm_only_their_sender() {
    withstands("descriptors", 1);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn descriptors_that_linger_harm_only_their_sender() {
    withstands("linger", 2);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn reader_that_stops_harms_only_itself() {
    withstands("silence", 1);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn listeners_that_never_accept_harm_only_their_owner() {
    withstands("idle_listeners", 1);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn thousand_connections_harm_only_their_owner() {
    withstands("connections", 1);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn dripping_caller_harms_only_itself() {
    withstands("drip", 1);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn everything_at_once_harms_only_its_owner_and_leaves_nothing_behind() {
    withstands("everything", 5);
}

#[test]
#[ignore = "needs root, to be several users: cargo xtask test"]
fn sockets_of_others_are_invalid_by_name() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let (stream, _theirs) = lab.stream(&client);
    let udp = client.udp_bind(None).unwrap();
    let script = "import sys, socket, json\n\
                  def call(method, **parameters):\n\
                  \x20   s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
                  \x20   s.sendall(json.dumps({'method': 'io.netd.' + method, 'parameters': parameters}).encode() + b'\\0')\n\
                  \x20   print(json.loads(s.recv(65536)[:-1])['error'])\n\
                  stream, udp = map(int, sys.argv[2:])\n\
                  call('Outcome', id=stream); call('SetTcpOptions', id=stream, linger_seconds=0)\n\
                  call('SetUdpOptions', id=udp, broadcast=True)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(&lab.ours.socket).args([stream.id(), udp.id()].map(|id| id.to_string()));
    let output = run_as(&mut command, HOSTILE_UID).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "io.netd.InvalidSocket\n".repeat(3));
    // Nor does it help to be their owner where they are of another kind.
    assert_eq!(kind(client.outcome(udp.id())), ErrorKind::InvalidSocket);
    assert!(client.outcome(stream.id()).is_ok());
}
