//! Domain names (RFC 1035, 2.3 and 3.1): labels as they go on the wire, checked once, where they enter.
//!
//! Text is ASCII, labels divided by dots; `\.` and `\032` write bytes that would not survive as text (RFC 1035, 5.1). Names
//! of other scripts are the caller's to encode (IDNA): which of its tables apply is a user interface's decision.

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::str::FromStr;

use thiserror::Error;

/// Bytes of a label (RFC 1035, 2.3.4); two bits of the length octet mean something else.
pub const LABEL_BYTES_MAX: usize = 63;
/// Bytes of a name on the wire with its closing zero (RFC 1035, 2.3.4). The codec takes 254 at most, and no name is longer
/// in text than 253 characters, so the difference is no loss.
pub const NAME_BYTES_MAX: usize = 254;

/// Why a text is not a domain name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Two dots in a row, or one in front.
    #[error("{name:?} has an empty label: dots divide labels, and only one may follow the last")]
    EmptyLabel {
        /// As given.
        name: String,
    },
    /// Beyond [`LABEL_BYTES_MAX`].
    #[error("label {label:?} has {len} bytes: {LABEL_BYTES_MAX} is the most")]
    LabelTooLong {
        /// The label.
        label: String,
        /// Its length.
        len: usize,
    },
    /// Beyond [`NAME_BYTES_MAX`].
    #[error("the name has {len} bytes on the wire: {NAME_BYTES_MAX} is the most")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A name in another script.
    #[error("{name:?} has {character:?}, which is not ASCII: write it in its IDNA form (xn--...)")]
    NotAscii {
        /// As given.
        name: String,
        /// The first such character.
        character: char,
    },
    /// A space or a control character.
    #[error("{name:?} has {character:?}: write it as a backslash and three decimal digits if it is meant")]
    BadCharacter {
        /// As given.
        name: String,
        /// The first such character.
        character: char,
    },
    /// A backslash that escapes nothing.
    #[error("{name:?} has a backslash that is followed by neither a character nor three digits up to 255")]
    BadEscape {
        /// As given.
        name: String,
    },
}

/// A domain name, compared without regard to case (RFC 4343), kept as it was written.
#[derive(Clone)]
pub struct Name {
    /// Length octet and bytes of each label, without the closing zero. Length octets are below 64 and letters above, so that
    /// changing or ignoring the case of the whole never touches a length.
    wire: Box<[u8]>,
}

impl Name {
    /// The root.
    #[must_use]
    pub fn root() -> Name {
        Name { wire: Box::default() }
    }

