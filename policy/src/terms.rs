//! On what terms a request may go on: what a grant by name demands of a connection.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// HTTPS: where a grant by name demands TLS unless it says otherwise.
pub(crate) const HTTPS: u16 = 443;

/// The key `tls` of a grant by name.
///
/// Without the key, port 443 has `required` and every other port `any`, also where one grant spans both: what listens on 443
/// speaks TLS, and of other ports nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tls {
    /// `required`: the first bytes are a ClientHello that asks for the name openly.
    Required,
    /// `any`: whatever the client likes.
    Any,
}

impl Tls {
    /// As files have it.
    pub const fn name(self) -> &'static str {
        match self {
            Tls::Required => "required",
            Tls::Any => "any",
        }
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tls {
    type Err = Error;

    fn from_str(text: &str) -> Result<Tls, Error> {
        let known = [Tls::Required, Tls::Any];
        known.into_iter().find(|tls| tls.name() == text).ok_or_else(|| Error::Tls(text.to_owned()))
    }
}

/// The key `redirects` of a grant of `net.http.fetch`: which redirects of the hosts that it names are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Redirects {
    /// `same-host`: those that stay with the host. The same as without the key.
    SameHost,
    /// `granted`: those to other hosts too, as far as these are granted by themselves.
    Granted,
}

impl Redirects {
    /// As files have it.
    pub const fn name(self) -> &'static str {
        match self {
            Redirects::SameHost => "same-host",
            Redirects::Granted => "granted",
        }
    }
}

impl fmt::Display for Redirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Redirects {
    type Err = Error;

    fn from_str(text: &str) -> Result<Redirects, Error> {
        let known = [Redirects::SameHost, Redirects::Granted];
        let found = known.into_iter().find(|redirects| redirects.name() == text);
        found.ok_or_else(|| Error::Redirects(text.to_owned()))
    }
}

/// On what terms a request was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terms {
    /// On none.
    Free,
    /// A connection by name, if its first bytes are a ClientHello that asks for that name openly.
    Tls,
    /// A connection by name whose grants are for addresses: each address that the name has is decided by itself.
    ByAddress,
    /// A fetch whose redirects to other hosts are followed, as far as these are granted.
    Redirected,
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Terms::Free => "unconditionally",
            Terms::Tls => "if it begins with a TLS ClientHello for that name (tls = \"required\")",
            Terms::ByAddress => "as far as its addresses are, each decided by itself",
            Terms::Redirected => "with redirects to other hosts that are granted (redirects = \"granted\")",
        })
    }
}
