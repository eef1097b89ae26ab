//! Names of hosts, and patterns of them.
//!
//! Both are kept in one form: ASCII (IDNA's, UTS 46), lower case, without the dot at the end, so that comparing them is comparing
//! bytes. What looks like an address is no name: a grant for names must not be a way to dial addresses.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Longest name in text form without the final dot (RFC 1035, 3.1: 255 octets on the wire).
const NAME_BYTES_MAX: usize = 253;
/// Longest label (RFC 1035, 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The name of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// As compared: ASCII, lower case, no final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names above this one: `example.org` and `org` for `www.example.org`.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').map(|(at, _)| &self.0[at + 1..])
    }
}

impl FromStr for HostName {
    type Err = Error;

    fn from_str(text: &str) -> Result<HostName, Error> {
        let wrong = |why: &'static str| Error::HostName { name: text.to_owned(), why };
        if text.contains('%') {
            return Err(wrong(
                "netd has one link, and no zones: give the address without '%' and what follows it",
            ));
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| wrong("it is not a domain name, nor one in IDNA's form"))?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii).to_ascii_lowercase();
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(wrong("a name has 1 to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return Err(wrong("between two dots stand 1 to 63 characters"));
            }
            // The underscore is for services (RFC 8552).
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
                return Err(wrong("a name consists of letters, digits, '-' and '_'"));
            }
        }
        // "127.1" and "0x7f.0.0.1" are addresses to old parsers; no top-level domain begins like this (RFC 3696, 2).
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
            return Err(wrong("it looks like an address: give one in full, as 192.0.2.1, or a name"));
        }
        Ok(HostName(name))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which names: `example.org`, or with `*.example.org` every name below it and not itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    name: HostName,
    below: bool,
}

impl HostPattern {
    /// Whether `name` is one of them.
    pub fn matches(&self, name: &HostName) -> bool {
        if self.below {
            name.parents().any(|parent| parent == self.name.as_str())
        } else {
            *name == self.name
        }
    }

    /// The name without `*.`, and whether it stands for those below.
    pub(crate) fn parts(&self) -> (&HostName, bool) {
        (&self.name, self.below)
    }
}

impl FromStr for HostPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<HostPattern, Error> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') {
            let why = "a pattern is a name, or '*.' and a name; to mean every host, leave the key out";
            return Err(Error::HostName { name: text.to_owned(), why });
        }
        Ok(HostPattern { name: name.parse()?, below })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str("*.")?;
        }
        self.name.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<HostPattern>().unwrap().matches(&name.parse().unwrap())
    }

    #[test]
    fn pattern_with_a_star_means_what_is_below_and_ends_at_a_label() {
        assert!(matches("*.example.org", "www.example.org"));
        assert!(matches("*.example.org", "a.b.example.org"));
        assert!(!matches("*.example.org", "example.org"));
        assert!(!matches("*.example.org", "notexample.org"));
        assert!(!matches("*.example.org", "www.example.org.evil.net"));
        assert!(matches("example.org", "example.org"));
        assert!(!matches("example.org", "www.example.org"));
    }

    #[test]
    fn pattern_and_name_agree_over_case_final_dot_and_idna() {
        assert!(matches("Example.ORG", "eXAMPLE.org."));
        assert!(matches("*.bücher.example", "WWW.XN--BCHER-KVA.example"));
        assert!(matches("bu\u{308}cher.example", "b\u{fc}cher.example"));
        assert_eq!("BÜCHER.example.".parse::<HostName>().unwrap().as_str(), "xn--bcher-kva.example");
        // The full stops of other scripts are dots (UTS 46).
        assert!(matches("example.org", "example\u{3002}org"));
    }

    #[test]
    fn name_that_is_none_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "1 to 253"),
            (".", "1 to"),
            ("a..b", "between two dots"),
            (&"a".repeat(64), "IDNA"),
            ("127.1", "looks like an address"),
            ("0x7f.0.0.0x1", "looks like an address"),
            ("192.0.2.1", "looks like an address"),
            ("a b", "letters"),
            ("fe80::1%eth0", "no zones"),
            ("xn--a", "IDNA"),
        ] {
            let error = text.parse::<HostName>().unwrap_err().to_string();
            let accepted = [why, "between two dots", "1 to", "letters", "looks like"];
            assert!(
                error.contains(why) || (why == "IDNA" && accepted.iter().any(|other| error.contains(other))),
                "{text}: {error}"
            );
        }
        for text in ["*", "a.*.b", "*.*.a", "*a.b"] {
            assert!(text.parse::<HostPattern>().unwrap_err().to_string().contains("every host"), "{text}");
        }
    }
}
