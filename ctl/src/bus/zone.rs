//! What a DNS zone says of this machine (RFC 6763), for those who look for devices there (docs/bus.md).

use std::fmt;

use netd_ipc::services::BusStatus;
use serde::Serialize;

use crate::error::Error;

/// How long others keep it: a device that moves is found again soon.
const TTL_SECONDS: u32 = 60;
/// RFC 1035, 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// A line of a zone file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Record {
    name: String,
    ttl: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    data: String,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { name, ttl, kind, data } = self;
        write!(f, "{name} {ttl} IN {kind} {data}")
    }
}

/// The records; the addresses of `host` are its zone's business.
pub(super) fn records(status: &BusStatus, domain: &str, host: Option<&str>) -> Result<Vec<Record>, Error> {
    let Some(key) = &status.key else {
        let why = "this machine has no key that others could know it by, since '[bus] mode' is loopback";
        return Err(Error::Usage(why));
    };
    let domain = domain.trim_end_matches('.');
    let (label, list) = (label(&status.device, key), format!("_dsoftbus._udp.{domain}."));
    let device = format!("{label}.{list}");
    let host = host.map_or_else(|| format!("{label}.{domain}"), |host| host.trim_end_matches('.').to_owned());
    let services = status.services.iter().enumerate().map(|(at, service)| format!("s{at}={service}"));
    let known = ["txtvers=1".to_owned(), format!("id={}", status.device), format!("key={key}")];
    let texts: Vec<String> = known.into_iter().chain(services).map(|text| quoted(&text)).collect();
    let record = |name: &str, kind, data| Record { name: name.to_owned(), ttl: TTL_SECONDS, kind, data };
    Ok(vec![
        record(&list, "PTR", device.clone()),
        record(&device, "SRV", format!("0 0 {} {host}.", status.port)),
        record(&device, "TXT", texts.join(" ")),
    ])
}

/// The device's id if it can be a name in a zone; else something like it, with the beginning of its key so that no two are the same.
fn label(device: &str, key: &str) -> String {
    let letter =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let like: String = device.chars().map(letter).collect();
    let is_label =
        like == device && like.len() <= LABEL_BYTES_MAX && !like.starts_with('-') && !like.ends_with('-');
    if is_label {
        return like;
    }
    let short: String = key.chars().take(8).collect();
    let like: String = like.trim_matches('-').chars().take(LABEL_BYTES_MAX - 2 - short.len()).collect();
    format!("d{like}-{short}")
}

/// As zone files have it (RFC 1035, 5.1).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted += &format!("\\{byte:03}"),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "9f0c07070707070707070707070707070707070707070707070707070707ab";

    #[test]
    fn device_that_is_no_label_has_one_of_its_own() {
        for (device, expected) in [
            ("hub-1", "hub-1"),
            ("Hub", "dhub-9f0c0707"),
            ("a.b", "da-b-9f0c0707"),
            ("-", "d-9f0c0707"),
            ("x-", "dx-9f0c0707"),
            ("größe", "dgr--e-9f0c0707"),
        ] {
            assert_eq!(label(device, KEY), expected);
        }
        assert_eq!(label(&"x".repeat(64), KEY).len(), LABEL_BYTES_MAX);
    }

    #[test]
    fn texts_are_quoted_as_zone_files_have_them() {
        assert_eq!(quoted("id=a\"b\\c ü"), "\"id=a\\\"b\\\\c \\195\\188\"");
    }
}
