//! Handshakes in memory: what the witness saw of a server that was accepted, and of one that was refused.

use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::Witness;

/// The time of the test's chains.
#[derive(Debug)]
struct Now(UnixTime);

impl rustls::time_provider::TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// One handshake, until both sides are content; its witness in any case.
fn shake(
    verifier: &Arc<Verifier>,
    server: ServerConfig,
    year: i32,
) -> (Arc<Witness>, Result<(), rustls::Error>) {
    let witness = Witness::new(Arc::clone(verifier));
    let mut config = witness.client_config().unwrap();
    config.time_provider = Arc::new(Now(in_year(year)));
    let client = ClientConnection::new(Arc::new(config), HOST.try_into().unwrap()).unwrap();
    (witness, exchange(client, server))
}

fn exchange(mut client: ClientConnection, server: ServerConfig) -> Result<(), rustls::Error> {
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        // What the server holds against it, its alert tells the client.
        let _ = server.process_new_packets();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn serve(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    version: &'static rustls::SupportedProtocolVersion,
) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private(key))
        .unwrap()
}

#[test]
fn server_is_accepted_or_refused_by_name_in_both_versions() {
    let root = root(ca("root"));
    let middle = below(ca("middle"), &root);
    let key = key();
    let leaf = owned(server("leaf").signed_by(&key, &middle).unwrap().der());
    let verifier = strict(&root);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let whole = || serve(vec![leaf.clone(), owned(middle.der())], &key, version);
        let (witness, shaken) = shake(&verifier, whole(), 2026);
        shaken.unwrap();
        assert_eq!(witness.judged().unwrap().unwrap().root.certificate.subject, "CN=root");
        let sent: Vec<_> = witness.sent().into_iter().map(|certificate| certificate.subject).collect();
        assert_eq!(sent, ["CN=leaf", "CN=middle"]);
        let (witness, late) = shake(&verifier, whole(), 2041);
        assert!(late.is_err() && matches!(witness.judged(), Some(Err(Refusal::Expired { .. }))), "{late:?}");
        let (witness, incomplete) = shake(&verifier, serve(vec![leaf.clone()], &key, version), 2026);
        let told = witness.judged().unwrap().unwrap_err().to_string();
        assert!(told.contains("did not send the certificate of 'CN=middle'"), "{told}");
        assert!(incomplete.is_err() && witness.sent().len() == 1);
    }
}

#[test]
fn server_that_is_accepted_and_cannot_sign_completes_no_handshake() {
    let root = root(ca("root"));
    let leaf = owned(server("leaf").signed_by(&key(), &root).unwrap().der());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // Another's certificate: the key that signs is not the one in it.
        let thief = key();
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(
            vec![leaf.clone()],
            rustls::crypto::ring::sign::any_supported_type(&private(&thief)).unwrap(),
        )));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        let (witness, shaken) = shake(&strict(&root), config, 2026);
        assert!(matches!(witness.judged(), Some(Ok(_))));
        assert!(matches!(shaken, Err(rustls::Error::InvalidCertificate(_))), "{shaken:?}");
    }
}
