//! Building a chain from a server's certificate to a root, and finding out why there is none.
//!
//! webpki builds and judges the chain (RFC 5280, 6). Beside that: keyUsage of the CAs, which it leaves out, the dates of roots, of which it
//! knows none, and keys that are too short, which it refuses only where they sign.

use std::cell::RefCell;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, VerifiedPath};

use crate::certificate::{Certificate, Fingerprint, SignatureDigest, is_signed_by, owned};
use crate::date::Date;
use crate::refusal::Refusal;
use crate::store::{Root, Store};

/// More certificates than this no honest server sends: chains of more than seven are refused anyway (webpki's limit).
pub(crate) const CHAIN_CERTIFICATES_MAX: usize = 16;

/// What a server sent, read.
pub(crate) struct Sent<'a> {
    leaf: &'a CertificateDer<'a>,
    others: &'a [CertificateDer<'a>],
    /// The leaf's first. What cannot be read of the others is nothing that a chain can be made of.
    pub(crate) certificates: Vec<Certificate>,
}

/// A chain that holds.
pub(crate) struct Path<'s> {
    /// The server's own first, the root not among them.
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) root: &'s Root,
}

impl<'a> Sent<'a> {
    pub(crate) fn read(
        leaf: &'a CertificateDer<'a>,
        others: &'a [CertificateDer<'a>],
    ) -> Result<Sent<'a>, Refusal> {
        let sent = 1 + others.len();
        if sent > CHAIN_CERTIFICATES_MAX {
            return Err(Refusal::TooMany { sent });
        }
        let own = Certificate::parse(leaf).map_err(|why| Refusal::Malformed { number: 1, why })?;
        let mut certificates = vec![own];
        certificates.extend(others.iter().filter_map(|der| Certificate::parse(der).ok()));
        Ok(Sent { leaf, others, certificates })
    }

    /// A chain that is valid at `time`. With `judge_root`, its root must be so too.
    pub(crate) fn chain<'s>(
        &self,
        store: &'s Store,
        time: UnixTime,
        judge_root: bool,
    ) -> Result<Path<'s>, Failure> {
        let leaf = EndEntityCert::try_from(self.leaf).map_err(Failure::Webpki)?;
        // Why a chain that webpki was content with was not taken.
        let refused = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            check_path(store, path, judge_root.then(|| Date::from(time))).map_err(|refusal| {
                refused.borrow_mut().get_or_insert(refusal);
                webpki::Error::CertDistrusted
            })
        };
        let path = leaf
            .verify_for_usage(
                rustls::crypto::ring::default_provider().signature_verification_algorithms.all,
                store.anchors(),
                self.others,
                time,
                usage(),
                None,
                Some(&check),
            )
            .map_err(|error| refused.take().map_or(Failure::Webpki(error), Failure::Refused))?;
        let root = store.root_of(path.anchor()).ok_or(Failure::Webpki(webpki::Error::UnknownIssuer))?;
        Ok(Path { certificates: certificates(&path).map_err(Failure::Refused)?, root })
    }

    /// A reason for people, from what webpki says.
    pub(crate) fn explain(
        &self,
        store: &Store,
        failure: Failure,
        host: &ServerName<'_>,
        now: Date,
    ) -> Refusal {
        use webpki::Error as E;
        let error = match failure {
            Failure::Refused(refusal) => return refusal,
            Failure::Webpki(error) => error,
        };
        match error {
            E::CertExpired { not_after, .. } => self.dated(not_after.into(), now),
            E::CertNotValidYet { not_before, .. } => self.undated(not_before.into(), now),
            E::UnknownIssuer => self.without_issuer(store),
            E::CaUsedAsEndEntity if self.certificates[0].is_self_signed() => self.without_issuer(store),
            E::CaUsedAsEndEntity => Refusal::CaAsServer { subject: self.certificates[0].subject.clone() },
            E::EndEntityUsedAsCa => self.not_a_ca(),
            E::InvalidSignatureForPublicKey => self.bad_signature(store),
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | E::SignatureAlgorithmMismatch => self.unsupported_signature(),
            E::NameConstraintViolation => Refusal::NameConstraints { host: name_of(host) },
            E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => Refusal::PathLength,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Refusal::NotForServers,
            E::UnsupportedCriticalExtension => Refusal::CriticalExtension,
            E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Refusal::TooComplex,
            other => Refusal::Other(other.to_string()),
        }
    }

    /// Who signed, as far as the sent certificates go: the last one whose issuer is among neither them nor the roots.
    fn top(&self) -> &Certificate {
        let mut top = &self.certificates[0];
        // No chain is longer than what was sent, so a loop of names ends too.
        for _ in &self.certificates {
            let issuer =
                |other: &&Certificate| other.names.subject == top.names.issuer && !other.is_self_signed();
            match self.certificates.iter().find(issuer) {
                Some(next) if !top.is_self_signed() => top = next,
                _ => break,
            }
        }
        top
    }

    fn without_issuer(&self, store: &Store) -> Refusal {
        let leaf = &self.certificates[0];
        if leaf.is_self_signed() {
            return Refusal::SelfSigned { subject: leaf.subject.clone() };
        }
        let top = self.top();
        let (subject, issuer) = (top.subject.clone(), top.issuer.clone());
        let sent = |other: &Certificate| other.names.subject == top.names.issuer;
        if store.roots().iter().any(|root| root.certificate.names.subject == top.names.issuer) {
            Refusal::BadSignature { subject, issuer }
        } else if std::ptr::eq(top, leaf) && !self.certificates.iter().any(sent) {
            Refusal::MissingIntermediate { subject, issuer }
        } else {
            Refusal::UnknownRoot { issuer }
        }
    }

    fn dated(&self, not_after: Date, now: Date) -> Refusal {
        let subject = self.subject_of(|certificate| certificate.not_after == not_after);
        Refusal::Expired { subject, not_after, now }
    }

    fn undated(&self, not_before: Date, now: Date) -> Refusal {
        let subject = self.subject_of(|certificate| certificate.not_before == not_before);
        Refusal::NotYetValid { subject, not_before, now }
    }

    fn not_a_ca(&self) -> Refusal {
        let leaf = &self.certificates[0];
        let signed = |other: &Certificate| {
            self.certificates.iter().any(|below| below.names.issuer == other.names.subject)
        };
        let subject = self.subject_of(|certificate| {
            !std::ptr::eq(certificate, leaf) && !certificate.is_ca && signed(certificate)
        });
        Refusal::NotACa { subject }
    }

    /// A signature by a short key does not fit either, as ring does not verify those.
    fn bad_signature(&self, store: &Store) -> Refusal {
        if let Some(weak) = self.certificates.iter().find(|certificate| certificate.is_weak) {
            return weak_key(weak);
        }
        let roots = || store.roots().iter().map(|root| &root.certificate);
        for (certificate, der) in self.readable() {
            let named = |other: &&Certificate| other.names.subject == certificate.names.issuer;
            let issuers: Vec<_> = self.certificates.iter().chain(roots()).filter(named).collect();
            if !issuers.is_empty() && !issuers.iter().any(|issuer| is_signed_by(der, &issuer.key_der)) {
                let (subject, issuer) = (certificate.subject.clone(), certificate.issuer.clone());
                return Refusal::BadSignature { subject, issuer };
            }
        }
        let has_its_name = |other: &&Certificate| {
            other.is_self_signed()
                && roots().any(|root| root.names.subject == other.names.subject && root.pin != other.pin)
        };
        if let Some(other) = self.certificates.iter().find(has_its_name) {
            return Refusal::Impostor { subject: other.subject.clone() };
        }
        // Only a way that the chain does not go is blocked by it.
        Refusal::Other("none of the ways from the server's certificate to a root holds".to_owned())
    }

    /// The certificates that could be read, each with its bytes.
    fn readable(&self) -> impl Iterator<Item = (&Certificate, &CertificateDer<'a>)> {
        let der = |certificate: &Certificate| {
            let all = std::iter::once(self.leaf).chain(self.others);
            all.into_iter().find(|der| Fingerprint::of(der) == certificate.sha256)
        };
        self.certificates.iter().filter_map(move |certificate| Some((certificate, der(certificate)?)))
    }

    fn unsupported_signature(&self) -> Refusal {
        // A root's own signature vouches for nothing.
        let mut signed = self.certificates.iter().filter(|certificate| !certificate.is_self_signed());
        match signed.clone().find(|certificate| certificate.digest == SignatureDigest::Broken) {
            Some(certificate) => Refusal::WeakSignature {
                subject: certificate.subject.clone(),
                algorithm: certificate.signature.clone(),
            },
            None => {
                let certificate = signed.next().unwrap_or(&self.certificates[0]);
                let issuer =
                    self.certificates.iter().find(|other| other.names.subject == certificate.names.issuer);
                Refusal::UnsupportedSignature {
                    subject: certificate.subject.clone(),
                    algorithm: certificate.signature.clone(),
                    key: issuer.map_or_else(|| "its issuer".to_owned(), |issuer| issuer.key.clone()),
                }
            }
        }
    }

    fn subject_of(&self, is_it: impl Fn(&Certificate) -> bool) -> String {
        self.certificates
            .iter()
            .find(|certificate| is_it(certificate))
            .unwrap_or(&self.certificates[0])
            .subject
            .clone()
    }
}

