//! The first bytes of a connection: whether they are a TLS ClientHello that asks, openly, for one name.
//!
//! A connection by name with `tls = "required"` gets nowhere before its client has said, where everybody can read it, which name it wants
//! (RFC 8446, 4.1.2; RFC 6066, 3). [`Reader`] is fed what the client sends, in whatever pieces, and holds it until it knows:
//!
//! ```text
//!   bytes ──> records (type 22) ──> one handshake message (type 1) ──> extensions ──> server_name
//! ```
//!
//! Nothing is decrypted and nothing is negotiated. Whatever is not plainly a ClientHello for the name is refused, with the reason: what
//! could be read in two ways could be read in another way by the server.
//!
//! The reader keeps at most [`HELD_BYTES_MAX`] and copies them at most twice, whatever comes.

use std::fmt;

use crate::host::HostName;

/// Longest ClientHello that is taken, its header included. As long as one record may be (RFC 8446, 5.1), and what BoringSSL's servers
/// take; with post-quantum key shares and a session ticket they have some 2 to 4 KiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Most that is held of a connection: the message, the headers of the records it comes in (some hundred may be shorter than they could
/// be), and what follows it in the same write.
pub const HELD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 4 * 1024;

/// Longest payload of a record in the clear (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Header of a record: type, version, length (RFC 8446, 5.1).
const RECORD_HEADER_BYTES: usize = 5;
/// Header of a handshake message: type and length (RFC 8446, 4).
const MESSAGE_HEADER_BYTES: usize = 4;
/// `ContentType` and `HandshakeType` (RFC 8446, B.3.1, B.3).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Major version of every record since SSL 3.0; the minor one says nothing (RFC 8446, 5.1).
const MAJOR: u8 = 3;
/// `ExtensionType` (RFC 6066, 1.1) and `NameType` (RFC 6066, 3).
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Extensions that put another ClientHello, or another name, where nobody can read it: encrypted_client_hello (RFC 9849) with the numbers
/// of its drafts, and encrypted_server_name before it.
const ENCRYPTED: [u16; 7] = [0xfe0d, 0xfe0c, 0xfe0b, 0xfe0a, 0xfe09, 0xfe08, 0xffce];

/// What is known so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: more bytes are needed.
    More,
    /// It is a ClientHello for the name: what is held may go.
    Matches,
    /// It is not, and never will be: nothing of it may go.
    Refused(Refusal),
}

/// Why the first bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The first byte is none of TLS.
    NotTls,
    /// A hello in the format of SSL 2.0, which has no names (and MUST NOT be sent: RFC 6176).
    Ssl2,
    /// A record of another type, or none, where the handshake should go on.
    Record {
        /// Its type.
        content_type: u8,
        /// Its length.
        bytes: usize,
    },
    /// A record of a version that does not exist.
    Version(u8),
    /// The handshake begins with another message.
    Message(u8),
    /// More than is taken.
    TooLong,
    /// Something follows the message in its record.
    Trailing,
    /// A length inside contradicts another.
    Malformed(&'static str),
    /// No server_name, so that the server would choose.
    NoName,
    /// More than one, so that the server would choose which.
    SeveralNames,
    /// A name of a type that nobody knows.
    NameType(u8),
    /// A name without a letter.
    EmptyName,
    /// A name with the dot at the end that it must not have (RFC 6066, 3).
    FinalDot,
    /// The name of somebody else, as far as it can be printed.
    OtherName(String),
    /// An extension that hides the true name.
    Encrypted(u16),
    /// The client ended its side before the message was whole.
    Ended,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotTls => f.write_str("it does not begin with a TLS handshake"),
            Refusal::Ssl2 => f.write_str("it begins with a hello of SSL 2.0, which has no server name"),
            Refusal::Record { content_type, bytes } => {
                write!(f, "a record of type {content_type} and {bytes} bytes is not a part of a ClientHello")
            }
            Refusal::Version(major) => write!(f, "a record of version {major}.x is none of TLS"),
            Refusal::Message(kind) => write!(f, "its first message is of type {kind}, not a ClientHello"),
            Refusal::TooLong => {
                write!(f, "its ClientHello is longer than the {MESSAGE_BYTES_MAX} bytes that are looked at")
            }
            Refusal::Trailing => f.write_str("something follows the ClientHello in the same record"),
            Refusal::Malformed(what) => write!(f, "its ClientHello is malformed: {what}"),
            Refusal::NoName => f.write_str("its ClientHello has no server name"),
            Refusal::SeveralNames => f.write_str("its ClientHello has more than one server name"),
            Refusal::NameType(kind) => {
                write!(f, "its ClientHello has a server name of the unknown type {kind}")
            }
            Refusal::EmptyName => f.write_str("its ClientHello has an empty server name"),
            Refusal::FinalDot => f.write_str("the server name in its ClientHello ends with a dot"),
            Refusal::OtherName(name) => write!(f, "its ClientHello asks for another server: '{name}'"),
            Refusal::Encrypted(extension) => {
                write!(
                    f,
                    "its ClientHello may hide another one (extension {extension:#06x}, encrypted ClientHello)"
                )
            }
            Refusal::Ended => f.write_str("it ended before its ClientHello was whole"),
        }
    }
}

