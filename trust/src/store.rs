//! The roots: those that files gave, and no others.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::Serialize;

use crate::certificate::{Certificate, Fingerprint};
use crate::date::Date;
use crate::problem::{Flaw, Problem};

/// Which of the two directories a root came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `pkg://trust/`: came with the package, or with the machine's image; netd never writes there.
    Packaged,
    /// `state:/trust/installed/`: added by somebody who may.
    Installed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Packaged => "pkg://trust/",
            Origin::Installed => "state:/trust/installed/",
        })
    }
}

/// A root, and the file it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// What it says.
    #[serde(flatten)]
    pub certificate: Certificate,
    /// Its file.
    pub file: PathBuf,
    /// Which directory.
    pub origin: Origin,
}

/// All roots of one reading of the directories.
#[derive(Debug, Default)]
pub struct Store {
    roots: Vec<Root>,
    /// In the order of `roots`.
    anchors: Vec<TrustAnchor<'static>>,
}

impl Store {
    /// The roots, those of the package first, by file.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether a root is (still) among them.
    pub fn contains(&self, sha256: &Fingerprint) -> bool {
        self.roots.iter().any(|root| root.certificate.sha256 == *sha256)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The root behind one of [`anchors`](Self::anchors), which webpki gives back. Two may have the same name and key, with other dates.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        self.anchors.iter().position(|other| std::ptr::eq(other, anchor)).map(|index| &self.roots[index])
    }
}

/// Takes certificates one by one, and tells of those that it leaves out.
#[derive(Debug)]
pub(crate) struct Builder {
    store: Store,
    known: HashMap<Fingerprint, usize>,
    /// None while the clock is not trusted: dates cannot be judged then.
    now: Option<Date>,
    pub(crate) problems: Vec<Problem>,
}

impl Builder {
    pub(crate) fn new(now: Option<Date>) -> Builder {
        Builder { store: Store::default(), known: HashMap::new(), now, problems: Vec::new() }
    }

    /// The certificate with this number (from 1) in a file.
    pub(crate) fn add(&mut self, file: &Path, origin: Origin, number: usize, der: &CertificateDer<'_>) {
        match self.judge(file, origin, number, der) {
            Ok(dates) => self.problems.extend(dates.map(|what| Problem { file: file.to_owned(), what })),
            Err(what) => self.problems.push(Problem { file: file.to_owned(), what }),
        }
    }

    pub(crate) fn finish(self) -> (Store, Vec<Problem>) {
        (self.store, self.problems)
    }

    fn judge(
        &mut self,
        file: &Path,
        origin: Origin,
        number: usize,
        der: &CertificateDer<'_>,
    ) -> Result<Option<Flaw>, Flaw> {
        let (certificate, anchor) = candidate(number, der)?;
        if let Some(index) = self.known.get(&certificate.sha256) {
            let other = self.store.roots[*index].file.clone();
            return Err(Flaw::Duplicate { subject: certificate.subject, sha256: certificate.sha256, other });
        }
        let dates = self.now.and_then(|now| dates(&certificate, now));
        self.known.insert(certificate.sha256, self.store.roots.len());
        self.store.roots.push(Root { certificate, file: file.to_owned(), origin });
        self.store.anchors.push(anchor);
        Ok(dates)
    }
}

/// What can be a root, dates aside.
pub(crate) fn candidate(
    number: usize,
    der: &CertificateDer<'_>,
) -> Result<(Certificate, TrustAnchor<'static>), Flaw> {
    let malformed = |why| Flaw::Malformed { number, why };
    let certificate = Certificate::parse(der).map_err(malformed)?;
    let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| malformed(error.to_string()))?;
    if !certificate.is_ca {
        return Err(Flaw::NotACa { subject: certificate.subject });
    }
    if certificate.is_weak {
        return Err(Flaw::WeakKey { subject: certificate.subject, key: certificate.key });
    }
    Ok((certificate, anchor.to_owned()))
}

/// What is wrong with a root's dates.
pub(crate) fn dates(certificate: &Certificate, now: Date) -> Option<Flaw> {
    let Certificate { subject, not_before, not_after, .. } = certificate;
    if now > *not_after {
        Some(Flaw::Expired { subject: subject.clone(), not_after: *not_after })
    } else if now < *not_before {
        Some(Flaw::NotYetValid { subject: subject.clone(), not_before: *not_before })
    } else {
        None
    }
}
