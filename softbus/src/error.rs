//! Why something was refused.

use thiserror::Error;

use crate::key::PublicKey;
use crate::name::{DeviceId, ServiceName};

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
    /// A name that is no text.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Whose name.
        what: &'static str,
    },
    /// A key that is not 64 hexadecimal digits, or is all zero, which means "none".
    #[error("a public key is 64 hexadecimal digits, not all zero")]
    InvalidKey,
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
}
