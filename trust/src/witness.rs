//! The witness of one handshake: rustls asks it about the server, it asks the [`Verifier`], and it remembers what was shown and what was
//! thought of it, so that nobody need judge twice, and a server that was refused can be told of too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::Error;
use crate::certificate::{Certificate, owned};
use crate::chain::Chain;
use crate::path::CHAIN_CERTIFICATES_MAX;
use crate::refusal::Refusal;
use crate::verifier::Verifier;

/// What one server showed, and the judgement. For one connection.
#[derive(Debug)]
pub struct Witness {
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    sent: Vec<CertificateDer<'static>>,
    judged: Option<Result<Chain, Refusal>>,
}

impl Witness {
    /// Of a handshake that this verifier judges.
    pub fn new(verifier: Arc<Verifier>) -> Arc<Witness> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Witness { verifier, provider, seen: Mutex::default() })
    }

    /// A client of TLS 1.2 and 1.3 whose server this witness sees. Sessions are not resumed: a resumed one shows no certificate,
    /// so it would outlive the removal of its root.
    ///
    /// # Errors
    /// [`Error::Tls`]: never with the provider as it is.
    pub fn client_config(self: &Arc<Self>) -> Result<ClientConfig, Error> {
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&versions)
            .map_err(Error::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// What the server sent, its own certificate first; what of it cannot be read is left out.
    pub fn sent(&self) -> Vec<Certificate> {
        self.seen().sent.iter().filter_map(|der| Certificate::parse(der).ok()).collect()
    }

    /// What was thought of the server, if it came to that. A handshake can still fail after a server was accepted.
    pub fn judged(&self) -> Option<Result<Chain, Refusal>> {
        self.seen().judged.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic elsewhere while the lock was held leaves one whole value or the other.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut sent: Vec<_> = std::iter::once(end_entity).chain(intermediates).map(owned).collect();
        let judged = self.verifier.judge(&sent, server_name, now);
        sent.truncate(CHAIN_CERTIFICATES_MAX);
        let told = match &judged {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => {
                let refusal = OtherError(Arc::new(refusal.clone()));
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(refusal)))
            }
        };
        *self.seen() = Seen { sent, judged: Some(judged) };
        told
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
