//! The directory of policy files: every `*.toml` in it, in the order of their names.
//!
//! All of them or none: one file that cannot be read or understood refuses the whole.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use netd_policy::file::{Contents, FileError};

/// The directory beside the configuration, when that does not name one: `/etc/netd/policy.d` for `/etc/netd/netd.toml`.
const BESIDE: &str = "policy.d";
/// Files read at most: a directory with more is a mistake, such as the wrong directory.
const FILES_MAX: usize = 1024;
/// Bytes of one file: 10,000 rules have about 1 MiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why the rules of the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file in it cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More files than anybody means.
    #[error(
        "{path} has more than {FILES_MAX} policy files: is it the right directory? Put rules together in fewer files"
    )]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// A file says something that makes no sense.
    #[error(transparent)]
    Wrong(#[from] FileError),
}

/// The rules of the `directory`, or of the one beside `configuration`, which need not exist.
///
/// # Errors
/// The first file that cannot be used, and why.
pub fn load(configuration: &Path, directory: Option<&Path>) -> Result<Contents, Error> {
    let path = directory.map_or_else(|| configuration.with_file_name(BESIDE), Path::to_owned);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_none() => {
            return Ok(Contents::default());
        }
        Err(source) => return Err(Error::Read { path, source }),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|source| Error::Read { path: path.clone(), source })?.path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(Error::TooMany { path });
        }
    }
    files.sort();
    let mut all = Contents::default();
    for file in files {
        let text = read(&file).map_err(|source| Error::Read { path: file.clone(), source })?;
        let Contents { rules, quotas } = netd_policy::file::read(&file.to_string_lossy(), &text)?;
        all.rules.extend(rules);
        all.quotas.extend(quotas);
    }
    Ok(all)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: &str = "[[grant]]\nsubject = \"any\"\nallow = [\"net.udp.bind\"]\n";

    #[test]
    fn files_of_a_directory_are_read_in_the_order_of_their_names_and_others_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let policies = directory.path().join(BESIDE);
        let configuration = directory.path().join("netd.toml");
        assert!(load(&configuration, None).unwrap().rules.is_empty());
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("20-b.toml"), GRANT).unwrap();
        fs::write(policies.join("10-a.toml"), format!("# first\n{GRANT}")).unwrap();
        fs::write(policies.join("10-a.toml.bak"), "garbage").unwrap();
        let rules = load(&configuration, None).unwrap().rules;
        let places: Vec<String> = rules.iter().map(|(origin, _)| origin.to_string()).collect();
        assert!(
            places[0].ends_with("policy.d/10-a.toml:2") && places[1].ends_with("policy.d/20-b.toml:1"),
            "{places:?}"
        );
    }

    #[test]
    fn directory_that_was_named_and_is_not_there_is_refused() {
        let error = load(Path::new("/netd.toml"), Some(Path::new("/nonexistent/policy"))).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nonexistent/policy: "), "{error}");
    }

    #[test]
    fn one_wrong_file_refuses_all() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.toml"), GRANT).unwrap();
        fs::write(directory.path().join("b.toml"), "[[grant]]\nsubject = \"nobody\"\nallow = []\n").unwrap();
        let error = load(Path::new("/netd.toml"), Some(directory.path())).unwrap_err().to_string();
        assert!(error.contains("b.toml:2:") && error.contains("is not a subject"), "{error}");
    }
}
