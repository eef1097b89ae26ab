//! The hosts file: `ADDRESS NAME [ALIAS...]`, `#` opens a comment (hosts(5)).
//!
//! Parsing is pure: the driver reads the file. A line that makes no sense is skipped and reported, because one typing error
//! must not take away every other name.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::name::Name;

/// Names taken from a file: some 8 MiB of memory. Lists that block advertisements are longer, and belong into a server.
pub const HOSTS_NAMES_MAX: usize = 65_536;
/// Addresses of one name: answers are copied whole.
const ADDRESSES_MAX: usize = 32;
/// Complaints kept: the first few show what is wrong.
const WARNINGS_MAX: usize = 16;

/// A hosts file, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    addresses: BTreeMap<Name, Vec<IpAddr>>,
    /// By reverse name.
    names: BTreeMap<Name, Name>,
    warnings: Vec<String>,
}

impl Hosts {
    /// Reads the text of a hosts file.
    #[must_use]
    pub fn parse(text: &str) -> Hosts {
        let mut hosts = Hosts::default();
        for (index, line) in text.lines().enumerate() {
            if let Err(what) = hosts.parse_line(line)
                && hosts.warnings.len() < WARNINGS_MAX
            {
                hosts.warnings.push(format!("line {}: {what}", index + 1));
            }
        }
        hosts
    }

    /// What was skipped, by line.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn parse_line(&mut self, line: &str) -> Result<(), String> {
        let (entry, _comment) = line.split_once('#').unwrap_or((line, ""));
        let mut words = entry.split_ascii_whitespace();
        let Some(word) = words.next() else { return Ok(()) };
        // A scope (fe80::1%eth0) names an interface of the kernel, which is none of ours.
        let address: IpAddr = word.parse().map_err(|_| format!("{word:?} is not an IP address"))?;
        let mut nameless = true;
        for word in words {
            let name: Name = word.parse().map_err(|error| format!("{error}"))?;
            self.insert(address, name)?;
            nameless = false;
        }
        if nameless { Err(format!("{address} has no name")) } else { Ok(()) }
    }

    fn insert(&mut self, address: IpAddr, name: Name) -> Result<(), String> {
        if self.addresses.len() >= HOSTS_NAMES_MAX && !self.addresses.contains_key(&name) {
            return Err(format!("more than {HOSTS_NAMES_MAX} names"));
        }
        self.names.entry(Name::reverse(address)).or_insert_with(|| name.clone());
        let addresses = self.addresses.entry(name).or_default();
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
        Ok(())
    }

    /// The addresses of `name`; `None` if the file does not know it.
    pub(super) fn addresses(&self, name: &Name) -> Option<&[IpAddr]> {
        self.addresses.get(name).map(Vec::as_slice)
    }

    /// The first name of the address that `reverse` stands for.
    pub(super) fn pointer(&self, reverse: &Name) -> Option<&Name> {
        self.names.get(reverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "127.0.0.1 localhost\n\
        192.0.2.1\tserver.example.com server # the first\n\
        2001:db8::1 server\n\
        \n\
        192.0.2.999 wrong\n\
        192.0.2.2 b\u{fc}cher\n\
        192.0.2.3\n";

    #[test]
    fn hosts_file_is_read_with_aliases_and_both_families() {
        let hosts = Hosts::parse(FILE);
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(hosts.addresses(&"SERVER".parse().unwrap()), Some(&expected[..]));
        assert_eq!(hosts.pointer(&Name::reverse(expected[0])).unwrap().to_string(), "server.example.com");
        assert_eq!(hosts.addresses(&"nobody".parse().unwrap()), None);
    }

    #[test]
    fn hosts_wrong_lines_are_reported_and_skipped() {
        let warnings = Hosts::parse(FILE).warnings;
        assert_eq!(warnings.len(), 3);
        assert_eq!(warnings[0], "line 5: \"192.0.2.999\" is not an IP address");
        assert!(warnings[1].starts_with("line 6: ") && warnings[1].contains("IDNA"));
        assert_eq!(warnings[2], "line 7: 192.0.2.3 has no name");
    }

    #[test]
    fn hosts_line_beyond_limit_is_reported() {
        let text: String =
            (0..=HOSTS_NAMES_MAX).map(|index| format!("10.0.{}.1 h{index}\n", index % 256)).collect();
        let hosts = Hosts::parse(&text);
        assert_eq!(hosts.addresses.len(), HOSTS_NAMES_MAX);
        assert!(hosts.warnings[0].contains("more than 65536 names"));
    }
}
