//! The announcement on the wire, version 1. Every byte of it is fixed:
//!
//! ```text
//!  magic "NXSB" | version u8 = 1 | device_id_len u8 | device id | port u16, big-endian | noise_static [32]
//!  | service_count u8 | service_count times: len u8 | service name
//! ```
//!
//! It is not authenticated, and cannot be: what it says is where to knock, and which key must answer there.

use alloc::vec::Vec;

use crate::error::Error;
use crate::key::{KEY_BYTES, PublicKey};
use crate::name::{DeviceId, NAME_BYTES_MAX, ServiceName};
use crate::read::Reader;

/// The first bytes of every announcement.
pub const MAGIC: [u8; 4] = *b"NXSB";
/// The only version.
pub const VERSION: u8 = 1;
/// The most services that one device announces. Fixed.
pub const SERVICES_MAX: usize = 16;
/// The longest announcement: everything at its longest. Fits into one frame of Ethernet.
pub const PACKET_BYTES_MAX: usize =
    MAGIC.len() + 1 + (1 + NAME_BYTES_MAX) + 2 + KEY_BYTES + 1 + SERVICES_MAX * (1 + NAME_BYTES_MAX);

const MESSAGE: &str = "announcement";

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    device: DeviceId,
    port: u16,
    key: Option<PublicKey>,
    services: Vec<ServiceName>,
}

impl Announcement {
    /// An announcement of at most [`SERVICES_MAX`] services. Port 0 takes no sessions; without a key nobody will have one.
    pub fn new(
        device: DeviceId,
        port: u16,
        key: Option<PublicKey>,
        services: Vec<ServiceName>,
    ) -> Result<Announcement, Error> {
        if services.len() > SERVICES_MAX {
            return Err(Error::TooMany { what: "services", count: services.len(), max: SERVICES_MAX });
        }
        Ok(Announcement { device, port, key, services })
    }

    /// The announcement in `bytes`, all of them.
    pub fn parse(bytes: &[u8]) -> Result<Announcement, Error> {
        View::parse(bytes)?.announcement()
    }

    /// The bytes of it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PACKET_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        short(&mut bytes, self.device.as_str());
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(self.key.map_or([0; KEY_BYTES], |key| *key.as_bytes()));
        bytes.push(length(self.services.len()));
        for service in &self.services {
            short(&mut bytes, service.as_str());
        }
        bytes
    }

    /// Who it says it is.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Where it takes sessions; 0 if nowhere.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The key that will answer there.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        self.key
    }

    /// What it offers.
    #[must_use]
    pub fn services(&self) -> &[ServiceName] {
        &self.services
    }
}

/// Lengths and counts were bounded when the names were made: every one of them is below 256.
fn length(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

fn short(bytes: &mut Vec<u8>, name: &str) {
    bytes.push(length(name.len()));
    bytes.extend(name.as_bytes());
}

/// An announcement that was checked to its end and lies where it was received: what is dropped for its rate costs no memory.
pub(crate) struct View<'a> {
    pub(crate) device: &'a str,
    port: u16,
    pub(crate) key: Option<PublicKey>,
    count: u8,
    services: Reader<'a>,
}

