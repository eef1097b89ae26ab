//! Looking at a server: a TLS handshake on netd's socket, whatever comes of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd_ipc::server::Peer;
use netd_ipc::services::{ErrorKind, TrustCheck};
use netd_trust::{Chain, Recorder, Refusal, Verifier, explain};
use rustls::ClientConnection;
use rustls::pki_types::{ServerName, UnixTime};

use super::{Trust, blocking, root, shown};
use crate::Failure;
use crate::netd::Netd;

/// What looking takes.
const VALIDATE: &str = "net.tls.validate";
/// For connecting and the handshake together, unless the client says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Addresses that are tried: as many as a name server's first answer has.
const ADDRESSES_MAX: usize = 8;

/// A host by name or address, and its port.
struct Server {
    host: ServerName<'static>,
    port: u16,
}

impl Server {
    /// HOST:PORT, IPv6 addresses in brackets. netd has understood it before, so this is about what TLS can ask for.
    fn parse(text: &str) -> Result<Server, Failure> {
        let wrong = || {
            let message = format!("'{text}' is not HOST:PORT, such as example.org:443 or [2001:db8::1]:443");
            Failure::new(ErrorKind::InvalidInput, message)
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(|_| wrong())?;
        Ok(Server { host, port: port.parse().map_err(|_| wrong())? })
    }
}

/// What came of a handshake.
struct Met {
    tls: ClientConnection,
    peer: std::net::SocketAddr,
    sent: Vec<netd_trust::Certificate>,
    judged: Result<Chain, Refusal>,
}

/// Connects for `client`, if it may, and tells what the server shows and what is thought of it. A server that is refused is an answer,
/// not an error.
pub(crate) async fn check(
    trust: &Trust,
    netd: &Netd,
    client: &Peer,
    target: &str,
    timeout: Option<Duration>,
) -> Result<TrustCheck, Failure> {
    let rule = netd.permit(client, VALIDATE, Some(target.to_owned())).await?;
    let server = Server::parse(target)?;
    let verifier = trust.verifier(netd).await?;
    let deadline = Instant::now() + timeout.unwrap_or(TIMEOUT_DEFAULT);
    let stream = dial(netd, &server, deadline).await?;
    let met = blocking(move || shake(stream, &verifier, &server, deadline)).await??;
    if let Ok(chain) = &met.judged {
        trust.accepted(netd, client, chain).await?;
    }
    Ok(told(met, rule))
}

/// The first address that answers, in the resolver's order.
async fn dial(netd: &Netd, server: &Server, deadline: Instant) -> Result<netd_ipc::TcpStream, Failure> {
    let (host, port) = (server.host.clone(), server.port);
    netd.call(move |client| {
        let addresses = match &host {
            ServerName::IpAddress(address) => vec![IpAddr::from(*address)],
            name => client.resolve_deadline(&name.to_str(), Some(deadline))?,
        };
        let mut tried = Err(netd_ipc::Error::Refused {
            kind: netd_ipc::ErrorKind::NotFound,
            message: format!("'{}' has no address", host.to_str()),
        });
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            tried = client.tcp_connect_deadline(std::net::SocketAddr::from((address, port)), deadline);
            if tried.is_ok() {
                break;
            }
        }
        tried
    })
    .await
}

fn shake(
    mut stream: netd_ipc::TcpStream,
    verifier: &Arc<Verifier>,
    server: &Server,
    deadline: Instant,
) -> Result<Met, Failure> {
    stream.set_read_deadline(Some(deadline));
    stream.set_write_deadline(Some(deadline));
    let peer = stream.peer_addr();
    let recorder = Recorder::new(Arc::clone(verifier));
    let config = verifier.client_config_with(Arc::clone(&recorder) as _)?;
    let protocol = |error: &dyn std::fmt::Display| {
        Failure::new(ErrorKind::ProtocolError, format!("{peer} does not complete a TLS handshake: {error}"))
    };
    let mut tls =
        ClientConnection::new(Arc::new(config), server.host.clone()).map_err(|error| protocol(&error))?;
    let judged = match tls.complete_io(&mut stream) {
        Ok(_) => verifier.judge(tls.peer_certificates().unwrap_or_default(), &server.host, UnixTime::now()),
        Err(error) => {
            let refusal = error.get_ref().and_then(|error| error.downcast_ref()).and_then(explain).cloned();
            match refusal {
                Some(refusal) => Err(refusal),
                None if error.kind() == std::io::ErrorKind::TimedOut => {
                    return Err(Failure::new(
                        ErrorKind::TimedOut,
                        format!("{peer} did not complete a TLS handshake in time"),
                    ));
                }
                None => return Err(protocol(&error)),
            }
        }
    };
    // It is told in order that nothing more comes; that it does not hear is its own affair.
    tls.send_close_notify();
    let _ = tls.write_tls(&mut stream);
    Ok(Met { tls, peer, sent: recorder.sent(), judged })
}

fn told(met: Met, rule: String) -> TrustCheck {
    let Met { tls, peer, sent, judged } = met;
    let (reason, message) = match &judged {
        Ok(chain) => {
            (None, format!("accepted: '{}' vouches for {}", chain.root.certificate.subject, chain.host))
        }
        Err(refusal) => (Some(refusal.name().to_owned()), refusal.to_string()),
    };
    let chain = judged.ok();
    TrustCheck {
        accepted: chain.is_some(),
        reason,
        message,
        rule,
        peer: peer.into(),
        version: tls.protocol_version().and_then(|version| version.as_str()).map(str::to_owned),
        cipher_suite: tls
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .map(str::to_owned),
        sent: sent.iter().map(shown).collect(),
        chain: chain.iter().flat_map(|chain| &chain.certificates).map(shown).collect(),
        root: chain.as_ref().map(|chain| root(&chain.root)),
        pin: chain.as_ref().and_then(|chain| chain.pin.as_ref()).map(|met| met.pin.to_string()),
        dates: chain.map(|chain| chain.dates.to_string()),
    }
}
