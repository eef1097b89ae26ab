//! The chain of audit records: each is sealed with a key, names the one before it, and a checkpoint kept apart names the last.
//!
//! A record is one line of JSON that ends with its number, the seal of the record before it, and its own seal: HMAC-SHA-256 over all
//! bytes of the line up to there. So without the key no record can be changed or made up, none can be taken out or moved within the
//! chain, and none can be cut off its end without the [`Checkpoint`] knowing of a later one.
//!
//! Whoever has the key can forge all of it: it says nothing against the user that netd runs as, or root.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a seal.
const SEAL_BYTES: usize = 32;
/// How a line ends: `,"seal":"`, the seal in hexadecimal digits, `"}`.
const SEAL_KEY: &str = ",\"seal\":\"";
const SEAL_END: &str = "\"}";

/// What records are sealed with.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// A seal, as lines have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal([u8; SEAL_BYTES]);

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The line was not written by netd, or was changed since.
    #[error("line {line} was edited: its seal does not fit it")]
    Edited {
        /// Counted from 1.
        line: usize,
    },
    /// The record does not follow the one before it.
    #[error("line {line} is record {found} where {expected} belongs: records were removed or reordered")]
    OutOfOrder {
        /// Counted from 1.
        line: usize,
        /// Its number.
        found: u64,
        /// The one it should have.
        expected: u64,
    },
    /// The record follows another one than that before it.
    #[error("line {line} follows another record {before} than the one before it: records were replaced")]
    OtherBefore {
        /// Counted from 1.
        line: usize,
        /// The number before.
        before: u64,
    },
    /// The beginning is missing.
    #[error(
        "the log begins with record {found}, and the checkpoint knows of record {expected}: its beginning was cut off"
    )]
    NoBeginning {
        /// The first there is.
        found: u64,
        /// The first there should be.
        expected: u64,
    },
    /// The end is missing.
    #[error(
        "the log ends with record {found}, and the checkpoint knows of record {expected}: its end was cut off"
    )]
    NoEnd {
        /// The last there is; 0 if there is none.
        found: u64,
        /// The last there should be.
        expected: u64,
    },
    /// The record that the checkpoint names is another one.
    #[error("record {number} is another one than the checkpoint knows: the log was replaced")]
    NotTheHead {
        /// Its number.
        number: u64,
    },
    /// The checkpoint itself is not netd's.
    #[error("the checkpoint is missing, or was edited: no seal fits it")]
    Checkpoint,
}

impl Key {
    /// From random bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Key {
        Key(bytes)
    }

    /// From hexadecimal digits.
    pub fn parse(text: &str) -> Option<Key> {
        from_hex(text.trim()).map(Key)
    }

    /// In hexadecimal digits.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// What no other bytes have, and nobody without the key can tell.
    pub fn digest(&self, what: &[u8]) -> String {
        to_hex(&self.seal(what).0)
    }

    /// A JSON object with a seal at its end: for what is kept beside a log.
    pub fn seal_object(&self, object: &str) -> String {
        self.sealed(object).0
    }

    /// Whether that is what it is.
    pub fn is_sealed(&self, text: &str) -> bool {
        self.check(text).is_some()
    }

    fn seal(&self, what: &[u8]) -> Seal {
        Seal(self.mac(what).finalize().into_bytes().into())
    }

    fn fits(&self, what: &[u8], seal: Seal) -> bool {
        // In constant time, though nobody could measure it here.
        self.mac(what).verify_slice(&seal.0).is_ok()
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104, 2)")]
    fn mac(&self, what: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(what);
        mac
    }

    /// The line with its seal; `body` is a JSON object.
    fn sealed(&self, body: &str) -> (String, Seal) {
        let open = body.strip_suffix('}').unwrap_or(body);
        let seal = self.seal(open.as_bytes());
        (format!("{open}{SEAL_KEY}{}{SEAL_END}", to_hex(&seal.0)), seal)
    }

    /// The seal of a line, if it fits.
    fn check(&self, line: &str) -> Option<Seal> {
        let at = line.len().checked_sub(SEAL_KEY.len() + 2 * SEAL_BYTES + SEAL_END.len())?;
        let (open, rest) = line.split_at_checked(at)?;
        let digits = rest.strip_prefix(SEAL_KEY)?.strip_suffix(SEAL_END)?;
        let seal = Seal(from_hex(digits)?);
        self.fits(open.as_bytes(), seal).then_some(seal)
    }
}

/// The end of a chain: where the next record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the last record; 0 before the first.
    pub number: u64,
    /// Its seal; zeros before the first.
    pub seal: Seal,
}

