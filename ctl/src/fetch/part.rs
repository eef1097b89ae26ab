//! The partial file beside the target: FILE.part, and FILE.part.json that says what it is a part of. It becomes the target by one rename,
//! once everything is there and checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// What a partial file is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    url: String,
    validator: String,
}

/// A partial file, which nobody else writes meanwhile.
#[derive(Debug)]
pub(crate) struct Part {
    target: PathBuf,
    path: PathBuf,
    about_path: PathBuf,
    file: File,
    /// What was there already.
    found: u64,
    about: Option<About>,
    url: String,
}

impl Part {
    /// Opens the one beside `target`, or makes it.
    pub(crate) fn open(target: &Path, url: &str) -> Result<Part, Error> {
        let beside = |ending: &str| {
            let mut name = target.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let (path, about_path) = (beside(".part"), beside(".part.json"));
        if target.is_dir() {
            return Err(Error::Usage("the output is a directory: name a file in it"));
        }
        let failed = |source| Error::File { path: path.clone(), source };
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags.cast_signed())
            .open(&path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is no regular file: remove it")));
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| failed(io::Error::other("another netctl is writing it")))?;
        let about = fs::read(&about_path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let about = about.filter(|about: &About| about.url == url);
        let found = metadata.len();
        Ok(Part { target: target.to_owned(), path, about_path, file, found, about, url: url.to_owned() })
    }

    /// How much is there, and of which version of the resource; none if that is not known.
    pub(crate) fn resumable(&self) -> Option<(u64, String)> {
        let About { validator, .. } = self.about.as_ref()?;
        (self.found > 0).then(|| (self.found, validator.clone()))
    }

    /// Makes ready for a body that begins at `offset`, and may be gone on with if it has a validator; returns the digest of what is in front of
    /// it.
    pub(crate) fn begin(&mut self, offset: u64, validator: Option<&str>) -> Result<Sha256, Error> {
        let mut digest = Sha256::new();
        self.file.set_len(offset).map_err(|source| self.failed(source))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|source| self.failed(source))?;
        let mut piece = vec![0; super::PIECE_BYTES];
        loop {
            match self.file.read(&mut piece).map_err(|source| self.failed(source))? {
                0 => break,
                count => digest.update(piece.get(..count).unwrap_or_default()),
            }
        }
        self.about =
            validator.map(|validator| About { url: self.url.clone(), validator: validator.to_owned() });
        match &self.about {
            Some(about) => {
                let text = serde_json::to_string(about).map_err(|error| self.failed(error.into()))?;
                fs::write(&self.about_path, text).map_err(|source| self.failed(source))?;
            }
            None => self.forget(),
        }
        Ok(digest)
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.file.write_all(piece).map_err(|source| self.failed(source))
    }

    /// Leaves it for another time, if it can be gone on with.
    pub(crate) fn keep(self) {
        if self.about.is_none() {
            self.discard();
        }
    }

    /// Removes it.
    pub(crate) fn discard(self) {
        // What cannot be removed stays, and says by its name what it is.
        let _ = fs::remove_file(&self.path);
        self.forget();
    }

    /// Puts it in the target's place.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.failed(source))?;
        fs::rename(&self.path, &self.target)
            .map_err(|source| Error::File { path: self.target.clone(), source })?;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.about_path);
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { path: self.path.clone(), source }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Nothing came: an empty file would only be in the way. A renamed one has another name by now.
        if self.found == 0
            && self.file.metadata().is_ok_and(|metadata| metadata.len() == 0)
            && self.path.exists()
        {
            let _ = fs::remove_file(&self.path);
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn part_that_broke_off_is_gone_on_with_and_becomes_the_target_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let mut part = Part::open(&target, "http://a/").unwrap();
        assert_eq!(part.resumable(), None);
        part.begin(0, Some("\"v\"")).unwrap();
        part.write(b"hello").unwrap();
        part.keep();
        assert_eq!(names(directory.path()), ["f.part", "f.part.json"]);
        assert_eq!(Part::open(&target, "http://other/").unwrap().resumable(), None);
        let mut part = Part::open(&target, "http://a/").unwrap();
        assert_eq!(part.resumable(), Some((5, "\"v\"".to_owned())));
        assert!(Part::open(&target, "http://a/").unwrap_err().to_string().contains("another netctl"));
        let digest = part.begin(5, Some("\"v\"")).unwrap();
        assert_eq!(digest.finalize(), Sha256::digest(b"hello"));
        part.write(b", world").unwrap();
        part.finish().unwrap();
        assert_eq!(names(directory.path()), ["f"]);
        assert_eq!(fs::read(&target).unwrap(), b"hello, world");
    }

    #[test]
    fn part_without_validator_or_without_content_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        drop(Part::open(&target, "http://a/").unwrap());
        let mut part = Part::open(&target, "http://a/").unwrap();
        part.begin(0, None).unwrap();
        part.write(b"hello").unwrap();
        part.keep();
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn part_that_is_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, elsewhere) = (directory.path().join("f"), directory.path().join("precious"));
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory.path().join("f.part")).unwrap();
        assert!(Part::open(&target, "http://a/").is_err());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    }
}
