//! Where a systemd socket unit listens. systemd is asked (`systemctl show`), since drop-ins and specifiers make the unit's file say less
//! than that; once, at the start, and before privileges are dropped: no program is run afterwards.
//!
//! A connection to the unit's own socket is what systemd hands to the service: to an instance for each with `Accept=yes`, otherwise to the
//! one service that accepts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::target::Place;

/// Asks systemd.
///
/// # Errors
/// What it said, or why what it said leads nowhere.
pub(super) fn look_up(name: &str) -> Result<Place, String> {
    let shown = Command::new("systemctl")
        .args(["show", "--property=LoadState", "--property=Listen", "--", name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("systemd cannot be asked where {name} listens: systemctl: {error}"))?;
    if !shown.status.success() {
        let said = String::from_utf8_lossy(&shown.stderr);
        return Err(format!("systemd does not say where {name} listens: {}", said.trim()));
    }
    understand(name, &String::from_utf8_lossy(&shown.stdout))
}

/// Finds the first stream socket in what `systemctl show` prints: lines such as `Listen=/run/x.sock (Stream)`.
fn understand(name: &str, shown: &str) -> Result<Place, String> {
    let values =
        |key: &'static str| shown.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
    match values("LoadState").next() {
        Some("loaded") => {}
        state => return Err(format!("the unit {name} is {}", state.unwrap_or("unknown to systemd"))),
    }
    let streams = values("Listen").filter_map(|listen| listen.strip_suffix(" (Stream)"));
    streams.filter_map(place).next().ok_or_else(|| {
        format!("{name} listens neither at a Unix stream socket nor at a TCP port that the loopback reaches")
    })
}

/// Any address is reached by the loopback's.
fn place(listen: &str) -> Option<Place> {
    if listen.starts_with('/') {
        return Some(Place::Unix(PathBuf::from(listen)));
    }
    let address: SocketAddr = listen.parse().ok()?;
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    ip.is_loopback().then(|| Place::Tcp(SocketAddr::new(ip, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(shown: &str) -> Result<Place, String> {
        understand("x.socket", shown)
    }

    #[test]
    fn first_stream_socket_that_can_be_reached_is_taken() {
        let unix = find("Listen=/run/x.fifo (FIFO)\nListen=/run/x.sock (Stream)\nLoadState=loaded\n");
        assert_eq!(unix, Ok(Place::Unix("/run/x.sock".into())));
        let any = find("LoadState=loaded\nListen=[::]:22 (Stream)\n");
        assert_eq!(any, Ok(Place::Tcp("[::1]:22".parse().unwrap())));
        let second = find("LoadState=loaded\nListen=192.0.2.1:22 (Stream)\nListen=127.0.0.1:22 (Stream)\n");
        assert_eq!(second, Ok(Place::Tcp("127.0.0.1:22".parse().unwrap())));
    }

    #[test]
    fn unit_that_is_not_there_or_out_of_reach_is_named() {
        assert_eq!(find("LoadState=not-found\n"), Err("the unit x.socket is not-found".to_owned()));
        let datagrams = find("LoadState=loaded\nListen=/run/x.sock (Datagram)\n").unwrap_err();
        assert!(datagrams.contains("listens neither"), "{datagrams}");
    }
}
