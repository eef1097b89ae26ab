//! TLS to a server, judged by the trust store alone; each refusal in its own words, and none made up for by anything else.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netd_ipc::services::Tls;
use netd_ipc::tokio::TcpStream;
use netd_trust::{Chain, Refusal, Verifier, Witness};
use rustls::{AlertDescription, Error as TlsError, PeerMisbehaved};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Target;
use crate::Failure;
use crate::trust::{server_name, shown as shown_certificate};

/// What is spoken above TLS, the preferred first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What a server showed, to be judged again while its connection lasts.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    certificates: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

impl Shown {
    /// Whether a judge still accepts it: roots may have been taken away since.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn judge(&self, verifier: &Verifier) -> Result<Chain, Failure> {
        verifier.judge(&self.certificates, &self.name, now()).map_err(|refusal| refused(&refusal))
    }
}

/// A secured connection, and what is known of the server.
pub(super) struct Met {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) tls: Tls,
    pub(super) shown: Shown,
    pub(super) chain: Chain,
}

/// Secures a connection.
///
/// # Errors
/// `TlsRefused` with the reason, or what broke the handshake.
pub(super) async fn secure(
    stream: TcpStream,
    target: &Target,
    verifier: &Arc<Verifier>,
) -> Result<Met, Failure> {
    let name = server_name(&target.remote().host)?;
    let witness = Witness::new(Arc::clone(verifier));
    let mut config = witness.client_config()?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    let connector = TlsConnector::from(Arc::new(config));
    let shaken = connector.connect(name.clone(), stream).await;
    let (stream, chain) = match (shaken, witness.judged()) {
        (_, Some(Err(refusal))) => return Err(refused(&refusal)),
        (Ok(stream), Some(Ok(chain))) => (stream, chain),
        (Err(error), _) => return Err(handshake(error)),
        (Ok(_), None) => return Err(Failure::tls("handshake", "the server showed no certificate")),
    };
    let (_, connection) = stream.get_ref();
    let certificates = connection.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let shown = Shown { certificates, name };
    let version = connection.protocol_version().map(|version| format!("{version:?}").replace('_', "."));
    let suite = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let tls = Tls {
        version: version.unwrap_or_default(),
        cipher_suite: suite.unwrap_or_default(),
        chain: chain.certificates.iter().map(shown_certificate).collect(),
        root: format!("{} ({})", chain.root.certificate.subject, chain.root.file.display()),
        pin: chain.pin.as_ref().map(|met| format!("{} of '{}', for {}", met.pin, met.subject, met.pattern)),
    };
    Ok(Met { stream, tls, shown, chain })
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO))
}

/// A handshake that failed, for another reason than the server's certificate.
fn handshake(error: io::Error) -> Failure {
    let Some(said) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Failure::tls("handshake", "the server closed the connection during the TLS handshake");
        }
        return error.into();
    };
    match said {
        TlsError::PeerIncompatible(_) | TlsError::AlertReceived(AlertDescription::ProtocolVersion) => {
            Failure::tls(
                "protocol_version",
                format!("the server speaks neither TLS 1.3 nor 1.2 as they are spoken here ({said})"),
            )
        }
        // RFC 8446, 4.1.3: a server that knows TLS 1.3 says so when it is asked for less.
        TlsError::PeerMisbehaved(PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported) => {
            let message =
                "the server knows TLS 1.3 and was led to speak 1.2: somebody between hides what we speak";
            Failure::tls("downgrade", message)
        }
        TlsError::AlertReceived(alert) => {
            Failure::tls("alert", format!("the server refused the TLS handshake with the alert {alert:?}"))
        }
        TlsError::InvalidMessage(_) => {
            Failure::tls("no_tls", format!("what the server says is no TLS ({said}): is it plain HTTP?"))
        }
        other => Failure::tls("handshake", format!("the TLS handshake failed: {other}")),
    }
}

/// The server's certificate was refused.
fn refused(refusal: &Refusal) -> Failure {
    Failure::tls(refusal.name(), refusal.to_string())
}
