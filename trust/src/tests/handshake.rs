//! Handshakes in memory: what rustls says of a refusal, and of a server that is accepted.

use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::explain;

/// The time of the test's chains.
#[derive(Debug)]
struct Now(UnixTime);

impl rustls::time_provider::TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// One handshake; the client's connection if both sides are content, and its error otherwise.
fn shake(
    verifier: &Arc<Verifier>,
    server: ServerConfig,
    year: i32,
) -> Result<ClientConnection, rustls::Error> {
    let mut config = verifier.client_config().unwrap();
    config.time_provider = Arc::new(Now(in_year(year)));
    let mut client = ClientConnection::new(Arc::new(config), HOST.try_into().unwrap())?;
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
    Ok(client)
}

fn serve(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    version: &'static rustls::SupportedProtocolVersion,
) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
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
        let client = shake(&verifier, whole(), 2026).unwrap();
        let name = HOST.try_into().unwrap();
        let chain = verifier.judge(client.peer_certificates().unwrap(), &name, in_year(2026)).unwrap();
        assert_eq!(chain.root.certificate.subject, "CN=root");
        let late = shake(&verifier, whole(), 2041).unwrap_err();
        assert!(matches!(explain(&late), Some(Refusal::Expired { .. })), "{late:?}");
        let incomplete = shake(&verifier, serve(vec![leaf.clone()], &key, version), 2026).unwrap_err();
        let told = explain(&incomplete).unwrap().to_string();
        assert!(told.contains("did not send the certificate of 'CN=middle'"), "{told}");
    }
    assert!(explain(&rustls::Error::HandshakeNotComplete).is_none());
}
