//! Requests to the file share, answered.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netd_softbus::remote::Status;
use netd_softbus::remote::share::{Entry, Kind, Page, Reply, Request, ShareName, Stat};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::files::{Directories, Error, Files, IDLE, Part};
use super::{Answer, Bulk, Refusal, Reply as Answered, on_disk, refusal};

/// Files hashed at once, in all: each keeps a processor and a disk busy.
const HASHING_MAX: usize = 1;
/// Bytes read from a file at a time: many frames of the mux.
const PIECE_BYTES: usize = 128 * 1024;

/// The files that this machine shares.
#[derive(Debug)]
pub(in crate::bus) struct FileShare {
    files: Arc<Files>,
    hashing: Semaphore,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match &error {
            Error::NoShare(_) | Error::NotThere | Error::NotOpen => Status::NotFound,
            Error::IsDirectory | Error::NoDirectory => Status::Invalid,
            Error::TooLong(_) | Error::TooMany => Status::TooLarge,
            Error::Full => Status::Busy,
            Error::Changed => Status::Conflict,
            Error::NotWanted => Status::Cancelled,
            Error::Failed(_) => Status::Failed,
        };
        refusal(status, error.to_string())
    }
}

/// Says that nobody wants the hash any more when whoever waits for it is gone.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl FileShare {
    pub(in crate::bus) fn new(directories: Directories) -> FileShare {
        FileShare { files: Arc::new(Files::new(directories)), hashing: Semaphore::new(HASHING_MAX) }
    }

    /// Every share there is.
    pub(in crate::bus) fn all(&self) -> BTreeSet<ShareName> {
        self.files.names().cloned().collect()
    }

    /// Answers `asker`, for whom these shares are there and no others.
    pub(in crate::bus) async fn answer(
        &self,
        asker: &str,
        visible: &BTreeSet<ShareName>,
        request: Request,
    ) -> Answered {
        let (files, asker) = (Arc::clone(&self.files), asker.to_owned());
        let visible = |share: ShareName| match visible.contains(&share) {
            true => Ok(share),
            false => Err(Error::NoShare(share)),
        };
        let reply = match request {
            Request::Stat { share, path } => {
                let share = visible(share)?;
                on_disk(move || files.stat(&share, &path)).await.map(Reply::Stat)
            }
            Request::List { share: Some(share), path, from } => {
                let share = visible(share)?;
                on_disk(move || files.list(&share, &path, from)).await.map(Reply::Page)
            }
            Request::List { share: None, .. } => {
                let stat = Stat { kind: Kind::Directory, size: 0, modified_ms: 0 };
                let names = self.files.names().filter(|name| visible((*name).clone()).is_ok());
                let entries = names.map(|name| Entry { name: name.as_str().into(), stat }).collect();
                Ok(Reply::Page(Page { entries, more: false }))
            }
            Request::Open { share, path } => {
                let share = visible(share)?;
                let opened = on_disk(move || files.open(&asker, &share, &path)).await;
                self.close_idle_later();
                opened.map(|(handle, stat)| Reply::Opened { handle, stat })
            }
            Request::Hash { handle } => self.hash(&asker, handle).await.map(Reply::Hash),
            Request::Read { handle, offset, length } => {
                let part = files.part(&asker, handle)?;
                let length = part.length(offset, length);
                let body = Reply::Reading { length }.encode();
                return Ok(Answer { body, bulk: Some(stream(part, offset, length)) });
            }
            Request::Close { handle } => {
                files.close(&asker, handle).map(|()| Reply::Closed).map_err(Refusal::from)
            }
        };
        reply.map(|reply| Answer { body: reply.encode(), bulk: None })
    }

    async fn hash(&self, asker: &str, handle: u32) -> Result<[u8; 32], Refusal> {
        let (files, part) = (Arc::clone(&self.files), self.files.part(asker, handle)?);
        let turn = self.hashing.acquire().await;
        let _turn = turn.map_err(|_| refusal(Status::Failed, "no files are hashed any more"))?;
        let wanted = Arc::new(AtomicBool::new(true));
        let _waiting = Wanted(Arc::clone(&wanted));
        on_disk(move || files.hash(&part, &wanted)).await
    }

    /// Closes what was opened once nobody asked for it for a while.
    fn close_idle_later(&self) {
        let files = Arc::downgrade(&self.files);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                if !files.upgrade().is_some_and(|files| files.close_idle()) {
                    return;
                }
            }
        });
    }
}

/// A part of a file, read as it is taken. A file that is not what it was any more breaks off before its end.
fn stream(part: Part, offset: u64, length: u64) -> Bulk {
    let (reader, mut writer) = duplex(PIECE_BYTES);
    tokio::spawn(async move {
        if let Err(error) = write(&part, offset, length, &mut writer).await {
            // Whoever reads is gone, as a rule; otherwise it sees that bytes are missing.
            tracing::debug!(%error, "a shared file was not read to its end");
        }
    });
    Bulk { length, reader: Box::new(reader) }
}