impl<'a> View<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<View<'a>, Error> {
        let mut reader = Reader::new(MESSAGE, bytes);
        let magic = reader.array("magic")?;
        if magic != MAGIC {
            return Err(Error::BadMagic { message: MESSAGE, found: magic });
        }
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(Error::UnsupportedVersion { message: MESSAGE, found: version, known: VERSION });
        }
        let device = DeviceId::check(reader.short("device id")?)?;
        let port = reader.u16("port")?;
        let key = PublicKey::new(reader.array("key")?);
        let count = reader.u8("service count")?;
        if usize::from(count) > SERVICES_MAX {
            return Err(Error::TooMany { what: "services", count: count.into(), max: SERVICES_MAX });
        }
        let services = reader.clone();
        for _ in 0..count {
            ServiceName::check(reader.short("service name")?)?;
        }
        reader.end()?;
        Ok(View { device, port, key, count, services })
    }

    pub(crate) fn announcement(&self) -> Result<Announcement, Error> {
        let mut reader = self.services.clone();
        let services = (0..self.count)
            .map(|_| ServiceName::from_bytes(reader.short("service name")?))
            .collect::<Result<_, _>>()?;
        Announcement::new(self.device.parse()?, self.port, self.key, services)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use proptest::prelude::*;

    fn announcements() -> impl Strategy<Value = Announcement> {
        let name = || "\\PC{1,16}".prop_map(|name: String| name);
        let services = prop::collection::vec(name(), 0..=SERVICES_MAX);
        (name(), any::<u16>(), any::<[u8; 32]>(), services).prop_map(|(device, port, key, services)| {
            let services = services.iter().map(|name| name.parse().unwrap()).collect();
            Announcement::new(device.parse().unwrap(), port, PublicKey::new(key), services).unwrap()
        })
    }

    /// Byte for byte as it is written down, by hand.
    #[test]
    fn announcement_of_a_camera_is_these_bytes() {
        let key = PublicKey::new([7; 32]);
        let services = alloc::vec!["video".parse().unwrap(), "ptz".parse().unwrap()];
        let camera = Announcement::new("cam-1".parse().unwrap(), 34567, key, services).unwrap();
        let mut expected = Vec::from(*b"NXSB\x01\x05cam-1\x87\x07");
        expected.extend([7; 32]);
        expected.extend(b"\x02\x05video\x03ptz");
        assert_eq!(camera.to_bytes(), expected);
        assert_eq!(Announcement::parse(&expected), Ok(camera));
    }

    #[test]
    fn announcement_of_everything_at_its_longest_is_taken_and_one_byte_more_is_not() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        let services = (0..SERVICES_MAX).map(|_| longest.parse().unwrap()).collect();
        let announcement =
            Announcement::new(longest.parse().unwrap(), 1, PublicKey::new([1; 32]), services).unwrap();
        let mut bytes = announcement.to_bytes();
        assert_eq!(bytes.len(), PACKET_BYTES_MAX);
        assert_eq!(Announcement::parse(&bytes), Ok(announcement));
        bytes.push(0);
        assert_eq!(Announcement::parse(&bytes), Err(Error::TrailingBytes { message: MESSAGE, count: 1 }));
    }

    #[test]
    fn announcement_without_a_key_says_so() {
        let nobody = Announcement::new("d".parse().unwrap(), 1, None, Vec::new()).unwrap();
        assert_eq!(Announcement::parse(&nobody.to_bytes()).unwrap().key(), None);
    }

    #[test]
    fn announcements_of_other_protocols_and_versions_are_named() {
        let mut bytes = Announcement::new("d".parse().unwrap(), 1, None, Vec::new()).unwrap().to_bytes();
        bytes[4] = 2;
        let unsupported = Error::UnsupportedVersion { message: MESSAGE, found: 2, known: 1 };
        assert_eq!(Announcement::parse(&bytes), Err(unsupported));
        bytes[0] = b'M';
        assert_eq!(Announcement::parse(&bytes), Err(Error::BadMagic { message: MESSAGE, found: *b"MXSB" }));
    }

    #[test]
    fn announcement_of_seventeen_services_is_refused_by_the_count_alone() {
        let mut bytes = Announcement::new("d".parse().unwrap(), 1, None, Vec::new()).unwrap().to_bytes();
        *bytes.last_mut().unwrap() = 17;
        let refused = Error::TooMany { what: "services", count: 17, max: SERVICES_MAX };
        assert_eq!(Announcement::parse(&bytes), Err(refused));
    }

    proptest! {
        #[test]
        fn announcements_printed_are_read_back(announcement in announcements()) {
            prop_assert_eq!(Announcement::parse(&announcement.to_bytes()), Ok(announcement));
        }

        /// Nothing but what we would have sent is understood.
        #[test]
        fn announcements_read_are_printed_back(announcement in announcements(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = announcement.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(understood) = Announcement::parse(&bytes) {
                prop_assert_eq!(understood.to_bytes(), bytes);
            }
        }

        #[test]
        fn announcements_cut_short_are_refused(announcement in announcements(), at in any::<prop::sample::Index>()) {
            let bytes = announcement.to_bytes();
            prop_assert!(Announcement::parse(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn bytes_of_strangers_are_understood_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
            let marked: Vec<u8> = MAGIC.into_iter().chain([VERSION]).chain(bytes.iter().copied()).collect();
            for bytes in [&bytes, &marked] {
                if let Ok(understood) = Announcement::parse(bytes) {
                    prop_assert_eq!(&understood.to_bytes(), bytes);
                }
            }
        }
    }
}
