//! Small programs for both sides of the wire, where no common program does the job.

#![forbid(unsafe_code)]

use netd_tests::digest;
use netd_tests::hugefill::Filled;
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: netd-peer COMMAND
  generate BYTES SEED      write a stream that depends on SEED alone; its SHA-256 goes to standard error
  digest                   SHA-256 and length of standard input
  blast ADDRESS PORT SECS  send UDP datagrams as fast as they go
  talk ADDRESS:PORT        send each line of standard input over one UDP socket of netd's, and print the answer or the error's name
  hugefill SECS            fill every free hugepage of this machine, wait, and report foreign writes
  reset PORT BYTES         accept one TCP connection, send BYTES, wait until they were received, reset it";

/// The largest UDP payload that fits a frame of the smallest MTU in use (1460 on GCE).
const BLAST_PAYLOAD_BYTES: usize = 1460 - 20 - 8;
const HUGETLBFS: &str = "/dev/hugepages";
/// An answer is as long as the line.
const ANSWER_BYTES_MAX: usize = 1024;
/// Room for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netd-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> io::Result<()> {
    match arguments {
        ["generate", bytes, seed] => {
            let sum = digest::generate(number(bytes)?, number(seed)?, io::stdout().lock())?;
            writeln!(io::stderr(), "{sum}")
        }
        ["digest"] => {
            let (bytes, sum) = digest::of_reader(io::stdin().lock())?;
            writeln!(io::stdout(), "{sum} {bytes}")
        }
        ["blast", address, port, seconds] => blast(address, port, Duration::from_secs(number(seconds)?)),
        ["talk", peer] => talk(peer),
        ["hugefill", seconds] => hugefill(Duration::from_secs(number(seconds)?)),
        ["reset", port, bytes] => reset(port, number(bytes)?),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, USAGE)),
    }
}

fn blast(address: &str, port: &str, duration: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let destination = format!("{address}:{port}");
    let deadline = Instant::now() + duration;
    let payload = [0xb1; BLAST_PAYLOAD_BYTES];
    let mut sent = 0_u64;
    while Instant::now() < deadline {
        match socket.send_to(&payload, &destination) {
            Ok(_) => sent += 1,
            // A full queue, or an earlier datagram that was answered with "port unreachable".
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                thread::yield_now();
            }
            Err(error) => return Err(error),
        }
    }
    writeln!(io::stdout(), "sent {sent}")
}

fn talk(peer: &str) -> io::Result<()> {
    let peer: SocketAddr = peer.parse().map_err(io::Error::other)?;
    let socket = netd_ipc::Client::shared().and_then(|client| client.udp_bind(None))?;
    for line in io::stdin().lock().lines() {
        let mut answer = [0; ANSWER_BYTES_MAX];
        socket.send_to(line?.as_bytes(), peer)?;
        socket.set_read_deadline(Some(Instant::now() + ANSWER_LIMIT));
        match socket.recv_from(&mut answer) {
            Ok((len, _)) => {
                writeln!(io::stdout(), "{}", String::from_utf8_lossy(answer.get(..len).unwrap_or_default()))?;
            }
            Err(error) => match error.kind() {
                Some(kind) => writeln!(io::stdout(), "{kind}")?,
                None => return Err(error.into()),
            },
        }
        io::stdout().flush()?;
    }
    Ok(())
}

fn hugefill(wait: Duration) -> io::Result<()> {
    let filled = Filled::take_all(Path::new(HUGETLBFS))?;
    let mut out = io::stdout().lock();
    writeln!(out, "filled {}", filled.pages())?;
    out.flush()?;
    thread::sleep(wait);
    let damage = filled.damage()?;
    if damage.is_empty() {
        return writeln!(out, "holds");
    }
    Err(io::Error::other(format!("{} of {} pages were written to: {damage:?}", damage.len(), filled.pages())))
}

fn reset(port: &str, bytes: u64) -> io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    let (mut stream, _) = listener.accept()?;
    digest::generate(bytes, 0, &stream)?;
    // One byte back says that everything has arrived; a reset before that would discard what is still on its way.
    let mut acknowledgement = [0];
    stream.read_exact(&mut acknowledgement)?;
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    writeln!(io::stdout(), "reset")
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?}: {error}")))
}