impl Head {
    /// Before the first record.
    pub const NONE: Head = Head { number: 0, seal: Seal([0; SEAL_BYTES]) };

    /// A place to begin at again after record `number` was lost.
    pub fn after_loss(number: u64) -> Head {
        Head { number, seal: Seal([0; SEAL_BYTES]) }
    }

    /// The next record as a line, without the line's end.
    ///
    /// # Errors
    /// `event` is no JSON object with keys that are strings.
    pub fn append(&mut self, key: &Key, event: &impl Serialize) -> Result<String, serde_json::Error> {
        let number = self.number + 1;
        let sealed = Sealed { event, number, previous: to_hex(&self.seal.0) };
        let (line, seal) = key.sealed(&serde_json::to_string(&sealed)?);
        *self = Head { number, seal };
        Ok(line)
    }
}

#[derive(Serialize)]
struct Sealed<'a, T> {
    #[serde(flatten)]
    event: &'a T,
    number: u64,
    previous: String,
}

/// The part of a record that the chain is made of.
#[derive(Deserialize)]
struct Place {
    number: u64,
    previous: String,
}

/// What is kept apart from the log: its first and last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The number of the first record that is kept.
    pub first: u64,
    /// The last record.
    pub head: Head,
}

#[derive(Serialize, Deserialize)]
struct CheckpointFields {
    checkpoint: u32,
    first: u64,
    last: u64,
    head: String,
}

/// Of checkpoints.
const VERSION: u32 = 1;

impl Checkpoint {
    /// As its file has it.
    pub fn to_text(&self, key: &Key) -> String {
        let Checkpoint { first, head } = self;
        let fields = CheckpointFields {
            checkpoint: VERSION,
            first: *first,
            last: head.number,
            head: to_hex(&head.seal.0),
        };
        // Numbers and digits are JSON whatever they are.
        key.seal_object(&serde_json::to_string(&fields).unwrap_or_default())
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`Broken::Checkpoint`].
    pub fn parse(key: &Key, text: &str) -> Result<Checkpoint, Broken> {
        let text = text.trim_end();
        key.check(text).ok_or(Broken::Checkpoint)?;
        #[derive(Deserialize)]
        struct Fields {
            #[serde(flatten)]
            fields: CheckpointFields,
        }
        let Fields { fields } = serde_json::from_str(text).map_err(|_| Broken::Checkpoint)?;
        let seal = from_hex(&fields.head).map(Seal).ok_or(Broken::Checkpoint)?;
        if fields.checkpoint != VERSION {
            return Err(Broken::Checkpoint);
        }
        Ok(Checkpoint { first: fields.first, head: Head { number: fields.last, seal } })
    }
}

/// Reads a log line by line.
#[derive(Debug)]
pub struct Verifier<'a> {
    key: &'a Key,
    checkpoint: Option<Checkpoint>,
    lines: usize,
    first: Option<u64>,
    head: Head,
    met: bool,
}

