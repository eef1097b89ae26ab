//! traceroute: the routers on the way, as an ordinary user: UDP datagrams with a rising time to live, and who complains of them.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_ipc::datagram::code;
use netd_ipc::{Client, ErrorKind, Event, UdpSocket};
use serde::Serialize;

use crate::cli;
use crate::error::Error;
use crate::output::{Output, milliseconds};

/// Ports that nobody listens on, by tradition; each datagram has its own, so that a late answer is known for what it is.
const PORT_FIRST: u16 = 33_434;

/// One datagram and what came of it.
#[derive(Debug, Serialize)]
struct Probe {
    ttl: u8,
    /// Who answered; none if nobody did.
    from: Option<IpAddr>,
    rtt_us: Option<u64>,
    /// `hop`, `arrived`, `unreachable` or `silent`.
    result: &'static str,
}

pub(crate) fn run(client: &Client, output: &Output, arguments: &cli::Traceroute) -> Result<ExitCode, Error> {
    let cli::Traceroute { ref host, max_ttl, probes, timeout } = *arguments;
    let to = *host.addresses(client)?.first().ok_or(Error::Usage("the name has no address"))?;
    let socket = client.udp_bind(None)?;
    let mut all = Vec::new();
    let mut port = PORT_FIRST;
    'hops: for ttl in 1..=max_ttl {
        socket.set_ttl(ttl);
        let first = all.len();
        for _ in 0..probes {
            all.push(probe(&socket, SocketAddr::new(to, port), ttl, timeout)?);
            port = port.wrapping_add(1).max(PORT_FIRST);
        }
        let hop = &all[first..];
        output.progress(&line(ttl, hop))?;
        if hop.iter().any(|probe| matches!(probe.result, "arrived" | "unreachable")) {
            break 'hops;
        }
    }
    let arrived = all.iter().any(|probe| probe.result == "arrived");
    if output.is_json() {
        output.result(&all, String::new)?;
    }
    Ok(if arrived { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn probe(socket: &UdpSocket, to: SocketAddr, ttl: u8, timeout: Duration) -> Result<Probe, Error> {
    let start = Instant::now();
    socket.send_to(b"netctl traceroute", to)?;
    socket.set_read_deadline(Some(start + timeout));
    let silent = Probe { ttl, from: None, rtt_us: None, result: "silent" };
    loop {
        let event = match socket.recv_event(&mut [0; 64]) {
            Ok(event) => event,
            Err(error) if error.kind() == Some(ErrorKind::TimedOut) => return Ok(silent),
            Err(error) => return Err(error.into()),
        };
        let rtt_us = Some(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        let answered = |from, result| Ok(Probe { ttl, from, rtt_us, result });
        match event {
            // Somebody does listen there.
            Event::Datagram(received) if received.from == to => return answered(Some(to.ip()), "arrived"),
            Event::Failed { to: about, code, reporter, mtu: _ } if about == to => match code {
                code::TIME_EXCEEDED => return answered(reporter, "hop"),
                code::PORT_UNREACHABLE => return answered(reporter.or(Some(to.ip())), "arrived"),
                code::POLICY_DENIED => {
                    let message = format!("datagrams to {to} are denied: traceroute needs net.udp.send");
                    return Err(netd_ipc::Error::Refused { kind: ErrorKind::PolicyDenied, message }.into());
                }
                code::DEVNET_DISABLED => {
                    let message = "the devnet switch is off".to_owned();
                    return Err(netd_ipc::Error::Refused { kind: ErrorKind::DevnetDisabled, message }.into());
                }
                _ => return answered(reporter, "unreachable"),
            },
            // About an earlier one, too late.
            Event::Datagram(_) | Event::Failed { .. } => {}
        }
    }
}

/// The probes of one hop: each address once, then its times.
fn line(ttl: u8, probes: &[Probe]) -> String {
    let mut text = format!("{ttl:>2}");
    let mut last = None;
    for Probe { from, rtt_us, result, .. } in probes {
        match (from, rtt_us) {
            (None, None) => text.push_str("  *"),
            (from, rtt) => {
                if *from != last {
                    last = *from;
                    text.push_str(&format!(
                        "  {}",
                        from.map_or_else(|| "?".to_owned(), |from| from.to_string())
                    ));
                }
                text.push_str(&format!("  {}", milliseconds(rtt.unwrap_or_default())));
            }
        }
        if *result == "unreachable" {
            text.push_str(" !");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_names_each_router_once() {
        let probe = |from: Option<[u8; 4]>, result| Probe {
            ttl: 3,
            from: from.map(IpAddr::from),
            rtt_us: from.map(|_| 1500),
            result,
        };
        let hop = Some([192, 0, 2, 1]);
        let probes = [probe(hop, "hop"), probe(None, "silent"), probe(hop, "hop")];
        assert_eq!(line(3, &probes), " 3  192.0.2.1  1.500 ms  *  1.500 ms");
    }
}
