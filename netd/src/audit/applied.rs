//! What was in force when it was last recorded: kept beside the checkpoint, so that what changes while netd is stopped is recorded at its
//! next start, as a reload would have.
//!
//! The file is sealed with the log's key, and written after the records of what it says: a crash between the two records the same change
//! twice, and never not at all. Without the file everything in force is recorded as new.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use netd_policy::Policy;
use netd_policy::audit::Key;
use serde::{Deserialize, Serialize};

use super::record::Written;

/// Of the file. One of another version is not understood.
const VERSION: u32 = 1;
/// Of the texts of rules in the file: 10,000 rules have 2 MB. Of more there is the digest alone, which tells that something changed.
const TEXTS_BYTES_MAX: usize = 8 << 20;
/// A longer file is none of ours: the texts, escaped and with their places.
const FILE_BYTES_MAX: u64 = 4 * TEXTS_BYTES_MAX as u64;

/// Devnet switch, rules and quotas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) devnet_enabled: bool,
    rules: Vec<Written>,
}

/// As it is found at a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// What it was.
    Whole(Applied),
    /// How many rules there were, and their digest.
    Digest { devnet_enabled: bool, count: usize, digest: String },
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Fields {
    applied: u32,
    devnet_enabled: bool,
    count: usize,
    digest: String,
    rules: Option<Vec<Written>>,
}

impl Applied {
    pub(super) fn of(policy: &Policy) -> Applied {
        let rules = policy.rules().map(|(origin, rule)| Written::rule(origin, rule));
        let quotas = policy.quotas().tables().map(|(origin, quota)| Written::quota(origin, quota));
        Applied { devnet_enabled: policy.devnet_enabled(), rules: rules.chain(quotas).collect() }
    }

    pub(super) fn count(&self) -> usize {
        self.rules.len()
    }

    /// What is here and not there. What merely stands elsewhere is the same.
    pub(super) fn without(&self, other: &Applied) -> Vec<Written> {
        let there: HashSet<&str> = other.rules.iter().map(|rule| rule.text.as_str()).collect();
        self.rules.iter().filter(|rule| !there.contains(rule.text.as_str())).cloned().collect()
    }

    /// Of the rules, in whatever order they stand.
    pub(super) fn digest(&self, key: &Key) -> String {
        let mut texts: Vec<&str> = self.rules.iter().map(|rule| rule.text.as_str()).collect();
        texts.sort_unstable();
        key.digest(texts.join("\n").as_bytes())
    }

    /// As the file has it.
    pub(super) fn to_text(&self, key: &Key) -> Result<String, serde_json::Error> {
        let bytes: usize = self.rules.iter().map(|rule| rule.text.len()).sum();
        let fields = Fields {
            applied: VERSION,
            devnet_enabled: self.devnet_enabled,
            count: self.count(),
            digest: self.digest(key),
            rules: (bytes <= TEXTS_BYTES_MAX).then(|| self.rules.clone()),
        };
        serde_json::to_string(&fields).map(|text| key.seal_object(&text))
    }
}

/// What the file says; none if there is none.
///
/// # Errors
/// Why it is not what netd wrote.
pub(super) fn read(key: &Key, path: &Path) -> Result<Option<Found>, String> {
    let shown = path.display();
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(format!("{shown} is too long")),
        Ok(_) => fs::read_to_string(path),
        Err(error) => Err(error),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown} cannot be read: {error}")),
    };
    let text = text.trim_end();
    if !key.is_sealed(text) {
        return Err(format!("{shown} was edited: its seal does not fit it"));
    }
    match serde_json::from_str(text) {
        Ok(Fields { applied: VERSION, devnet_enabled, rules: Some(rules), .. }) => {
            Ok(Some(Found::Whole(Applied { devnet_enabled, rules })))
        }
        Ok(Fields { applied: VERSION, devnet_enabled, count, digest, rules: None }) => {
            Ok(Some(Found::Digest { devnet_enabled, count, digest }))
        }
        Ok(Fields { applied, .. }) => Err(format!("{shown} has version {applied}, and {VERSION} is known")),
        Err(error) => Err(format!("{shown} is not understood: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use netd_policy::audit::KEY_BYTES;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; KEY_BYTES])
    }

    fn applied(rules: usize, bytes: usize) -> Applied {
        let text = |index: usize| format!("{index}{}", "x".repeat(bytes));
        let rule = |index| Written {
            effect: "grant".to_owned(),
            text: text(index),
            file: "a.toml".to_owned(),
            line: index,
        };
        Applied { devnet_enabled: true, rules: (0..rules).map(rule).collect() }
    }

    #[test]
    fn file_written_and_read_is_the_same_and_edited_or_of_another_key_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.json");
        assert_eq!(read(&key(1), &path), Ok(None));
        let before = applied(3, 10);
        let text = before.to_text(&key(1)).unwrap();
        fs::write(&path, &text).unwrap();
        assert_eq!(read(&key(1), &path), Ok(Some(Found::Whole(before))));
        assert!(read(&key(2), &path).unwrap_err().contains("seal"));
        fs::write(&path, text.replace("a.toml", "b.toml")).unwrap();
        assert!(read(&key(1), &path).unwrap_err().contains("edited"));
    }

    #[test]
    fn file_of_more_than_is_kept_has_a_digest_that_does_not_depend_on_the_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.json");
        let many = applied(9, 1 << 20);
        fs::write(&path, many.to_text(&key(1)).unwrap()).unwrap();
        let mut turned = many.clone();
        turned.rules.reverse();
        let digest = turned.digest(&key(1));
        assert_eq!(read(&key(1), &path), Ok(Some(Found::Digest { devnet_enabled: true, count: 9, digest })));
        assert_ne!(applied(8, 1 << 20).digest(&key(1)), many.digest(&key(1)));
    }
}