/// Why there is no chain.
pub(crate) enum Failure {
    /// In webpki's words.
    Webpki(webpki::Error),
    /// In ours.
    Refused(Refusal),
}

impl Failure {
    /// Whether another moment could do.
    pub(crate) fn is_of_dates(&self) -> bool {
        use webpki::Error as E;
        matches!(self, Failure::Webpki(E::CertExpired { .. } | E::CertNotValidYet { .. }))
    }
}

/// A host as it was asked for.
pub(crate) fn name_of(host: &ServerName<'_>) -> String {
    host.to_str().into_owned()
}

fn usage() -> impl ExtendedKeyUsageValidator {
    KeyUsage::server_auth()
}

fn certificates(path: &VerifiedPath<'_>) -> Result<Vec<Certificate>, Refusal> {
    let read = |number: usize, der: &[u8]| {
        Certificate::parse(der).map_err(|why| Refusal::Malformed { number: number + 1, why })
    };
    let mut certificates = vec![read(0, &owned(&path.end_entity().der()))?];
    for (index, intermediate) in path.intermediate_certificates().enumerate() {
        certificates.push(read(index + 1, &intermediate.der())?);
    }
    Ok(certificates)
}

/// What webpki leaves out.
fn check_path(store: &Store, path: &VerifiedPath<'_>, now: Option<Date>) -> Result<(), Refusal> {
    let certificates = certificates(path)?;
    if let Some(weak) = certificates.iter().find(|certificate| certificate.is_weak) {
        return Err(weak_key(weak));
    }
    if let Some(other) = certificates.iter().skip(1).find(|certificate| !certificate.is_ca) {
        return Err(Refusal::NotACa { subject: other.subject.clone() });
    }
    let (Some(now), Some(Root { certificate, file, origin: _ })) = (now, store.root_of(path.anchor())) else {
        return Ok(());
    };
    let (subject, file) = (certificate.subject.clone(), file.clone());
    if now > certificate.not_after {
        return Err(Refusal::RootExpired { subject, file, not_after: certificate.not_after, now });
    }
    if now < certificate.not_before {
        return Err(Refusal::RootNotYetValid { subject, file, not_before: certificate.not_before, now });
    }
    Ok(())
}

fn weak_key(certificate: &Certificate) -> Refusal {
    Refusal::WeakKey { subject: certificate.subject.clone(), key: certificate.key.clone() }
}
