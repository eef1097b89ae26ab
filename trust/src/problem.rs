//! What is wrong with the files of roots, each by its name.

use std::io;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::certificate::{Fingerprint, RSA_BITS_MIN};
use crate::date::Date;
use crate::files::{CERTIFICATES_PER_FILE_MAX, FILE_BYTES_MAX, FILES_MAX};

/// A file, or one certificate of it, that is not used as it stands. All others are.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", file.display())]
pub struct Problem {
    /// Where.
    pub file: PathBuf,
    /// What.
    #[source]
    pub what: Flaw,
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Problem", 2)?;
        fields.serialize_field("file", &self.file)?;
        fields.serialize_field("what", &self.what.to_string())?;
        fields.end()
    }
}

/// Why something cannot be a root.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The system does not give it.
    #[error("it cannot be read ({0})")]
    Unreadable(#[source] io::Error),
    /// A device, a pipe.
    #[error("it is no regular file")]
    NotAFile,
    /// Files called otherwise are not read.
    #[error("it is not read, since its name does not end with '.pem'")]
    Suffix,
    /// Larger than any honest one.
    #[error("it is larger than {} KiB", FILE_BYTES_MAX >> 10)]
    TooLarge,
    /// More than any honest one holds.
    #[error("it holds more than {CERTIFICATES_PER_FILE_MAX} certificates: none of them is used")]
    TooManyCertificates,
    /// The directory has more than that.
    #[error("the directory holds more than {FILES_MAX} files: this and those after it are not read")]
    TooManyFiles,
    /// Nothing in it is a certificate.
    #[error(
        "it holds no certificate in PEM (\"-----BEGIN CERTIFICATE-----\"): convert it with `openssl x509 -inform der`"
    )]
    NotPem,
    /// The armour is damaged.
    #[error("what follows certificate {after} in it is not PEM ({why})")]
    DamagedPem {
        /// How many certificates come before.
        after: usize,
        /// What is wrong.
        why: String,
    },
    /// What is in the armour is no certificate.
    #[error("certificate {number} in it cannot be read: {why}")]
    Malformed {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// Its dates are over.
    #[error("'{subject}' expired on {not_after}: nothing signed by it passes while dates count")]
    Expired {
        /// Which.
        subject: String,
        /// When.
        not_after: Date,
    },
    /// Its dates are to come.
    #[error(
        "'{subject}' is not valid before {not_before}: nothing signed by it passes until then while dates count"
    )]
    NotYetValid {
        /// Which.
        subject: String,
        /// When.
        not_before: Date,
    },
    /// A server's certificate, say.
    #[error(
        "'{subject}' is not a CA's certificate (basicConstraints CA:TRUE, and keyCertSign where keyUsage is given)"
    )]
    NotACa {
        /// Which.
        subject: String,
    },
    /// Whoever wants may have its private key.
    #[error("'{subject}' has a weak key ({key}): RSA needs {RSA_BITS_MIN} bits or more, and curves 256")]
    WeakKey {
        /// Which.
        subject: String,
        /// Its key.
        key: String,
    },
    /// The same certificate twice.
    #[error("'{subject}' ({sha256}) is already in {}", other.display())]
    Duplicate {
        /// Which.
        subject: String,
        /// Its digest.
        sha256: Fingerprint,
        /// The file that counts.
        other: PathBuf,
    },
}

impl Flaw {
    /// Whether the root is in the store all the same: verification judges its dates each time.
    pub fn is_of_dates(&self) -> bool {
        matches!(self, Flaw::Expired { .. } | Flaw::NotYetValid { .. })
    }
}
