//! Where a published port leads: a server on this machine.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

/// How often a Unix socket whose queue is full is tried again: connect(2) does not wait for it as it does for TCP.
const QUEUE_PAUSE: Duration = Duration::from_millis(50);

/// Where connections are carried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP port of the kernel's loopback.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// Where a systemd socket unit listens.
    SocketUnit(String),
}

/// A connection to a server.
#[derive(Debug)]
pub(super) enum Connected {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::SocketUnit(name) => write!(f, "socket-unit:{name}"),
        }
    }
}

impl Target {
    /// Understands what `to` says.
    ///
    /// # Errors
    /// What would be right.
    pub(super) fn parse(text: &str) -> Result<Target, String> {
        const KNOWN: &str = "expected an address of this machine such as \"127.0.0.1:22\", \"unix:/run/x.sock\" or \"socket-unit:x.socket\"";
        if let Some(path) = text.strip_prefix("unix:") {
            return match PathBuf::from(path) {
                path if path.is_absolute() => Ok(Target::Unix(path)),
                _ => Err(format!("'{text}': the path of a Unix socket begins with /")),
            };
        }
        if let Some(name) = text.strip_prefix("socket-unit:") {
            return parse_unit(name).map(Target::SocketUnit).map_err(|why| format!("'{text}': {why}"));
        }
        let address: SocketAddr = text.parse().map_err(|_| format!("'{text}' leads nowhere: {KNOWN}"))?;
        match address {
            address if !address.ip().is_loopback() => Err(format!(
                "'{text}' is not on this machine, and what leaves it is netd's to carry: {KNOWN}"
            )),
            address if address.port() == 0 => Err(format!("'{text}' has no port: {KNOWN}")),
            address => Ok(Target::Tcp(address)),
        }
    }
}

/// A name as systemd.unit(5) has them, ".socket" included or not.
fn parse_unit(name: &str) -> Result<String, &'static str> {
    let stem = name.strip_suffix(".socket").unwrap_or(name);
    let known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    // An option of systemctl's begins with a dash.
    if stem.is_empty() || stem.starts_with('-') || name.len() > 255 || !stem.chars().all(known) {
        return Err("that is no name of a unit (systemd.unit(5))");
    }
    Ok(format!("{stem}.socket"))
}

/// Connects to a server's own socket, for as long as it takes.
pub(super) async fn connect(place: &Place) -> io::Result<Connected> {
    match place {
        Place::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            // Keystrokes are small, and whoever wrote them has waited already.
            stream.set_nodelay(true)?;
            Ok(Connected::Tcp(stream))
        }
        Place::Unix(path) => loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_PAUSE).await,
                done => return done.map(Connected::Unix),
            }
        },
    }
}

/// Where a server listens, once units are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_this_machine_are_understood_and_shown_as_written() {
        for text in ["127.0.0.1:22", "[::1]:80", "unix:/run/x.sock", "socket-unit:sshd-netd.socket"] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Target::parse("socket-unit:x").unwrap(), Target::SocketUnit("x.socket".into()));
    }

    #[test]
    fn targets_elsewhere_or_nowhere_are_refused_with_what_would_be_right() {
        for (text, said) in [
            ("192.0.2.1:22", "is not on this machine"),
            ("127.0.0.1:0", "has no port"),
            ("22", "leads nowhere"),
            ("unix:x.sock", "begins with /"),
            ("socket-unit:-x", "no name of a unit"),
            ("socket-unit:a b", "no name of a unit"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
