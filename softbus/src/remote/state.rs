//! The key-value state that one device keeps for all: keys, requests, and what answers them.
//!
//! Every change makes a new *revision*, a number that only grows; the *version* of a value is the revision that wrote it, so no version
//! comes twice, not even after a key was deleted and written anew. A change may name the version that it replaces ([`Expected`]): if it is
//! another by then, nothing happens, and the reply says which it is. GET and LIST read; SYNC tells what changed after a revision, deletions
//! included, and waits for the next change if asked to.
//!
//! Each request is a byte that says which, and its fields, all numbers big-endian, all keys with their length in front. It is the head of
//! its envelope; the value that PUT writes is the payload.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use super::PAYLOAD_BYTES_MAX;
use super::share::{flag, put_short, text};
use crate::error::Error;
use crate::read::Reader;

/// What every key begins with. Fixed by the protocol.
pub const KEY_ROOT: &str = "/state/shared/";
/// The longest key, in bytes: a prefix, and how far a list of it came, fit one request together.
pub const KEY_BYTES_MAX: usize = 128;
/// The longest value, in bytes: the payload of one request. In base64 it fits one request of a client to its daemon (64 KiB).
pub const VALUE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

const REQUEST: &str = "request to the state";
const REPLY: &str = "reply of the state";

/// What comes behind the root: components that are not empty, `.` or `..`, without control characters.
fn check(what: &'static str, text: &str) -> Result<(), Error> {
    let wrong = |why| Err(Error::Spelling { what, why });
    if text.len() > KEY_BYTES_MAX {
        return Err(Error::Oversize { message: "key", len: text.len(), max: KEY_BYTES_MAX });
    }
    let Some(rest) = text.strip_prefix(KEY_ROOT) else { return wrong("it begins with /state/shared/") };
    if rest.contains(char::is_control) {
        return wrong("it has no control characters");
    }
    let mut components = rest.split('/').peekable();
    while let Some(component) = components.next() {
        let is_last = components.peek().is_none();
        match component {
            // What a prefix ends with; a key is refused for it by its own rule.
            "" if is_last => {}
            "" => return wrong("it has no empty component"),
            "." | ".." => return wrong("it has neither '.' nor '..' as a component"),
            _ => {}
        }
    }
    Ok(())
}

/// The name of a value: `/state/shared/` and one or more components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(Box<str>);