async fn write(part: &Part, mut offset: u64, mut length: u64, to: &mut DuplexStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    while length > 0 {
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let part = part.clone();
        let reading = spawn_blocking(move || {
            let count = part.read(offset, piece.get_mut(..most).unwrap_or_default())?;
            // The last of it is not given out before it is certain that all of it was of one piece.
            if count as u64 == length {
                part.check()?;
            }
            Ok::<_, Error>((piece, count))
        });
        let read = reading.await.map_err(io::Error::other)?;
        let count;
        (piece, count) = read.map_err(io::Error::other)?;
        to.write_all(piece.get(..count).unwrap_or_default()).await?;
        offset += count as u64;
        length -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sha2::{Digest as _, Sha256};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn shared() -> (tempfile::TempDir, FileShare, BTreeSet<ShareName>) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), vec![7; 1 << 20]).unwrap();
        let names = ["one", "other"].map(|name| name.parse::<ShareName>().unwrap());
        let shares = names.clone().map(|name| (name, directory.path().to_owned()));
        (directory, FileShare::new(shares.into()), [names[0].clone()].into())
    }

    async fn ask(
        share: &FileShare,
        visible: &BTreeSet<ShareName>,
        request: Request,
    ) -> Result<Reply, Refusal> {
        let Answer { body, bulk } = share.answer("a", visible, request).await?;
        assert!(bulk.is_none());
        Ok(Reply::decode(&body).unwrap())
    }

    fn open(name: &str) -> Request {
        Request::Open { share: name.parse().unwrap(), path: "file".parse().unwrap() }
    }

    async fn carried(share: &FileShare, visible: &BTreeSet<ShareName>, request: Request) -> Bulk {
        let Answer { body, bulk } = share.answer("a", visible, request).await.unwrap();
        let bulk = bulk.unwrap();
        assert_eq!(Reply::decode(&body).unwrap(), Reply::Reading { length: bulk.length });
        bulk
    }

    #[tokio::test]
    async fn share_that_is_not_for_the_asker_is_not_there() {
        let (_directory, share, visible) = shared();
        let refused = ask(&share, &visible, open("other")).await.unwrap_err();
        assert_eq!(
            (refused.status, refused.message.as_str()),
            (Status::NotFound, "there is no share 'other'")
        );
        let none = ask(&share, &visible, open("none")).await.unwrap_err();
        assert_eq!(none.message, refused.message.replace("other", "none"));
        let list = Request::List { share: None, path: "".parse().unwrap(), from: 0 };
        let Reply::Page(page) = ask(&share, &visible, list.clone()).await.unwrap() else { panic!() };
        assert_eq!(page.entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["one"]);
        let Reply::Page(page) = ask(&share, &share.all(), list).await.unwrap() else { panic!() };
        assert_eq!(page.entries.len(), 2);
    }

    #[tokio::test]
    async fn file_read_from_its_middle_is_what_is_left_of_it() {
        let (_directory, share, visible) = shared();
        let Reply::Opened { handle, stat } = ask(&share, &visible, open("one")).await.unwrap() else {
            panic!()
        };
        assert_eq!(stat.size, 1 << 20);
        let Reply::Hash(hash) = ask(&share, &visible, Request::Hash { handle }).await.unwrap() else {
            panic!()
        };
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(vec![7; 1 << 20])));
        let bulk = carried(&share, &visible, Request::Read { handle, offset: 1000, length: u64::MAX }).await;
        // The stream goes on without the handle.
        assert_eq!(ask(&share, &visible, Request::Close { handle }).await.unwrap(), Reply::Closed);
        assert!(bulk.read_all(1 << 20).await.unwrap() == vec![7; (1 << 20) - 1000]);
        let closed = ask(&share, &visible, Request::Hash { handle }).await.unwrap_err();
        assert_eq!(closed.status, Status::NotFound);
    }

    #[tokio::test]
    async fn file_that_changes_while_it_is_streamed_never_comes_to_its_end() {
        let (directory, share, visible) = shared();
        let Reply::Opened { handle, .. } = ask(&share, &visible, open("one")).await.unwrap() else {
            panic!()
        };
        let mut bulk = carried(&share, &visible, Request::Read { handle, offset: 0, length: u64::MAX }).await;
        let mut first = [0; 10];
        bulk.reader.read_exact(&mut first).await.unwrap();
        fs::write(directory.path().join("file"), vec![8; 2 << 20]).unwrap();
        let mut rest = Vec::new();
        bulk.reader.read_to_end(&mut rest).await.unwrap();
        assert!(((first.len() + rest.len()) as u64) < bulk.length);
    }
}
