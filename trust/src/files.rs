//! The directories of roots: read, added to, removed from. The only module that touches files.
//!
//! Certificates are public, so files are readable by all (0644); who may write is up to the directory. What is added is whole or not
//! there.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::Error;
use crate::certificate::Certificate;
use crate::date::Date;
use crate::problem::{Flaw, Problem};
use crate::store::{Builder, Origin, Root, Store, candidate, dates};

/// Four times the bundle of all roots that browsers know.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Three times as many as browsers know.
pub(crate) const CERTIFICATES_PER_FILE_MAX: usize = 512;
/// One per certificate, and still as many.
pub(crate) const FILES_MAX: usize = 1024;
const FILE_MODE: u32 = 0o644;
/// Fewer hexadecimal digits of a fingerprint are more likely a slip than a choice.
const PREFIX_DIGITS_MIN: usize = 4;

/// Where roots are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// `pkg://trust/`
    pub packaged: PathBuf,
    /// `state:/trust/installed/`
    pub installed: PathBuf,
}

/// The files of the directories: names, inodes, lengths, and when they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, u64, u64, Option<SystemTime>)>);

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The file.
    pub file: PathBuf,
    /// The roots in it; none if nothing in it could be one.
    pub roots: Vec<Root>,
}

impl Default for Directories {
    fn default() -> Directories {
        Directories {
            packaged: PathBuf::from("/usr/share/netd/trust"),
            installed: PathBuf::from("/var/lib/netd/trust/installed"),
        }
    }
}

impl Directories {
    /// Reads all roots, and tells what is wrong with the rest. A directory that is not there holds none. `now` is the time if the clock is
    /// trusted; without it dates are not told of (verification judges them each time).
    pub fn load(&self, now: Option<Date>) -> (Store, Vec<Problem>) {
        let mut builder = Builder::new(now);
        read_directory(&mut builder, &self.packaged, Origin::Packaged);
        read_directory(&mut builder, &self.installed, Origin::Installed);
        builder.finish()
    }

    /// What changes with the directories: compared with a later one, it tells whether they have to be read again.
    pub fn stamp(&self) -> Stamp {
        let mut seen = Vec::new();
        for directory in [&self.packaged, &self.installed] {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            for entry in entries.take(FILES_MAX).flatten() {
                // Of what a link leads to.
                let Ok(metadata) = fs::metadata(entry.path()) else { continue };
                let modified = metadata.modified().ok();
                seen.push((entry.path(), metadata.ino(), metadata.len(), modified));
            }
        }
        seen.sort_unstable();
        Stamp(seen)
    }

    /// Adds the certificates of a PEM text to those installed: all of them, or none if one cannot be a root.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong with which certificate, [`Error::Write`].
    pub fn add(&self, pem: &[u8], now: Option<Date>) -> Result<Vec<Root>, Error> {
        let (store, _) = self.load(None);
        let new = self.check(&store, pem, now).map_err(Error::Refused)?;
        let write = |source| Error::Write { path: self.installed.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.installed).map_err(write)?;
        for (der, root) in &new {
            netd_durable::replace(&root.file, FILE_MODE, to_pem(der).as_bytes())
                .map_err(|source| Error::Write { path: root.file.clone(), source })?;
        }
        Ok(new.into_iter().map(|(_, root)| root).collect())
    }

    /// Removes an installed root by the beginning of its SHA-256, or an installed file by its name, with all it holds.
    ///
    /// # Errors
    /// It is not there, or not alone ([`Error::Unknown`], [`Error::Ambiguous`], [`Error::InBundle`]); it came with the package
    /// ([`Error::Packaged`]); [`Error::Write`].
    pub fn remove(&self, id: &str) -> Result<Removed, Error> {
        let (store, _) = self.load(None);
        let removed = self.choose(&store, id)?;
        let write = |source| Error::Write { path: removed.file.clone(), source };
        netd_durable::remove(&removed.file).map_err(write)?;
        Ok(removed)
    }