impl Key {
    /// As it is spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(key: &str) -> Result<Key, Error> {
        let what = "a key";
        check(what, key)?;
        if key.ends_with('/') {
            return Err(Error::Spelling { what, why: "it does not end with '/': that is a prefix" });
        }
        Ok(Key(key.into()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// Which keys: with `/` at its end, all that begin so; without, the one of this name. So no prefix ends within a component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// All keys.
    #[must_use]
    pub fn all() -> Prefix {
        Prefix(KEY_ROOT.into())
    }

    /// As it is spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` is one of them.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.reaches(key.as_str())
    }

    /// Whether all of `other` are among them.
    #[must_use]
    pub fn covers(&self, other: &Prefix) -> bool {
        self.reaches(other.as_str())
    }

    fn reaches(&self, text: &str) -> bool {
        if self.0.ends_with('/') { text.starts_with(&*self.0) } else { *text == *self.0 }
    }
}

impl From<Key> for Prefix {
    /// This one alone.
    fn from(key: Key) -> Prefix {
        Prefix(key.0)
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(prefix: &str) -> Result<Prefix, Error> {
        check("a prefix of keys", prefix)?;
        Ok(Prefix(prefix.into()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// What a change is made on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Whatever is there.
    Any,
    /// This version; 0: nothing.
    Version(u64),
}

impl Expected {
    fn put(self, out: &mut Vec<u8>) {
        match self {
            Expected::Any => out.push(0),
            Expected::Version(version) => {
                out.push(1);
                out.extend(version.to_be_bytes());
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Expected, Error> {
        Ok(match flag(reader, REQUEST)? {
            false => Expected::Any,
            true => Expected::Version(reader.u64("version")?),
        })
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The value of a key.
    Get {
        /// Which.
        key: Key,
    },
    /// Write a value, which is the payload of the request.
    Put {
        /// Whose.
        key: Key,
        /// Instead of what.
        expected: Expected,
    },
    /// Remove a key.
    Delete {
        /// Which.
        key: Key,
        /// If it has this version.
        expected: Expected,
    },
    /// The keys.
    List {
        /// Which.
        prefix: Prefix,
        /// Only what comes after this one.
        after: Option<Key>,
    },
    /// What changed.
    Sync {
        /// Which keys.
        prefix: Prefix,
        /// After which revision; 0 is before the first.
        since: u64,
        /// The revision from which on the asker has to be told of deletions: `since` of the first request of a row, or, if that was 0, what
        /// its reply says.
        base: u64,
        /// If nothing did, answer when something does, or the deadline comes.
        wait: bool,
    },
}

impl Request {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Request::Get { key } => {
                out.push(1);
                put_short(&mut out, key.as_str());
            }
            Request::Put { key, expected } => {
                out.push(2);
                put_short(&mut out, key.as_str());
                expected.put(&mut out);
            }
            Request::Delete { key, expected } => {
                out.push(3);
                put_short(&mut out, key.as_str());
                expected.put(&mut out);
            }
            Request::List { prefix, after } => {
                out.push(4);
                put_short(&mut out, prefix.as_str());
                // A key of the prefix begins as it does.
                let after = after.as_ref().and_then(|key| key.as_str().strip_prefix(prefix.as_str()));
                put_short(&mut out, after.unwrap_or_default());
            }
            Request::Sync { prefix, since, base, wait } => {
                out.push(5);
                put_short(&mut out, prefix.as_str());
                out.extend(since.to_be_bytes());
                out.extend(base.to_be_bytes());
                out.push(u8::from(*wait));
            }
        }
        out
    }

    /// Understands it.
    pub fn decode(bytes: &[u8]) -> Result<Request, Error> {
        let mut reader = Reader::new(REQUEST, bytes);
        let request = match reader.u8("kind")? {
            1 => Request::Get { key: key(&mut reader)? },
            2 => Request::Put { key: key(&mut reader)?, expected: Expected::take(&mut reader)? },
            3 => Request::Delete { key: key(&mut reader)?, expected: Expected::take(&mut reader)? },
            4 => {
                let prefix: Prefix = text(&mut reader, "prefix")?.parse()?;
                let behind = text(&mut reader, "key")?;
                let after = match behind {
                    "" => None,
                    behind => Some([prefix.as_str(), behind].concat().parse::<Key>()?),
                };
                if let Some(after) = after.as_ref().filter(|after| !prefix.contains(after)) {
                    return Err(Error::NotWithin { key: after.clone(), prefix });
                }
                Request::List { prefix, after }
            }
            5 => Request::Sync {
                prefix: text(&mut reader, "prefix")?.parse()?,
                since: reader.u64("revision")?,
                base: reader.u64("revision")?,
                wait: flag(&mut reader, REQUEST)?,
            },
            kind => return Err(Error::UnknownValue { message: REQUEST, field: "kind", value: kind }),
        };
        reader.end()?;
        Ok(request)
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Request::Put { .. } | Request::Delete { .. })
    }

    /// The keys that it is about.
    #[must_use]
    pub fn keys(&self) -> Prefix {
        match self {
            Request::Get { key } | Request::Put { key, .. } | Request::Delete { key, .. } => {
                key.clone().into()
            }
            Request::List { prefix, .. } | Request::Sync { prefix, .. } => prefix.clone(),
        }
    }
}

/// A key in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Which.
    pub key: Key,
    /// Its version.
    pub version: u64,
    /// Bytes of its value.
    pub length: u32,
}

/// A change in a row of changes: the last of its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which key.
    pub key: Key,
    /// The revision that it made.
    pub revision: u64,
    /// Bytes of the value that was written; none if the key was removed.
    pub length: Option<u32>,
}

/// What answers a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To [`Request::Get`].
    Value {
        /// Its version.
        version: u64,
        /// When it was written, in milliseconds since 1970, by the clock of the device that keeps it.
        modified_ms: u64,
        /// All of it, or nothing if it comes on a carrier.
        value: Vec<u8>,
    },
    /// To [`Request::Put`] and [`Request::Delete`]: the revision that it made.
    Done {
        /// Which.
        revision: u64,
    },
    /// To either, if the version is another: nothing was changed.
    Conflict {
        /// Which it is; 0: the key is not there.
        version: u64,
    },
    /// To [`Request::List`], sorted.
    Listed {
        /// These.
        keys: Vec<Listed>,
        /// There are more behind them.
        more: bool,
    },
    /// To [`Request::Sync`], sorted by revision.
    Changes {
        /// What to ask for as `since` next.
        until: u64,
        /// What to ask for as `base` next.
        base: u64,
        /// These.
        changes: Vec<Change>,
        /// There are more behind them.
        more: bool,
    },
}

impl Reply {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Reply::Value { version, modified_ms, value } => {
                out.push(1);
                out.extend(version.to_be_bytes());
                out.extend(modified_ms.to_be_bytes());
                out.extend(value);
            }
            Reply::Done { revision } => {
                out.push(2);
                out.extend(revision.to_be_bytes());
            }
            Reply::Conflict { version } => {
                out.push(3);
                out.extend(version.to_be_bytes());
            }
            Reply::Listed { keys, more } => {
                out.push(4);
                out.push(u8::from(*more));
                for Listed { key, version, length } in keys {
                    put_short(&mut out, key.as_str());
                    out.extend(version.to_be_bytes());
                    out.extend(length.to_be_bytes());
                }
            }
            Reply::Changes { until, base, changes, more } => {
                out.push(5);
                out.extend(until.to_be_bytes());
                out.extend(base.to_be_bytes());
                out.push(u8::from(*more));
                for Change { key, revision, length } in changes {
                    put_short(&mut out, key.as_str());
                    out.extend(revision.to_be_bytes());
                    out.push(u8::from(length.is_some()));
                    out.extend(length.iter().flat_map(|length| length.to_be_bytes()));
                }
            }
        }
        out
    }

