//! Why something was refused.

use thiserror::Error;

use crate::key::PublicKey;
use crate::mux::Reject;
use crate::name::{DeviceId, ServiceName};
use crate::remote::state::{Key, Prefix};
use crate::session::Phase;

/// Why something was refused: by us to the caller, or to whoever sent the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A configured value is out of its bounds.
    #[error("{key} is {value}: {min} to {max} are allowed")]
    Configuration {
        /// The field, with its unit.
        key: &'static str,
        /// As configured.
        value: usize,
        /// The least that is allowed.
        min: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A name of no bytes or of too many.
    #[error("{what} is {len} bytes long: 1 to {max} are allowed")]
    NameLength {
        /// Whose name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A name that is spelled as none can be.
    #[error("this is not how {what} is spelled: {why}")]
    Spelling {
        /// Whose name.
        what: &'static str,
        /// The rule.
        why: &'static str,
    },
    /// A list is to go on after a key that it has not.
    #[error("the key {key} is none of {prefix}")]
    NotWithin {
        /// The key.
        key: Key,
        /// What is listed.
        prefix: Prefix,
    },
    /// A name that is no text.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Whose name.
        what: &'static str,
    },
    /// A key that is not 64 hexadecimal digits, or is all zero, which means "none".
    #[error("a public key is 64 hexadecimal digits, not all zero")]
    InvalidKey,
    /// A TXT record that is no device's.
    #[error("the text record's '{key}' is missing, or not what it has to be")]
    Text {
        /// What of it.
        key: &'static str,
    },
    /// The bytes end within something.
    #[error("the {message} ends within its {field}: {needed} bytes are needed, {left} are left")]
    Truncated {
        /// What was read.
        message: &'static str,
        /// The part that is cut short.
        field: &'static str,
        /// Its length in bytes.
        needed: usize,
        /// The bytes that there are.
        left: usize,
    },
    /// The bytes go on after the end.
    #[error("{count} bytes follow the end of the {message}")]
    TrailingBytes {
        /// What was read.
        message: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Not the protocol's first bytes.
    #[error("the {message} begins with {found:02x?}, not with the protocol's mark")]
    BadMagic {
        /// What was read.
        message: &'static str,
        /// The bytes found.
        found: [u8; 4],
    },
    /// A version that we do not speak.
    #[error("the {message} has version {found}: version {known} is spoken here")]
    UnsupportedVersion {
        /// What was read.
        message: &'static str,
        /// As it says.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// More than a bound allows.
    #[error("{count} {what}: at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// More often than a bound allows.
    #[error("{what}: more often than allowed")]
    RateLimited {
        /// What was tried.
        what: &'static str,
    },
    /// Our own packet, reflected or looped back.
    #[error("the packet carries our own key")]
    OwnKey,
    /// The device is pinned, or announced, with another key.
    #[error("device {device} is known by another key than {key}")]
    IdentityMismatch {
        /// The device claimed.
        device: DeviceId,
        /// The key that came with the claim.
        key: PublicKey,
    },
    /// Nobody announced a key of this device.
    #[error("device {device} has announced no key")]
    NoAnnouncedKey {
        /// The device claimed.
        device: DeviceId,
    },
    /// The peer is not in the table.
    #[error("no peer with the key {key} is known")]
    UnknownPeer {
        /// The key asked for.
        key: PublicKey,
    },
    /// No rule allows it.
    #[error("no rule allows device {device} over {transport}")]
    PeerDenied {
        /// The device.
        device: DeviceId,
        /// The transport by name.
        transport: &'static str,
    },
    /// No rule allows this service of the device.
    #[error("no rule allows device {device} the service {service}")]
    ServiceDenied {
        /// The device.
        device: DeviceId,
        /// The service.
        service: ServiceName,
    },
    /// The pause after failures is not over.
    #[error("the pause after failed attempts lasts another {milliseconds} ms")]
    BackingOff {
        /// What is left of it.
        milliseconds: u64,
    },
    /// The peer offers no session: it announced port 0.
    #[error("device {device} takes no sessions: it announces port 0")]
    NoPort {
        /// The device.
        device: DeviceId,
    },
    /// A message of a length that it cannot have.
    #[error("{message} is {len} bytes long: it has {right}")]
    Length {
        /// What was read.
        message: &'static str,
        /// Its length in bytes.
        len: usize,
        /// What it has to be.
        right: usize,
    },
    /// Not by whom it should be, not for us, or not as it was sent: the cipher does not say which.
    #[error("the {message} is not authentic")]
    NotAuthentic {
        /// What was read.
        message: &'static str,
    },
    /// A primitive that is built in failed; the bytes of no peer can make it.
    #[error("cryptography failed: {what}")]
    Crypto {
        /// What of it.
        what: &'static str,
    },
    /// A message of more bytes than it may have.
    #[error("the {message} is {len} bytes long: at most {max} are allowed")]
    Oversize {
        /// What it is.
        message: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// A number that stands for nothing.
    #[error("the {message} has a {field} of {value}, which does not exist")]
    UnknownValue {
        /// What was read.
        message: &'static str,
        /// Which part of it.
        field: &'static str,
        /// As it says.
        value: u8,
    },
    /// A record of a kind that does not exist.
    #[error("there are no records of kind {kind}")]
    UnknownRecord {
        /// The kind.
        kind: u8,
    },
    /// A record that is not due.
    #[error("a record of kind {found} is not due")]
    UnexpectedRecord {
        /// The kind.
        found: u8,
    },
    /// The peer used one key for too long.
    #[error("the peer sent {bytes} bytes under one key")]
    RekeyOverdue {
        /// How many.
        bytes: usize,
    },
    /// The key was revoked.
    #[error("the key {key} was revoked")]
    Revoked {
        /// The key.
        key: PublicKey,
    },
    /// The device is not pinned.
    #[error("device {device} is not pinned")]
    NotPinned {
        /// The device.
        device: DeviceId,
    },
    /// Not a PIN.
    #[error("a PIN is 6 to 12 digits")]
    InvalidPin,
    /// The peer had another PIN.
    #[error("the PIN is wrong")]
    WrongPin,
    /// No PIN is shown, or it was tried too often.
    #[error("no pairing: no PIN is shown, or it was tried too often")]
    PairingClosed,
    /// The peer ended the session before it was ready.
    #[error("the peer ended the session before it was ready")]
    ClosedByPeer,
    /// Not now.
    #[error("{what} does not fit a session that is {phase:?}")]
    WrongPhase {
        /// Where the session is.
        phase: Phase,
        /// What came.
        what: &'static str,
    },
    /// The peer took too long.
    #[error("the peer took too long while the session was {phase:?}")]
    TimedOut {
        /// Where the session was.
        phase: Phase,
    },
    /// A frame of the mux.
    #[error("{0}")]
    Rejected(Reject),
    /// The stream is not there: never opened, complete, or reset.
    #[error("there is no stream {stream}")]
    UnknownStream {
        /// Its number.
        stream: u32,
    },
    /// Our half of the stream is complete.
    #[error("stream {stream} was finished: nothing more can be written")]
    Finished {
        /// Its number.
        stream: u32,
    },
    /// One of the sides takes no new streams.
    #[error("no new streams: one of the sides is going away")]
    GoingAway,
    /// Nothing was heard of the peer.
    #[error("nothing was heard of the peer for {seconds} s")]
    PeerSilent {
        /// For how long.
        seconds: u64,
    },
}
