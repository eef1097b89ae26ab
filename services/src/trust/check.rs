//! Looking at a server: a TLS handshake on netd's socket, whatever comes of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd_ipc::TcpStream;
use netd_ipc::server::Peer;
use netd_ipc::services::{ErrorKind, TrustCheck};
use netd_trust::{Chain, Refusal, Verifier, Witness};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use tokio::time::timeout_at;
use url::Host;

use super::{Trust, blocking, root, server_name, shown};
use crate::Failure;
use crate::dial::{Remote, dial};
use crate::netd::Netd;

/// What looking takes.
const VALIDATE: &str = "net.tls.validate";
/// For connecting and the handshake together, unless the client says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// HOST:PORT, IPv6 addresses in brackets. netd has understood it before, so this is about what TLS can ask for.
fn parse(text: &str) -> Result<(Remote, ServerName<'static>), Failure> {
    let wrong = || {
        let message = format!("'{text}' is not HOST:PORT, such as example.org:443 or [2001:db8::1]:443");
        Failure::new(ErrorKind::InvalidInput, message)
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = match host.parse() {
        Ok(IpAddr::V4(address)) => Host::Ipv4(address),
        Ok(IpAddr::V6(address)) => Host::Ipv6(address),
        Err(_) => Host::Domain(host.trim_end_matches('.').to_owned()),
    };
    let name = server_name(&host)?;
    Ok((Remote { host, port: port.parse().map_err(|_| wrong())? }, name))
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
    let (remote, name) = parse(target)?;
    let verifier = trust.verifier(netd).await?;
    let deadline = Instant::now() + timeout.unwrap_or(TIMEOUT_DEFAULT);
    let stream = timeout_at(deadline.into(), dial(netd, client, VALIDATE, &remote, deadline))
        .await
        .map_err(|_| Failure::new(ErrorKind::TimedOut, format!("{remote} was not connected to in time")))??;
    let met = blocking(move || shake(stream, verifier, name, deadline)).await??;
    if let Ok(chain) = &met.judged {
        trust.accepted(netd, client, chain).await?;
    }
    Ok(told(met, rule))
}

fn shake(
    mut stream: TcpStream,
    verifier: Arc<Verifier>,
    name: ServerName<'static>,
    deadline: Instant,
) -> Result<Met, Failure> {
    stream.set_read_deadline(Some(deadline));
    stream.set_write_deadline(Some(deadline));
    let peer = stream.peer_addr();
    let witness = Witness::new(verifier);
    let config = witness.client_config()?;
    let protocol = |error: &dyn std::fmt::Display| {
        Failure::new(ErrorKind::ProtocolError, format!("{peer} does not complete a TLS handshake: {error}"))
    };
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(|error| protocol(&error))?;
    let judged = match (tls.complete_io(&mut stream), witness.judged()) {
        (Ok(_), Some(judged)) | (Err(_), Some(judged @ Err(_))) => judged,
        (Ok(_), None) => return Err(protocol(&"it showed no certificate")),
        (Err(error), _) if error.kind() == std::io::ErrorKind::TimedOut => {
            let message = format!("{peer} did not complete a TLS handshake in time");
            return Err(Failure::new(ErrorKind::TimedOut, message));
        }
        (Err(error), _) => return Err(protocol(&error)),
    };
    // It is told in order that nothing more comes; that it does not hear is its own affair.
    tls.send_close_notify();
    let _ = tls.write_tls(&mut stream);
    Ok(Met { tls, peer, sent: witness.sent(), judged })
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
