//! The read-only file share: names and paths that cannot lead outside, requests, and what answers them.
//!
//! A device shares directories under names. STAT tells of a file or a directory, LIST what is in a directory (or, without a name, which
//! shares there are), OPEN gives a handle on a regular file, HASH the SHA-256 of all of it, READ streams any part of it, CLOSE gives the
//! handle back. A reader that was cut short goes on where it stopped if the hash is still the same, and checks the whole against it.
//!
//! Each request is a byte that says which, and its fields, all numbers big-endian, all names with their length in front. It is the head of
//! its envelope, and has no payload; what READ streams comes on a carrier.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::error::Error;
use crate::read::Reader;

/// The longest path, in bytes. Fixed by the protocol.
pub const PATH_BYTES_MAX: usize = 192;
/// The longest name of a share, in bytes: with the longest path it fits a request.
pub const SHARE_BYTES_MAX: usize = 32;
/// Bytes of a hash: SHA-256.
pub const HASH_BYTES: usize = 32;

const REQUEST: &str = "request to the file share";
const REPLY: &str = "reply of the file share";

/// What a directory is shared as: letters, digits, `-`, `_` and `.`, the first of them no dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShareName(Box<str>);

impl ShareName {
    /// As it is spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShareName {
    type Err = Error;

    fn from_str(name: &str) -> Result<ShareName, Error> {
        let what = "a share's name";
        if name.is_empty() || name.len() > SHARE_BYTES_MAX {
            return Err(Error::NameLength { what, len: name.len(), max: SHARE_BYTES_MAX });
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.starts_with('.') || !name.bytes().all(fits) {
            return Err(Error::Spelling {
                what,
                why: "it is made of letters, digits, '-', '_' and '.', and begins with no dot",
            });
        }
        Ok(ShareName(name.into()))
    }
}

impl fmt::Display for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where something is below a share's directory. Empty: the directory itself. It is relative, and has no component that is empty, `.` or
/// `..`, so the text alone leads nowhere else; that no link does is the business of whoever opens it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SharePath(Box<str>);

impl SharePath {
    /// As it is spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the share's own directory.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// What is called `name` in this directory.
    pub fn join(&self, name: &str) -> Result<SharePath, Error> {
        if name.is_empty() || name.contains('/') {
            return Err(Error::Spelling { what: "a file's name", why: "it has no '/', and is not empty" });
        }
        match self.is_root() {
            true => name.parse(),
            false => [&self.0, "/", name].concat().parse(),
        }
    }
}

impl FromStr for SharePath {
    type Err = Error;

    fn from_str(path: &str) -> Result<SharePath, Error> {
        let wrong = |why| Err(Error::Spelling { what: "a path", why });
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::Oversize { message: "path", len: path.len(), max: PATH_BYTES_MAX });
        }
        if path.contains('\0') {
            return wrong("it has a NUL in it");
        }
        if path.starts_with('/') {
            return wrong("it begins with '/': paths are relative to the share");
        }
        for component in path.split('/').filter(|_| !path.is_empty()) {
            match component {
                "" => return wrong("it has an empty component: '//', or '/' at its end"),
                "." | ".." => return wrong("it has '.' or '..' as a component"),
                _ => {}
            }
        }
        Ok(SharePath(path.into()))
    }
}

impl fmt::Display for SharePath {
    /// Escapes what a terminal would obey.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// What is there?
    Stat {
        /// In which share.
        share: ShareName,
        /// Where in it.
        path: SharePath,
    },
    /// What is in the directory? Without a share: which shares are there?
    List {
        /// In which share.
        share: Option<ShareName>,
        /// Which directory of it.
        path: SharePath,
        /// How many entries the asker has already.
        from: u32,
    },
    /// Open a file.
    Open {
        /// In which share.
        share: ShareName,
        /// Where in it.
        path: SharePath,
    },
    /// The hash of the whole file.
    Hash {
        /// Of an open file.
        handle: u32,
    },
    /// Stream a part of the file.
    Read {
        /// Of an open file.
        handle: u32,
        /// Where the part begins.
        offset: u64,
        /// How long it is at most.
        length: u64,
    },
    /// The handle is not needed any more. A stream that is under way goes on.
    Close {
        /// Of an open file.
        handle: u32,
    },
}