    /// Understands it.
    pub fn decode(bytes: &[u8]) -> Result<Reply, Error> {
        let mut reader = Reader::new(REPLY, bytes);
        let reply = match reader.u8("kind")? {
            1 => {
                let (version, modified_ms) = (reader.u64("version")?, reader.u64("time")?);
                return Ok(Reply::Value { version, modified_ms, value: reader.rest().to_vec() });
            }
            2 => Reply::Done { revision: reader.u64("revision")? },
            3 => Reply::Conflict { version: reader.u64("version")? },
            4 => {
                let more = flag(&mut reader, REPLY)?;
                let mut keys = Vec::new();
                while !reader.is_empty() {
                    keys.push(Listed {
                        key: key(&mut reader)?,
                        version: reader.u64("version")?,
                        length: reader.u32("length")?,
                    });
                }
                Reply::Listed { keys, more }
            }
            5 => {
                let (until, base) = (reader.u64("revision")?, reader.u64("revision")?);
                let more = flag(&mut reader, REPLY)?;
                let mut changes = Vec::new();
                while !reader.is_empty() {
                    let (key, revision) = (key(&mut reader)?, reader.u64("revision")?);
                    let length = match flag(&mut reader, REPLY)? {
                        true => Some(reader.u32("length")?),
                        false => None,
                    };
                    changes.push(Change { key, revision, length });
                }
                Reply::Changes { until, base, changes, more }
            }
            kind => return Err(Error::UnknownValue { message: REPLY, field: "kind", value: kind }),
        };
        reader.end()?;
        Ok(reply)
    }
}

fn key(reader: &mut Reader<'_>) -> Result<Key, Error> {
    text(reader, "key")?.parse()
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Key {
        [KEY_ROOT, name].concat().parse().unwrap()
    }

    #[test]
    fn key_outside_of_what_is_shared_is_refused_with_the_reason() {
        for (key, why) in [
            ("", "begins with /state/shared/"),
            ("/state/own/a", "begins with /state/shared/"),
            ("/state/shared", "begins with /state/shared/"),
            ("state/shared/a", "begins with /state/shared/"),
            ("/state/shared/", "that is a prefix"),
            ("/state/shared/a/", "that is a prefix"),
            ("/state/shared//a", "no empty component"),
            ("/state/shared/a//b", "no empty component"),
            ("/state/shared/../own", "neither '.' nor '..'"),
            ("/state/shared/a/./b", "neither '.' nor '..'"),
            ("/state/shared/a\nb", "no control characters"),
            ("/state/shared/a\0", "no control characters"),
            (&[KEY_ROOT, &"x".repeat(115)].concat(), "129 bytes"),
        ] {
            let error = key.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains(why), "{key}: {error}");
        }
        assert_eq!(named("a/b").as_str(), "/state/shared/a/b");
        assert!([KEY_ROOT, &"x".repeat(114)].concat().parse::<Key>().is_ok());
    }

