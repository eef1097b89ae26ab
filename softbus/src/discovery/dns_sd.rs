//! An announcement as a DNS zone lists it (RFC 6763), for networks without multicast and for fleets longer than a list of addresses:
//!
//! ```text
//! _dsoftbus._udp.fleet.example.        PTR  hub._dsoftbus._udp.fleet.example.
//! hub._dsoftbus._udp.fleet.example.    SRV  0 0 34567 hub.fleet.example.
//! hub._dsoftbus._udp.fleet.example.    TXT  "txtvers=1" "id=hub" "key=9f0c…" "s0=video" "s1=chat"
//! ```
//!
//! The port is SRV's, the rest TXT's; the address is whatever the target of SRV has. It is a hint as every announcement is.

use alloc::vec::Vec;

use super::packet::{Announcement, SERVICES_MAX};
use crate::error::Error;
use crate::name::ServiceName;

/// What stands before a domain to find its devices. The transport in it is that of announcements (RFC 6763, 7: everything but TCP has `_udp`).
pub const SERVICE_TYPE: &str = "_dsoftbus._udp";
/// The version of what TXT says (RFC 6763, 6.7). A text without any is of this one.
const TXT_VERSION: &str = "1";

impl Announcement {
    /// What SRV and the strings of TXT say of a device. Strings that are not known are passed over (RFC 6763, 6.5).
    ///
    /// # Errors
    /// [`Error::Text`] names the key that is missing or not understood.
    pub fn from_txt(port: u16, strings: &[&str]) -> Result<Announcement, Error> {
        let value = |key: &str| value(strings, key);
        if value("txtvers").is_some_and(|version| version != TXT_VERSION) {
            return Err(Error::Text { key: "txtvers" });
        }
        let device = value("id").and_then(|id| id.parse().ok()).ok_or(Error::Text { key: "id" })?;
        let key = match value("key") {
            None => None,
            Some(digits) => Some(digits.parse().map_err(|_| Error::Text { key: "key" })?),
        };
        let mut services: Vec<ServiceName> = Vec::new();
        for name in SERVICE_KEYS.iter().map_while(|key| value(key)) {
            services.push(name.parse().map_err(|_| Error::Text { key: "s0 to s15" })?);
        }
        Announcement::new(device, port, key, services)
    }
}

const SERVICE_KEYS: [&str; SERVICES_MAX] =
    ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15"];

/// Of the first string with the key, in letters of either case (RFC 6763, 6.4).
fn value<'a>(strings: &[&'a str], key: &str) -> Option<&'a str> {
    let pairs = strings.iter().filter_map(|string| string.split_once('='));
    let mut found = pairs.filter(|(name, _)| name.eq_ignore_ascii_case(key));
    found.next().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::{String, ToString as _};

    use super::*;
    use crate::key::PublicKey;

    const DIGITS: &str = "0707070707070707070707070707070707070707070707070707070707070707";

    #[test]
    fn texts_of_a_device_are_its_announcement_in_any_order_with_others_between() {
        let key = format!("KEY={DIGITS}");
        let strings =
            ["s1=chat", "colour=blue", "=none", "alone", &key, "txtvers=1", "id=hub", "s0=video", "id=other"];
        let read = Announcement::from_txt(34567, &strings).unwrap();
        let services = ["video", "chat"].map(|name| name.parse().unwrap()).to_vec();
        let expected =
            Announcement::new("hub".parse().unwrap(), 34567, PublicKey::new([7; 32]), services).unwrap();
        assert_eq!(read, expected);
    }

    #[test]
    fn text_without_an_id_or_with_nonsense_names_the_key() {
        let long = "x".repeat(65);
        let (id, service) = (format!("id={long}"), format!("s0={long}"));
        for (strings, key) in [
            (&["key=07"][..], "id"),
            (&[&id], "id"),
            (&["id="], "id"),
            (&["id=hub", "key=07"], "key"),
            (&["id=hub", "txtvers=2"], "txtvers"),
            (&["id=hub", &service], "s0 to s15"),
        ] {
            let error: String = Announcement::from_txt(1, strings).unwrap_err().to_string();
            assert!(error.contains(&format!("'{key}'")), "{strings:?}: {error}");
        }
        // Without a key nobody has a session with it; discovery says so.
        assert_eq!(Announcement::from_txt(1, &["id=hub"]).unwrap().key(), None);
    }
}