/// Reads the first bytes of one connection.
#[derive(Debug)]
pub struct Reader {
    name: HostName,
    /// Everything as it came.
    held: Vec<u8>,
    /// How much of it was looked at.
    read: usize,
    /// What is left of the record that is being read.
    record: usize,
    /// The handshake message, out of its records.
    message: Vec<u8>,
}

impl Reader {
    /// For a connection that should ask for `name`.
    pub fn new(name: HostName) -> Reader {
        Reader { name, held: Vec::new(), read: 0, record: 0, message: Vec::new() }
    }

    /// How much it takes now.
    pub fn room(&self) -> usize {
        HELD_BYTES_MAX.saturating_sub(self.held.len())
    }

    /// Takes what came next, no more of it than there is [`room`](Self::room) for.
    pub fn take(&mut self, bytes: &[u8]) -> Verdict {
        self.held.extend_from_slice(bytes.get(..self.room()).unwrap_or(bytes));
        match self.advance() {
            Ok(None) if self.room() == 0 => Verdict::Refused(Refusal::TooLong),
            Ok(None) => Verdict::More,
            Ok(Some(Matches)) => Verdict::Matches,
            Err(refusal) => Verdict::Refused(refusal),
        }
    }

    /// What the end of the client's side means: nothing if nothing was sent.
    pub fn end(&self) -> Verdict {
        if self.held.is_empty() { Verdict::Matches } else { Verdict::Refused(Refusal::Ended) }
    }

    /// Everything that was taken, once there is a verdict: the reader begins anew.
    pub fn take_held(&mut self) -> Vec<u8> {
        (self.read, self.record) = (0, 0);
        self.message = Vec::new();
        std::mem::take(&mut self.held)
    }

    /// Records, until the message is whole.
    fn advance(&mut self) -> Result<Option<Matches>, Refusal> {
        loop {
            if let Some(bytes) = message_bytes(&self.message)?
                && self.message.len() >= bytes
            {
                if self.message.len() > bytes || self.record > 0 {
                    return Err(Refusal::Trailing);
                }
                return Hello(self.message.get(MESSAGE_HEADER_BYTES..).unwrap_or_default())
                    .check(&self.name)
                    .map(Some);
            }
            let rest = self.held.get(self.read..).unwrap_or_default();
            if self.record == 0 {
                let Some(bytes) = record_bytes(rest, self.read == 0)? else { return Ok(None) };
                self.record = bytes;
                self.read += RECORD_HEADER_BYTES;
            } else {
                let part = rest.get(..self.record).unwrap_or(rest);
                if part.is_empty() {
                    return Ok(None);
                }
                self.message.extend_from_slice(part);
                self.record -= part.len();
                self.read += part.len();
            }
        }
    }
}

/// That a ClientHello asks for the name.
struct Matches;

/// The length of a handshake message with its header, once that is there (RFC 8446, 4).
fn message_bytes(message: &[u8]) -> Result<Option<usize>, Refusal> {
    match message {
        [kind, ..] if *kind != CLIENT_HELLO => Err(Refusal::Message(*kind)),
        [_, high, middle, low, ..] => {
            let body = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            let bytes = MESSAGE_HEADER_BYTES + body;
            if bytes > MESSAGE_BYTES_MAX { Err(Refusal::TooLong) } else { Ok(Some(bytes)) }
        }
        _ => Ok(None),
    }
}

