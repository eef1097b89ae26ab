//! A server's certificate, from a root that nobody trusts until a test installs it; made by openssl.

use super::temporary_directory;
use crate::error::{Attempt, Result};
use crate::install;
use crate::process::run;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// In the directory, for the host `$1`.
const MAKE: &str = "
    key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
    openssl req -x509 $key -keyout root.key -out root.pem -days 30 -subj '/CN=Test Root' \
        -addext keyUsage=critical,keyCertSign
    openssl req $key -keyout server.key -out server.csr -subj '/CN=Test Server'
    printf 'subjectAltName=DNS:%s\\nextendedKeyUsage=serverAuth\\n' \"$1\" > extensions
    openssl x509 -req -in server.csr -CA root.pem -CAkey root.key -CAcreateserial -days 30 -extfile extensions -out server.pem";

/// The files of one server and of its root.
#[derive(Debug)]
pub struct Identity {
    directory: TempDir,
}

impl Identity {
    /// Makes a root and a certificate of it for `host`.
    pub fn new(host: &str) -> Result<Identity> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        run(Command::new("sh").args(["-ec", MAKE, "make", host]).current_dir(directory.path()))?;
        Ok(Identity { directory })
    }

    /// The root's certificate.
    pub fn root(&self) -> Result<Vec<u8>> {
        let path = self.directory.path().join("root.pem");
        fs::read(&path).attempt(|| format!("read {}", path.display()))
    }

    /// The server's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("server.pem")
    }

    /// Its key.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("server.key")
    }
}