impl Request {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Request::Stat { share, path } => {
                out.push(1);
                put_short(&mut out, share.as_str());
                put_short(&mut out, path.as_str());
            }
            Request::List { share, path, from } => {
                out.push(2);
                put_short(&mut out, share.as_ref().map_or("", ShareName::as_str));
                put_short(&mut out, path.as_str());
                out.extend(from.to_be_bytes());
            }
            Request::Open { share, path } => {
                out.push(3);
                put_short(&mut out, share.as_str());
                put_short(&mut out, path.as_str());
            }
            Request::Hash { handle } => {
                out.push(4);
                out.extend(handle.to_be_bytes());
            }
            Request::Read { handle, offset, length } => {
                out.push(5);
                out.extend(handle.to_be_bytes());
                out.extend(offset.to_be_bytes());
                out.extend(length.to_be_bytes());
            }
            Request::Close { handle } => {
                out.push(6);
                out.extend(handle.to_be_bytes());
            }
        }
        out
    }

    /// Understands it.
    pub fn decode(bytes: &[u8]) -> Result<Request, Error> {
        let mut reader = Reader::new(REQUEST, bytes);
        let request = match reader.u8("kind")? {
            1 => Request::Stat { share: share(&mut reader)?, path: path(&mut reader)? },
            2 => {
                let name = text(&mut reader, "share")?;
                let share = if name.is_empty() { None } else { Some(name.parse()?) };
                Request::List { share, path: path(&mut reader)?, from: reader.u32("position")? }
            }
            3 => Request::Open { share: share(&mut reader)?, path: path(&mut reader)? },
            4 => Request::Hash { handle: reader.u32("handle")? },
            5 => Request::Read {
                handle: reader.u32("handle")?,
                offset: reader.u64("offset")?,
                length: reader.u64("length")?,
            },
            6 => Request::Close { handle: reader.u32("handle")? },
            kind => return Err(Error::UnknownValue { message: REQUEST, field: "kind", value: kind }),
        };
        reader.end()?;
        Ok(request)
    }
}

/// What something in a share is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// What is known of a file or a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Which of the two.
    pub kind: Kind,
    /// Of a file: its bytes.
    pub size: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub modified_ms: u64,
}

impl Stat {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            Kind::File => 1,
            Kind::Directory => 2,
        });
        out.extend(self.size.to_be_bytes());
        out.extend(self.modified_ms.to_be_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Result<Stat, Error> {
        let kind = match reader.u8("kind")? {
            1 => Kind::File,
            2 => Kind::Directory,
            kind => return Err(Error::UnknownValue { message: REPLY, field: "kind", value: kind }),
        };
        Ok(Stat { kind, size: reader.u64("size")?, modified_ms: reader.u64("time")? })
    }
}

/// Something in a directory, or a share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it is called there.
    pub name: Box<str>,
    /// What it is.
    pub stat: Stat,
}

/// Some of what is in a directory, sorted by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// These.
    pub entries: Vec<Entry>,
    /// There are more behind them.
    pub more: bool,
}

impl Page {
    /// The most of `entries` that fit `bytes`.
    #[must_use]
    pub fn fit(entries: Vec<Entry>, bytes: usize) -> Page {
        // Whether there are more.
        let mut length = 1;
        let fitting = entries.iter().take_while(|entry| {
            length += 1 + entry.name.len() + 17;
            length <= bytes
        });
        let fitting = fitting.count();
        let more = fitting < entries.len();
        Page { entries: entries.into_iter().take(fitting).collect(), more }
    }
}

/// What answers a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To [`Request::Stat`].
    Stat(Stat),
    /// To [`Request::List`].
    Page(Page),
    /// To [`Request::Open`].
    Opened {
        /// For what is asked next.
        handle: u32,
        /// What was opened.
        stat: Stat,
    },
    /// To [`Request::Hash`].
    Hash([u8; HASH_BYTES]),
    /// To [`Request::Read`]: so many bytes are on their way.
    Reading {
        /// How many.
        length: u64,
    },
    /// To [`Request::Close`].
    Closed,
}