    /// What an operator means.
    fn choose(&self, store: &Store, id: &str) -> Result<Removed, Error> {
        let of_file =
            |file: &Path| store.roots().iter().filter(|root| root.file == *file).cloned().collect::<Vec<_>>();
        // A name, and no way out of the directory.
        let is_name = id.ends_with(".pem") && !id.starts_with('.') && !id.contains('/');
        if is_name && self.installed.join(id).symlink_metadata().is_ok() {
            let file = self.installed.join(id);
            return Ok(Removed { roots: of_file(&file), file });
        }
        let digits = id.to_ascii_lowercase();
        let is_prefix =
            digits.len() >= PREFIX_DIGITS_MIN && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let meant = |root: &&Root| {
            let Root { certificate, file, origin: _ } = root;
            let by_name = is_name && file.file_name().is_some_and(|name| name == id);
            by_name || is_prefix && certificate.sha256.to_string().starts_with(&digits)
        };
        let matching: Vec<&Root> = store.roots().iter().filter(meant).collect();
        let Some(root) = matching.first() else { return Err(Error::Unknown { id: id.to_owned() }) };
        let Root { certificate, file, origin } = root;
        if matching.len() > 1 && !is_name {
            return Err(Error::Ambiguous { id: id.to_owned(), count: matching.len() });
        }
        let (subject, file) = (certificate.subject.clone(), file.clone());
        if *origin == Origin::Packaged {
            return Err(Error::Packaged { subject, file });
        }
        let roots = of_file(&file);
        match roots.len() {
            1 => Ok(Removed { roots, file }),
            count => Err(Error::InBundle { subject, file, count }),
        }
    }

    fn check(
        &self,
        store: &Store,
        pem: &[u8],
        now: Option<Date>,
    ) -> Result<Vec<(CertificateDer<'static>, Root)>, Flaw> {
        let mut new: Vec<(CertificateDer<'static>, Root)> = Vec::new();
        for (index, der) in parse_pem(pem)?.into_iter().enumerate() {
            let (certificate, _) = candidate(index + 1, &der)?;
            if let Some(flaw) = now.and_then(|now| dates(&certificate, now)) {
                return Err(flaw);
            }
            let Certificate { sha256, .. } = certificate;
            if let Some(root) = store.roots().iter().find(|root| root.certificate.sha256 == sha256) {
                let other = root.file.clone();
                return Err(Flaw::Duplicate { subject: certificate.subject, sha256, other });
            }
            // Twice in one text is once.
            if new.iter().all(|(_, root)| root.certificate.sha256 != sha256) {
                let file = self.installed.join(format!("{sha256}.pem"));
                new.push((der, Root { certificate, file, origin: Origin::Installed }));
            }
        }
        Ok(new)
    }
}

fn read_directory(builder: &mut Builder, directory: &Path, origin: Origin) {
    let listed = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    let mut paths = match listed {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            builder.problems.push(Problem { file: directory.to_owned(), what: Flaw::Unreadable(error) });
            return;
        }
    };
    // Of duplicates always the same one counts.
    paths.sort_unstable();
    // What begins with a dot is being written, or an editor's.
    paths.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    for (index, path) in paths.into_iter().enumerate() {
        if index == FILES_MAX {
            builder.problems.push(Problem { file: path, what: Flaw::TooManyFiles });
            return;
        }
        match read_file(&path).and_then(|text| parse_pem(&text)) {
            Ok(certificates) => {
                for (index, der) in certificates.iter().enumerate() {
                    builder.add(&path, origin, index + 1, der);
                }
            }
            Err(what) => builder.problems.push(Problem { file: path, what }),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Flaw> {
    if path.extension().is_none_or(|extension| extension != "pem") {
        return Err(Flaw::Suffix);
    }
    // Without blocking: a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Flaw::Unreadable(error.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(Flaw::Unreadable)?.is_file() {
        return Err(Flaw::NotAFile);
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(Flaw::Unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(Flaw::TooLarge) } else { Ok(text) }
}

/// The certificates of a PEM text; other sections (keys, parameters) and text between them are passed over.
fn parse_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Flaw::TooLarge);
    }
    let mut certificates = Vec::new();
    for section in CertificateDer::pem_slice_iter(text) {
        let damaged = |error: rustls_pki_types::pem::Error| Flaw::DamagedPem {
            after: certificates.len(),
            why: error.to_string(),
        };
        let der = section.map_err(damaged)?;
        if certificates.len() == CERTIFICATES_PER_FILE_MAX {
            return Err(Flaw::TooManyCertificates);
        }
        certificates.push(der);
    }
    if certificates.is_empty() { Err(Flaw::NotPem) } else { Ok(certificates) }
}

/// RFC 7468, 2: lines of 64 characters.
fn to_pem(der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + "-----END CERTIFICATE-----\n"
}
