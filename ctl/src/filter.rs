//! Which sockets `netctl sockets` shows: filters in the manner of ss(8).

use ipnet::IpNet;
use netd_ipc::{Endpoint, Socket, SocketKind};

use crate::cli;

impl cli::Sockets {
    /// Whether a socket is one of those asked for.
    pub(crate) fn takes(&self, socket: &Socket) -> bool {
        let cli::Sockets { tcp, udp, listening, state, sport, dport, port, src, dst, user } = self;
        let kind = match socket.kind {
            SocketKind::Tcp => *tcp && !listening || !tcp && !udp && !listening,
            SocketKind::TcpListener => *tcp || *listening || !udp,
            SocketKind::Udp => *udp && !listening || !tcp && !udp && !listening,
            SocketKind::Frames => !tcp && !udp && !listening,
        };
        let local = Some(socket.local);
        let at = |endpoint: Option<Endpoint>, wanted: &Option<u16>| {
            wanted.is_none_or(|wanted| endpoint.is_some_and(|endpoint| endpoint.port == wanted))
        };
        let within = |endpoint: Option<Endpoint>, wanted: &Option<IpNet>| {
            wanted.is_none_or(|wanted| endpoint.is_some_and(|endpoint| wanted.contains(&endpoint.address)))
        };
        kind && (state.is_empty() || state.iter().any(|wanted| is_in(socket, wanted)))
            && at(local, sport)
            && at(socket.remote, dport)
            && (at(local, port) || at(socket.remote, port))
            && within(local, src)
            && within(socket.remote, dst)
            && user.is_none_or(|user| user == socket.uid)
    }
}

/// A state by its name, with `-` or `_` alike; `connected` is every state of a connection that carries data or did.
fn is_in(socket: &Socket, wanted: &str) -> bool {
    let wanted = wanted.replace('-', "_").to_ascii_lowercase();
    match wanted.as_str() {
        "connected" => {
            socket.kind == SocketKind::Tcp && !matches!(socket.state.as_str(), "syn_sent" | "closed")
        }
        wanted => socket.state == wanted,
    }
}

/// An address or a prefix.
pub(crate) fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from).ok();
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| "expected an address or a prefix, such as 192.0.2.1 or 10.0.0.0/8".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn socket(kind: &str, state: &str, local: u16, remote: Option<u16>) -> Socket {
        let endpoint = |address: &str, port| json!({ "address": address, "port": port });
        serde_json::from_value(json!({
            "id": 1, "kind": kind, "state": state, "local": endpoint("10.0.0.5", local),
            "remote": remote.map(|port| endpoint("192.0.2.1", port)), "ether_type": null, "uid": 1000, "pid": 1, "unit": null,
            "receive_queued_bytes": 0, "send_queued_bytes": 0, "received_bytes": 0, "sent_bytes": 0,
        }))
        .unwrap()
    }

    /// Which of a connection, a listener, a closing connection and a UDP socket are shown.
    fn shown(arguments: &[&str]) -> String {
        let all = [
            ('c', socket("tcp", "established", 50_000, Some(443))),
            ('l', socket("tcp_listener", "listen", 80, None)),
            ('w', socket("tcp", "close_wait", 80, Some(51_000))),
            ('u', socket("udp", "bound", 53, None)),
            ('f', socket("frames", "bound", 0, None)),
        ];
        let arguments = [&["netctl", "sockets"], arguments].concat();
        let Command::Sockets(filter) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
        all.iter().filter(|(_, socket)| filter.takes(socket)).map(|(name, _)| name).collect()
    }

    #[test]
    fn takes_what_every_filter_takes() {
        for (arguments, expected) in [
            (&[][..], "clwuf"),
            (&["-t"], "clw"),
            (&["-u"], "u"),
            (&["-t", "-u"], "clwu"),
            (&["-l"], "l"),
            (&["--state", "established"], "c"),
            (&["--state", "close-wait", "--state", "listen"], "lw"),
            (&["--state", "connected"], "cw"),
            (&["--sport", "80"], "lw"),
            (&["--dport", "443"], "c"),
            (&["--port", "80"], "lw"),
            (&["--dst", "192.0.2.0/24"], "cw"),
            (&["--src", "10.0.0.5", "--dst", "192.0.2.1", "--dport", "51000"], "w"),
            (&["--user", "1000"], "clwuf"),
            (&["--user", "0"], ""),
        ] {
            assert_eq!(shown(arguments), expected, "{arguments:?}");
        }
    }
}