impl Reply {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Reply::Stat(stat) => {
                out.push(1);
                stat.put(&mut out);
            }
            Reply::Page(Page { entries, more }) => {
                out.push(2);
                out.push(u8::from(*more));
                for Entry { name, stat } in entries {
                    put_short(&mut out, name);
                    stat.put(&mut out);
                }
            }
            Reply::Opened { handle, stat } => {
                out.push(3);
                out.extend(handle.to_be_bytes());
                stat.put(&mut out);
            }
            Reply::Hash(hash) => {
                out.push(4);
                out.extend(hash);
            }
            Reply::Reading { length } => {
                out.push(5);
                out.extend(length.to_be_bytes());
            }
            Reply::Closed => out.push(6),
        }
        out
    }

    /// Understands it.
    pub fn decode(bytes: &[u8]) -> Result<Reply, Error> {
        let mut reader = Reader::new(REPLY, bytes);
        let reply = match reader.u8("kind")? {
            1 => Reply::Stat(Stat::take(&mut reader)?),
            2 => {
                let more = flag(&mut reader, REPLY)?;
                let mut entries = Vec::new();
                while !reader.is_empty() {
                    let name = text(&mut reader, "name")?;
                    // What could not be asked for is not listed.
                    SharePath::default().join(name)?;
                    entries.push(Entry { name: name.into(), stat: Stat::take(&mut reader)? });
                }
                Reply::Page(Page { entries, more })
            }
            3 => Reply::Opened { handle: reader.u32("handle")?, stat: Stat::take(&mut reader)? },
            4 => Reply::Hash(reader.array("hash")?),
            5 => Reply::Reading { length: reader.u64("length")? },
            6 => Reply::Closed,
            kind => return Err(Error::UnknownValue { message: REPLY, field: "kind", value: kind }),
        };
        reader.end()?;
        Ok(reply)
    }
}

/// A text with its length, one byte, in front. All texts of requests and replies are shorter than that can say.
pub(super) fn put_short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend(text.bytes().take(u8::MAX.into()));
}

pub(super) fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a str, Error> {
    core::str::from_utf8(reader.short(field)?).map_err(|_| Error::NotUtf8 { what: field })
}

pub(super) fn flag(reader: &mut Reader<'_>, message: &'static str) -> Result<bool, Error> {
    match reader.u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Error::UnknownValue { message, field: "flag", value }),
    }
}

fn share(reader: &mut Reader<'_>) -> Result<ShareName, Error> {
    text(reader, "share")?.parse()
}