    /// Reads `text`; the second value says whether it closed with a dot, which keeps the search list away.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<(Name, bool), NameError> {
        if text == "." {
            return Ok((Name::root(), true));
        }
        if let Some(character) = text.chars().find(|c| !c.is_ascii()) {
            return Err(NameError::NotAscii { name: text.to_owned(), character });
        }
        let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'.' => {
                    labels.push(Vec::new());
                    continue;
                }
                b'\\' => {
                    unescape(&mut bytes).ok_or_else(|| NameError::BadEscape { name: text.to_owned() })?
                }
                0x21..=0x7e => byte,
                _ => return Err(NameError::BadCharacter { name: text.to_owned(), character: byte.into() }),
            };
            if let Some(label) = labels.last_mut() {
                label.push(byte);
            }
        }
        let absolute = labels.len() > 1 && labels.last().is_some_and(Vec::is_empty);
        if absolute {
            labels.pop();
        }
        if labels.len() == 1 && labels[0].is_empty() {
            return Err(NameError::Empty);
        }
        if labels.iter().any(Vec::is_empty) {
            return Err(NameError::EmptyLabel { name: text.to_owned() });
        }
        Ok((Name::from_labels(labels.iter().map(Vec::as_slice))?, absolute))
    }

    /// A name of these labels, whatever bytes they have.
    ///
    /// # Errors
    /// A label is empty or too long, or all of them together are.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Name, NameError> {
        let mut wire = Vec::new();
        for label in labels {
            match label.len() {
                0 => return Err(NameError::EmptyLabel { name: String::new() }),
                1..=LABEL_BYTES_MAX => {
                    wire.push(label.len() as u8);
                    wire.extend_from_slice(label);
                }
                len => return Err(NameError::LabelTooLong { label: escape(label), len }),
            }
        }
        match wire.len() + 1 {
            ..=NAME_BYTES_MAX => Ok(Name { wire: wire.into() }),
            len => Err(NameError::TooLong { len }),
        }
    }

    /// The name whose PTR record names `address` (RFC 1035, 3.5; RFC 3596, 2.5).
    #[must_use]
    pub fn reverse(address: IpAddr) -> Name {
        let mut wire = Vec::new();
        let mut label = |bytes: &[u8]| {
            wire.push(bytes.len() as u8);
            wire.extend_from_slice(bytes);
        };
        match address {
            IpAddr::V4(v4) => {
                for octet in v4.octets().iter().rev() {
                    label(octet.to_string().as_bytes());
                }
                label(b"in-addr");
            }
            IpAddr::V6(v6) => {
                for octet in v6.octets().iter().rev() {
                    for nibble in [octet & 15, octet >> 4] {
                        label(&[b"0123456789abcdef"[usize::from(nibble)]]);
                    }
                }
                label(b"ip6");
            }
        }
        label(b"arpa");
        Name { wire: wire.into() }
    }

    /// This name below `suffix`.
    ///
    /// # Errors
    /// The whole is too long.
    pub fn below(&self, suffix: &Name) -> Result<Name, NameError> {
        Name::from_labels(self.labels().chain(suffix.labels()))
    }

    /// Its labels, the leftmost first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.wire;
        core::iter::from_fn(move || {
            let (&len, after) = rest.split_first()?;
            let (label, next) = after.split_at_checked(usize::from(len))?;
            rest = next;
            Some(label)
        })
    }

    /// Whether it is `ancestor` or below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Name) -> bool {
        let Some(extra) = self.labels().count().checked_sub(ancestor.labels().count()) else { return false };
        self.labels().skip(extra).zip(ancestor.labels()).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    /// Whether it closes with these labels.
    pub(super) fn ends_with(&self, labels: &[&[u8]]) -> bool {
        let Some(extra) = self.labels().count().checked_sub(labels.len()) else { return false };
        self.labels().skip(extra).zip(labels).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    /// Whether both are equal with regard to case: what a question sent with mixed case is checked by.
    pub(super) fn is_identical(&self, other: &Name) -> bool {
        self.wire == other.wire
    }

    /// The same name with the case of each letter drawn from `bit` (draft-vixie-dnsext-dns0x20).
    pub(super) fn with_case(&self, mut bit: impl FnMut() -> bool) -> Name {
        let mut wire = self.wire.clone();
        for byte in wire.iter_mut().filter(|byte| byte.is_ascii_alphabetic()) {
            *byte = if bit() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        }
        Name { wire }
    }

    /// The same name, whose last labels, as many as it has in common with `asked`, are written as they are there: responses
    /// refer to the question's letters, which were drawn, where the zone has its own.
    pub(super) fn with_case_of(mut self, asked: &Name) -> Name {
        let (own, others): (Vec<_>, Vec<_>) = (self.labels().collect(), asked.labels().collect());
        let pairs = own.iter().rev().zip(others.iter().rev());
        let common: usize =
            pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).map(|(label, _)| 1 + label.len()).sum();
        let (from, to) = (asked.wire.len() - common, self.wire.len() - common);
        self.wire[to..].copy_from_slice(&asked.wire[from..]);
        self
    }

    /// Bytes that it holds, for the accounts of the cache.
    pub(super) fn len(&self) -> usize {
        self.wire.len()
    }

    fn lower(&self) -> impl Iterator<Item = u8> + '_ {
        self.wire.iter().map(u8::to_ascii_lowercase)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::parse(text).map(|(name, _)| name)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.wire.eq_ignore_ascii_case(&other.wire)
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.lower().cmp(other.lower())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.lower().for_each(|byte| state.write_u8(byte));
    }
}