impl<'a> Verifier<'a> {
    /// For a log with this checkpoint; without one, cut ends are not seen.
    pub fn new(key: &'a Key, checkpoint: Option<Checkpoint>) -> Verifier<'a> {
        Verifier { key, checkpoint, lines: 0, first: None, head: Head::NONE, met: false }
    }

    /// Takes the next line, without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn line(&mut self, line: &str) -> Result<(), Broken> {
        self.lines += 1;
        let at = self.lines;
        let edited = Broken::Edited { line: at };
        let seal = self.key.check(line).ok_or(edited.clone())?;
        let Place { number, previous } = serde_json::from_str(line).map_err(|_| edited)?;
        if self.first.is_some() {
            if number != self.head.number + 1 {
                return Err(Broken::OutOfOrder { line: at, found: number, expected: self.head.number + 1 });
            }
            if previous != to_hex(&self.head.seal.0) {
                return Err(Broken::OtherBefore { line: at, before: self.head.number });
            }
        } else {
            self.first = Some(number);
        }
        self.head = Head { number, seal };
        match self.checkpoint {
            Some(checkpoint) if checkpoint.head.number == number => {
                self.met = checkpoint.head.seal == seal;
                if !self.met {
                    return Err(Broken::NotTheHead { number });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// After the last line: the end of the chain. Records after the checkpoint's are right: a crash came between the two.
    ///
    /// # Errors
    /// The beginning or the end is missing.
    pub fn finish(self) -> Result<Head, Broken> {
        if let Some(Checkpoint { first, head }) = self.checkpoint {
            if let Some(found) = self.first.filter(|found| *found != first && head.number > 0) {
                return Err(Broken::NoBeginning { found, expected: first });
            }
            if !self.met && head.number > 0 {
                return Err(Broken::NoEnd { found: self.head.number, expected: head.number });
            }
        }
        Ok(self.head)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn log(records: u64) -> (Key, Vec<String>, Checkpoint) {
        let key = Key::new([7; KEY_BYTES]);
        let mut head = Head::NONE;
        let lines =
            (0..records).map(|n| head.append(&key, &json!({ "event": "denied", "n": n })).unwrap()).collect();
        (key, lines, Checkpoint { first: 1, head })
    }

    fn verify<'a>(
        key: &Key,
        checkpoint: Checkpoint,
        lines: impl IntoIterator<Item = &'a String>,
    ) -> Result<Head, Broken> {
        let mut verifier = Verifier::new(key, Some(checkpoint));
        lines.into_iter().try_for_each(|line| verifier.line(line))?;
        verifier.finish()
    }

    #[test]
    fn untouched_log_verifies_to_its_head_also_when_the_checkpoint_is_older() {
        let (key, mut lines, checkpoint) = log(3);
        assert_eq!(verify(&key, checkpoint, &lines), Ok(checkpoint.head));
        let mut head = checkpoint.head;
        lines.push(head.append(&key, &json!({})).unwrap());
        assert_eq!(verify(&key, checkpoint, &lines), Ok(head));
        assert_eq!(Checkpoint::parse(&key, &checkpoint.to_text(&key)), Ok(checkpoint));
        assert_eq!(Key::parse(&key.to_hex()).unwrap().0, key.0);
    }

    #[test]
    fn tampering_is_told_by_its_kind() {
        let (key, lines, checkpoint) = log(4);
        let check = |lines: &[&String]| verify(&key, checkpoint, lines.iter().copied()).unwrap_err();
        let [a, b, c, d] = &lines[..] else { panic!("four lines") };
        let edited = b.replace("denied", "nothing");
        assert_eq!(check(&[a, &edited, c, d]), Broken::Edited { line: 2 });
        assert_eq!(check(&[a, c, d]), Broken::OutOfOrder { line: 2, found: 3, expected: 2 });
        assert_eq!(check(&[a, c, b, d]), Broken::OutOfOrder { line: 2, found: 3, expected: 2 });
        assert_eq!(check(&[a, b, b, c, d]), Broken::OutOfOrder { line: 3, found: 2, expected: 3 });
        assert_eq!(check(&[a, b, c]), Broken::NoEnd { found: 3, expected: 4 });
        assert_eq!(check(&[]), Broken::NoEnd { found: 0, expected: 4 });
        assert_eq!(check(&[b, c, d]), Broken::NoBeginning { found: 2, expected: 1 });
        // Another log under the same key, as long as this one.
        let mut other = Head::NONE;
        let replaced: Vec<String> =
            (0..4).map(|_| other.append(&key, &json!({ "event": "x" })).unwrap()).collect();
        assert_eq!(verify(&key, checkpoint, &replaced), Err(Broken::NotTheHead { number: 4 }));
        assert_eq!(check(&[a, &replaced[1], c, d]), Broken::OtherBefore { line: 2, before: 1 });
        let forged = checkpoint.to_text(&key).replace("\"last\":4", "\"last\":3");
        assert_eq!(Checkpoint::parse(&key, &forged), Err(Broken::Checkpoint));
        assert_eq!(
            Checkpoint::parse(&Key::new([8; KEY_BYTES]), &checkpoint.to_text(&key)),
            Err(Broken::Checkpoint)
        );
    }

    proptest! {
        #[test]
        fn any_change_of_one_byte_is_seen(line in 0usize..5, at in any::<prop::sample::Index>(), to in 0x20u8..0x7f) {
            let (key, mut lines, checkpoint) = log(5);
            let mut bytes = lines[line].clone().into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            // A seal in capital letters is the same seal.
            prop_assume!(!bytes[at].eq_ignore_ascii_case(&lines[line].as_bytes()[at]));
            lines[line] = String::from_utf8(bytes).unwrap();
            prop_assert!(verify(&key, checkpoint, &lines).is_err());
        }

        #[test]
        fn any_selection_of_records_but_all_in_order_is_seen(picked in prop::collection::vec(0usize..5, 0..8)) {
            let (key, lines, checkpoint) = log(5);
            let whole = picked == [0, 1, 2, 3, 4];
            prop_assert_eq!(verify(&key, checkpoint, picked.iter().map(|index| &lines[*index])).is_ok(), whole);
        }
    }
}
