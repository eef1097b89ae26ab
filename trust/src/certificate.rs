//! One certificate: what is to be known of it, read once.
//!
//! What decides about chains is webpki (path.rs); what is read here tells operators what they are looking at, and keeps from the
//! store what cannot be a root.

use std::fmt;

use netd_policy::Pin;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use sha2::{Digest, Sha256};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::date::Date;

/// Shorter keys of RSA can be factored by who wants it enough (NIST SP 800-131A: disallowed since 2014).
pub(crate) const RSA_BITS_MIN: usize = 2048;
/// A name longer than this is cut where it is shown: certificates come from strangers.
const NAME_CHARS_MAX: usize = 200;

/// The SHA-256 digest of a whole certificate, its name in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Fingerprint {
        Fingerprint(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its digest.
    pub sha256: Fingerprint,
    /// The digest of its key, as a pin has it.
    pub pin: Pin,
    /// The first moment at which it is valid.
    pub not_before: Date,
    /// The last.
    pub not_after: Date,
    /// Its key, such as "RSA 2048".
    pub key: String,
    /// How its issuer signed it, such as "sha256WithRSAEncryption".
    pub signature: String,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// SubjectPublicKeyInfo.
    #[serde(skip)]
    pub(crate) key_der: Vec<u8>,
    #[serde(skip)]
    pub(crate) is_weak: bool,
    #[serde(skip)]
    pub(crate) names: Names,
    #[serde(skip)]
    pub(crate) digest: SignatureDigest,
}

/// Subject and issuer as compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
}

/// Whether a signature rests on a digest for which collisions can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignatureDigest {
    /// MD2, MD5 or SHA-1.
    Broken,
    /// Anything else.
    Other,
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// What is wrong with it, as half a sentence.
    pub fn parse(der: &[u8]) -> Result<Certificate, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("it is not X.509 in DER ({error})"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow its end", rest.len()));
        }
        if certificate.version() != X509Version::V3 {
            return Err(format!("it is of version {}, not 3", certificate.version().0.saturating_add(1)));
        }
        let basic =
            certificate.basic_constraints().map_err(|_| "it has basicConstraints twice".to_owned())?;
        let key_usage = certificate.key_usage().map_err(|_| "it has keyUsage twice".to_owned())?;
        let may_sign = key_usage.is_none_or(|usage| usage.value.key_cert_sign());
        let (key, is_weak) = key(&certificate);
        let (signature, digest) = signature(&certificate.signature_algorithm.algorithm);
        let names = Names {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        };
        Ok(Certificate {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            sha256: Fingerprint::of(der),
            pin: Pin::of(certificate.public_key().raw),
            not_before: Date::from_seconds(certificate.validity().not_before.timestamp()),
            not_after: Date::from_seconds(certificate.validity().not_after.timestamp()),
            key,
            key_der: certificate.public_key().raw.to_vec(),
            signature,
            is_ca: basic.is_some_and(|basic| basic.value.ca) && may_sign,
            is_weak,
            names,
            digest,
        })
    }

    /// Whether it names itself as its issuer.
    pub fn is_self_signed(&self) -> bool {
        self.names.subject == self.names.issuer
    }
}

/// Whether the certificate `der` is signed with this key (a SubjectPublicKeyInfo). For explanations: nothing is accepted by it.
pub(crate) fn is_signed_by(der: &[u8], key_der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(key_der) else { return false };
    certificate.verify_signature(Some(&key)).is_ok()
}

/// Copies one out of a handshake's or a file's bytes.
pub(crate) fn owned(der: &CertificateDer<'_>) -> CertificateDer<'static> {
    CertificateDer::from(der.as_ref().to_vec())
}

/// The kind of the key, and whether it is too short.
fn key(certificate: &X509Certificate<'_>) -> (String, bool) {
    let info = certificate.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => (format!("RSA {}", key.key_size()), key.key_size() < RSA_BITS_MIN),
        // DSA went with SHA-1; nobody can be verified by it here.
        Ok(PublicKey::DSA(_)) => ("DSA".to_owned(), true),
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => ("P-256".to_owned(), false),
                Some("1.3.132.0.34") => ("P-384".to_owned(), false),
                Some("1.3.132.0.35") => ("P-521".to_owned(), false),
                // Below 128 bits of strength.
                Some("1.2.840.10045.3.1.1") => ("P-192".to_owned(), true),
                Some("1.3.132.0.33") => ("P-224".to_owned(), true),
                Some(other) => (format!("EC {other}"), false),
                None => ("EC".to_owned(), false),
            }
        }
        _ => match info.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => ("Ed25519".to_owned(), false),
            "1.3.101.113" => ("Ed448".to_owned(), false),
            other => (other.to_owned(), false),
        },
    }
}

/// The name of a signature's algorithm, and whether collisions of its digest are known.
fn signature(oid: &Oid<'_>) -> (String, SignatureDigest) {
    const KNOWN: [(&str, &str, SignatureDigest); 15] = [
        ("1.2.840.113549.1.1.2", "md2WithRSAEncryption", SignatureDigest::Broken),
        ("1.2.840.113549.1.1.4", "md5WithRSAEncryption", SignatureDigest::Broken),
        ("1.2.840.113549.1.1.5", "sha1WithRSAEncryption", SignatureDigest::Broken),
        ("1.3.14.3.2.29", "sha1WithRSAEncryption", SignatureDigest::Broken),
        ("1.2.840.10040.4.3", "dsa-with-sha1", SignatureDigest::Broken),
        ("1.2.840.10045.4.1", "ecdsa-with-SHA1", SignatureDigest::Broken),
        ("1.2.840.113549.1.1.10", "rsassaPss", SignatureDigest::Other),
        ("1.2.840.113549.1.1.11", "sha256WithRSAEncryption", SignatureDigest::Other),
        ("1.2.840.113549.1.1.12", "sha384WithRSAEncryption", SignatureDigest::Other),
        ("1.2.840.113549.1.1.13", "sha512WithRSAEncryption", SignatureDigest::Other),
        ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256", SignatureDigest::Other),
        ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384", SignatureDigest::Other),
        ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512", SignatureDigest::Other),
        ("1.3.101.112", "Ed25519", SignatureDigest::Other),
        ("1.3.101.113", "Ed448", SignatureDigest::Other),
    ];
    let id = oid.to_id_string();
    match KNOWN.iter().find(|(known, ..)| *known == id) {
        Some((_, name, digest)) => ((*name).to_owned(), *digest),
        None => (id, SignatureDigest::Other),
    }
}

/// A name for people, without what could move their terminal's cursor.
fn name(name: &X509Name<'_>) -> String {
    shown(&name.to_string())
}

/// Text of a stranger's for people.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(NAME_CHARS_MAX)
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect();
    if text.chars().nth(NAME_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    if shown.is_empty() { "(no name)".to_owned() } else { shown }
}