fn path(reader: &mut Reader<'_>) -> Result<SharePath, Error> {
    text(reader, "path")?.parse()
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::string::ToString as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn path_that_leads_or_may_lead_elsewhere_is_refused_with_the_reason() {
        for (path, why) in [
            ("/etc/passwd", "begins with '/'"),
            ("..", "'.' or '..'"),
            ("../secret", "'.' or '..'"),
            ("a/../../secret", "'.' or '..'"),
            ("a/..", "'.' or '..'"),
            (".", "'.' or '..'"),
            ("./a", "'.' or '..'"),
            ("a/./b", "'.' or '..'"),
            ("a//b", "empty component"),
            ("a/", "empty component"),
            ("//", "begins with '/'"),
            ("a\0b", "NUL"),
            (&"x".repeat(193), "193 bytes long"),
        ] {
            let error = path.parse::<SharePath>().unwrap_err().to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
    }

    #[test]
    fn path_within_its_bounds_is_taken_as_it_is() {
        for path in ["", "a", "a/b", "...", "..a", "a..", "a/...b/c", " ", "\\..\\x", "ä/ö", &"x".repeat(192)]
        {
            assert_eq!(path.parse::<SharePath>().unwrap().as_str(), path);
        }
        let path: SharePath = "a".parse().unwrap();
        assert_eq!(path.join("b").unwrap().as_str(), "a/b");
        assert_eq!(SharePath::default().join("b").unwrap().as_str(), "b");
        for name in ["", "..", ".", "b/c", "b\0"] {
            assert!(path.join(name).is_err(), "{name:?}");
        }
        assert_eq!("a\x1b[2J".parse::<SharePath>().unwrap().to_string(), "a\\u{1b}[2J");
    }

    #[test]
    fn share_name_is_a_word() {
        for name in ["firmware", "a", "v1.2_x-y", &"x".repeat(32)] {
            assert_eq!(name.parse::<ShareName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\0", &"x".repeat(33)] {
            assert!(name.parse::<ShareName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn longest_request_leaves_room_for_its_envelope() {
        let share: ShareName = "s".repeat(SHARE_BYTES_MAX).parse().unwrap();
        let path: SharePath = "p".repeat(PATH_BYTES_MAX).parse().unwrap();
        let longest = Request::List { share: Some(share), path, from: u32::MAX };
        assert_eq!(longest.encode().len(), 231);
    }

    #[test]
    fn page_takes_what_fits_and_says_whether_there_is_more() {
        let stat = Stat { kind: Kind::File, size: 1, modified_ms: 2 };
        let entry = |number: u32| Entry { name: alloc::format!("file{number}").into(), stat };
        let page = Page::fit((0..10).map(entry).collect(), 1 + 3 * 23);
        assert_eq!((page.entries.len(), page.more), (3, true));
        assert_eq!(Reply::Page(page).encode().len(), 1 + 1 + 3 * 23);
        let page = Page::fit((0..3).map(entry).collect(), 1 + 3 * 23);
        assert_eq!((page.entries.len(), page.more), (3, false));
    }

    fn component() -> impl Strategy<Value = String> {
        "[a-zäö. ]{1,12}".prop_filter("no component of dots", |name| name != "." && name != "..")
    }

    fn paths() -> impl Strategy<Value = SharePath> {
        prop::collection::vec(component(), 0..5).prop_map(|components| components.join("/").parse().unwrap())
    }

    fn shares() -> impl Strategy<Value = ShareName> {
        "[a-z][a-z0-9._-]{0,31}".prop_map(|name| name.parse().unwrap())
    }

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            (shares(), paths()).prop_map(|(share, path)| Request::Stat { share, path }),
            (prop::option::of(shares()), paths(), any::<u32>())
                .prop_map(|(share, path, from)| Request::List { share, path, from }),
            (shares(), paths()).prop_map(|(share, path)| Request::Open { share, path }),
            any::<u32>().prop_map(|handle| Request::Hash { handle }),
            any::<(u32, u64, u64)>().prop_map(|(handle, offset, length)| Request::Read {
                handle,
                offset,
                length
            }),
            any::<u32>().prop_map(|handle| Request::Close { handle }),
        ]
    }

    fn stats() -> impl Strategy<Value = Stat> {
        (any::<bool>(), any::<u64>(), any::<u64>()).prop_map(|(is_file, size, modified_ms)| {
            let kind = if is_file { Kind::File } else { Kind::Directory };
            Stat { kind, size, modified_ms }
        })
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let entry = (component(), stats()).prop_map(|(name, stat)| Entry { name: name.into(), stat });
        prop_oneof![
            stats().prop_map(Reply::Stat),
            (prop::collection::vec(entry, 0..8), any::<bool>())
                .prop_map(|(entries, more)| Reply::Page(Page { entries, more })),
            (any::<u32>(), stats()).prop_map(|(handle, stat)| Reply::Opened { handle, stat }),
            any::<[u8; HASH_BYTES]>().prop_map(Reply::Hash),
            any::<u64>().prop_map(|length| Reply::Reading { length }),
            Just(Reply::Closed),
        ]
    }

    proptest! {
        #[test]
        fn request_encoded_is_decoded_as_it_was(request in requests()) {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }

        #[test]
        fn reply_encoded_is_decoded_as_it_was(reply in replies()) {
            prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }

        #[test]
        fn bytes_that_decode_are_exactly_what_is_encoded(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes);
            }
        }

        #[test]
        fn request_cut_short_or_gone_on_with_is_refused(request in requests(), more in any::<u8>()) {
            let bytes = request.encode();
            for end in 0..bytes.len() {
                prop_assert!(Request::decode(&bytes[..end]).is_err());
            }
            prop_assert!(Request::decode(&[&bytes[..], &[more]].concat()).is_err());
        }

        #[test]
        fn path_of_any_text_that_is_taken_stays_below_its_directory(text in "[a./\\x00 ]{0,24}") {
            if let Ok(path) = text.parse::<SharePath>() {
                let mut depth = 0;
                for component in path.as_str().split('/').filter(|_| !path.is_root()) {
                    prop_assert!(!matches!(component, "" | "." | "..") && !component.contains('\0'));
                    depth += 1;
                }
                prop_assert!(depth <= PATH_BYTES_MAX && !path.as_str().starts_with('/'));
            }
        }
    }
}