    #[test]
    fn prefix_ends_with_a_component_or_means_one_key() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let cameras = prefix("/state/shared/cameras/");
        assert!(cameras.contains(&named("cameras/1")) && cameras.contains(&named("cameras/1/on")));
        assert!(!cameras.contains(&named("cameras")) && !cameras.contains(&named("cameras2/1")));
        let one = prefix("/state/shared/cam");
        assert!(one.contains(&named("cam")));
        assert!(!one.contains(&named("camera")) && !one.contains(&named("cam/1")));
        assert!(Prefix::all().covers(&cameras) && Prefix::all().contains(&named("a")));
        assert!(!cameras.covers(&Prefix::all()) && !one.covers(&prefix("/state/shared/cam/")));
        for wrong in ["", "/", "/state/", "/state/shared", "/state/shared//", "/state/shared/../"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn longest_requests_leave_room_for_their_envelope() {
        let key = named(&"x".repeat(KEY_BYTES_MAX - KEY_ROOT.len()));
        let list = Request::List { prefix: Prefix::all(), after: Some(key.clone()) };
        assert_eq!(list.encode().len(), 1 + 2 + KEY_BYTES_MAX);
        let put = Request::Put { key, expected: Expected::Version(u64::MAX) };
        assert!(super::super::Request::fits(put.encode().len(), 64));
    }

    #[test]
    fn list_goes_on_within_its_prefix_only() {
        let mut bytes = Request::List { prefix: Prefix::all(), after: Some(named("a/b")) }.encode();
        assert!(Request::decode(&bytes).is_ok());
        // "a/b" becomes "../".
        let end = bytes.len();
        bytes[end - 3..].copy_from_slice(b"../");
        assert!(Request::decode(&bytes).is_err());
        let one = Request::List { prefix: named("a").into(), after: None }.encode();
        let more = [&one[..one.len() - 1], &[1, b'b']].concat();
        assert!(matches!(Request::decode(&more), Err(Error::NotWithin { .. })));
    }

    fn keys() -> impl Strategy<Value = Key> {
        "[a-zäö]{1,8}(/[a-z.]{0,3}[a-z]){0,3}".prop_map(|name| named(&name))
    }

    fn prefixes() -> impl Strategy<Value = Prefix> {
        prop_oneof![
            Just(Prefix::all()),
            keys().prop_map(Prefix::from),
            keys().prop_map(|key| [key.as_str(), "/"].concat().parse().unwrap()),
        ]
    }

    fn expectations() -> impl Strategy<Value = Expected> {
        prop_oneof![Just(Expected::Any), any::<u64>().prop_map(Expected::Version)]
    }

    fn values() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..32)
    }

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            keys().prop_map(|key| Request::Get { key }),
            (keys(), expectations()).prop_map(|(key, expected)| Request::Put { key, expected }),
            (keys(), expectations()).prop_map(|(key, expected)| Request::Delete { key, expected }),
            prefixes().prop_map(|prefix| Request::List { prefix, after: None }),
            keys().prop_map(|key| Request::List { prefix: Prefix::all(), after: Some(key) }),
            (prefixes(), any::<(u64, u64, bool)>()).prop_map(|(prefix, (since, base, wait))| Request::Sync {
                prefix,
                since,
                base,
                wait
            }),
        ]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let listed = (keys(), any::<(u64, u32)>()).prop_map(|(key, (version, length))| Listed {
            key,
            version,
            length,
        });
        let change = (keys(), any::<(u64, Option<u32>)>()).prop_map(|(key, (revision, length))| Change {
            key,
            revision,
            length,
        });
        prop_oneof![
            (any::<(u64, u64)>(), values()).prop_map(|((version, modified_ms), value)| Reply::Value {
                version,
                modified_ms,
                value
            }),
            any::<u64>().prop_map(|revision| Reply::Done { revision }),
            any::<u64>().prop_map(|version| Reply::Conflict { version }),
            (prop::collection::vec(listed, 0..8), any::<bool>())
                .prop_map(|(keys, more)| Reply::Listed { keys, more }),
            (prop::collection::vec(change, 0..8), any::<(u64, u64, bool)>())
                .prop_map(|(changes, (until, base, more))| Reply::Changes { until, base, changes, more }),
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
        fn key_of_any_text_that_is_taken_is_below_the_root(text in "/state/shared/[a./\\x00]{0,16}") {
            if let Ok(key) = text.parse::<Key>() {
                let rest = key.as_str().strip_prefix(KEY_ROOT).unwrap();
                for component in rest.split('/') {
                    prop_assert!(!matches!(component, "" | "." | ".."));
                }
            }
        }

        #[test]
        fn prefix_covers_another_only_if_it_contains_all_of_its_keys(
            one in prefixes(), other in prefixes(), key in keys()
        ) {
            if one.covers(&other) && other.contains(&key) {
                prop_assert!(one.contains(&key));
            }
        }
    }
}
