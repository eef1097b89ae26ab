//! A judge that remembers what it was shown, to tell of servers that were refused too.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::{Certificate, owned};
use crate::path::CHAIN_CERTIFICATES_MAX;
use crate::verifier::Verifier;

/// Judges as its [`Verifier`] does. For one connection.
#[derive(Debug)]
pub struct Recorder {
    verifier: Arc<Verifier>,
    sent: Mutex<Vec<CertificateDer<'static>>>,
}

impl Recorder {
    /// In front of this judge.
    pub fn new(verifier: Arc<Verifier>) -> Arc<Recorder> {
        Arc::new(Recorder { verifier, sent: Mutex::default() })
    }

    /// What the server sent, its own certificate first; what of it cannot be read is left out.
    pub fn sent(&self) -> Vec<Certificate> {
        // A panic elsewhere while the lock was held leaves certificates, all whole.
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().filter_map(|der| Certificate::parse(der).ok()).collect()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let sent = std::iter::once(end_entity).chain(intermediates).take(CHAIN_CERTIFICATES_MAX);
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent.map(owned).collect();
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