/// Text that [`Name::parse`] reads back, without the closing dot, and that is safe to print whatever a server sent.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wire.is_empty() {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(&escape(label))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn escape(label: &[u8]) -> String {
    let mut text = String::with_capacity(label.len());
    for &byte in label {
        match byte {
            b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
            0x21..=0x7e => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:03}")),
        }
    }
    text
}

/// The byte that an escape stands for; the backslash has been taken.
fn unescape(bytes: &mut core::str::Bytes<'_>) -> Option<u8> {
    let first = bytes.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn name_valid_text_is_read_and_printed() {
        for text in ["example.com", "a", "_sip._udp.Example.com", r"My\032Printer._ipp._tcp.local", r"a\.b.c"]
        {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(Name::parse("example.com.").unwrap(), (name("example.com"), true));
        assert_eq!(Name::parse(".").unwrap(), (Name::root(), true));
    }

    #[test]
    fn name_wrong_text_is_refused_by_name() {
        let error = |text: &str| text.parse::<Name>().unwrap_err().to_string();
        assert_eq!(error(""), "the name is empty");
        assert!(error("a..b").contains("empty label"));
        assert!(error(".a").contains("empty label"));
        assert!(error("b\u{fc}cher.example").contains("IDNA"));
        assert!(error("a b").contains("three decimal digits"));
        assert!(error(r"a\25").contains("backslash"));
        assert!(error(r"a\256").contains("backslash"));
        assert!(error(&"x".repeat(64)).contains("64 bytes: 63 is the most"));
        assert!(error(&["abcdefg"; 32].join(".")).contains("257 bytes on the wire"));
    }

    #[test]
    fn name_longest_is_accepted() {
        // Three labels of 63 and one of 60: 253 characters would be 61, one more than the codec takes.
        let longest = [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(60)].join(".");
        assert!(longest.parse::<Name>().is_ok());
        assert!(format!("{longest}dd").parse::<Name>().is_err());
    }

    #[test]
    fn name_compared_ignores_case_and_sees_ancestors() {
        assert_eq!(name("WWW.example.COM"), name("www.EXAMPLE.com"));
        assert!(!name("WWW.example").is_identical(&name("www.example")));
        assert!(name("a.b.example.com").is_within(&name("Example.com")));
        assert!(!name("badexample.com").is_within(&name("example.com")));
        assert!(name("example.com").is_within(&Name::root()));
    }

    #[test]
    fn name_with_the_case_of_a_question_keeps_its_own_labels() {
        let asked = name("www.example.com");
        for (own, expected) in [
            ("other.eXaMPLe.cOm", "other.example.com"),
            ("wWw.ExAmple.COM", "www.example.com"),
            ("Other.ORG", "Other.ORG"),
            ("eXample.com", "example.com"),
        ] {
            assert_eq!(name(own).with_case_of(&asked).to_string(), expected);
        }
        assert_eq!(Name::root().with_case_of(&asked), Name::root());
    }

    #[test]
    fn address_reversed_gives_arpa_name() {
        let reverse = |text: &str| Name::reverse(text.parse().unwrap()).to_string();
        assert_eq!(reverse("192.0.2.7"), "7.2.0.192.in-addr.arpa");
        let v6 = reverse("2001:db8::567:89ab");
        assert_eq!(v6, "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
    }

    proptest! {
        #[test]
        fn name_of_any_bytes_survives_text(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..6)) {
            let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            let (again, absolute) = Name::parse(&name.to_string()).unwrap();
            prop_assert!(again.is_identical(&name) && !absolute);
        }

        #[test]
        fn name_any_text_never_panics(text in "\\PC{0,80}") {
            let _ = Name::parse(&text);
        }
    }
}