/// The payload of the record whose header `bytes` begin with, once that is there (RFC 8446, 5.1).
fn record_bytes(bytes: &[u8], first: bool) -> Result<Option<usize>, Refusal> {
    match bytes {
        // RFC 5246, E.2: a length with the highest bit set, then the type of the message.
        [length, _, CLIENT_HELLO, ..] if first && length & 0x80 != 0 => Err(Refusal::Ssl2),
        [length] | [length, _] if first && length & 0x80 != 0 => Ok(None),
        [content_type, ..] if first && *content_type != HANDSHAKE => Err(Refusal::NotTls),
        [_, major, ..] if *major != MAJOR => Err(Refusal::Version(*major)),
        [content_type, _, _, high, low, ..] => {
            let bytes = usize::from(u16::from_be_bytes([*high, *low]));
            // Handshake messages do not share their records' place with others, and no fragment is empty (RFC 8446, 5.1).
            if *content_type != HANDSHAKE || !(1..=RECORD_BYTES_MAX).contains(&bytes) {
                return Err(Refusal::Record { content_type: *content_type, bytes });
            }
            Ok(Some(bytes))
        }
        _ => Ok(None),
    }
}

/// The body of a ClientHello, from which its parts are taken one after the other (RFC 8446, 4.1.2).
struct Hello<'a>(&'a [u8]);

impl<'a> Hello<'a> {
    fn check(mut self, name: &HostName) -> Result<Matches, Refusal> {
        // legacy_version and random.
        self.bytes(2 + 32, "its version and random")?;
        if self.vector8("its session id")?.len() > 32 {
            return Err(Refusal::Malformed("its session id"));
        }
        let suites = self.vector16("its cipher suites")?;
        if suites.is_empty() || !suites.len().is_multiple_of(2) {
            return Err(Refusal::Malformed("its cipher suites"));
        }
        if self.vector8("its compression methods")?.is_empty() {
            return Err(Refusal::Malformed("its compression methods"));
        }
        if self.0.is_empty() {
            return Err(Refusal::NoName);
        }
        let mut extensions = Hello(self.vector16("its extensions")?);
        if !self.0.is_empty() {
            return Err(Refusal::Malformed("what follows its extensions"));
        }
        let mut asked = None;
        while !extensions.0.is_empty() {
            let kind = extensions.u16("the type of an extension")?;
            let data = extensions.vector16("an extension")?;
            if ENCRYPTED.contains(&kind) {
                return Err(Refusal::Encrypted(kind));
            }
            if kind == SERVER_NAME && asked.replace(Hello(data).server_name()?).is_some() {
                return Err(Refusal::SeveralNames);
            }
        }
        is_for(asked.ok_or(Refusal::NoName)?, name)
    }

    /// The one name of a server_name extension (RFC 6066, 3).
    fn server_name(mut self) -> Result<&'a [u8], Refusal> {
        let mut list = Hello(self.vector16("its list of server names")?);
        if !self.0.is_empty() {
            return Err(Refusal::Malformed("what follows its list of server names"));
        }
        let mut found = None;
        while !list.0.is_empty() {
            match list.u8("the type of a server name")? {
                HOST_NAME => {}
                kind => return Err(Refusal::NameType(kind)),
            }
            if found.replace(list.vector16("a server name")?).is_some() {
                return Err(Refusal::SeveralNames);
            }
        }
        found.filter(|name| !name.is_empty()).ok_or(Refusal::EmptyName)
    }

    fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Refusal::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Refusal> {
        Ok(self.bytes(1, what)?.iter().fold(0, |_, byte| *byte))
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Refusal> {
        Ok(self.bytes(2, what)?.iter().fold(0, |number, byte| number << 8 | u16::from(*byte)))
    }

    /// A vector with a length of one byte (RFC 8446, 3.4).
    fn vector8(&mut self, what: &'static str) -> Result<&'a [u8], Refusal> {
        let count = self.u8(what)?;
        self.bytes(count.into(), what)
    }

    /// A vector with a length of two bytes.
    fn vector16(&mut self, what: &'static str) -> Result<&'a [u8], Refusal> {
        let count = self.u16(what)?;
        self.bytes(count.into(), what)
    }
}

/// Names of hosts are compared without regard to case (RFC 6066, 3); those of other scripts come in IDNA's form, as ours do.
fn is_for(asked: &[u8], name: &HostName) -> Result<Matches, Refusal> {
    if asked.ends_with(b".") {
        return Err(Refusal::FinalDot);
    }
    if asked.eq_ignore_ascii_case(name.as_str().as_bytes()) {
        return Ok(Matches);
    }
    // A name has 253 characters at most; what is longer is not worth printing.
    let shown = asked.get(..253).unwrap_or(asked);
    Err(Refusal::OtherName(shown.escape_ascii().to_string()))
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
