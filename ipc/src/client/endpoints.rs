//! What can be connected to: addresses with ports, and names, as [`std::net::ToSocketAddrs`] has it - but names are resolved by
//! netd, over its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Instant;

use super::Client;
use crate::error::{Error, ErrorKind};

/// Something that names one or more endpoints.
pub trait ToEndpoints {
    /// The endpoints, in the order to try them; finding them ends at the deadline.
    ///
    /// # Errors
    /// A name that cannot be resolved, or text that is neither name nor address with a port.
    fn to_endpoints(&self, client: &Client, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error>;

    /// The name and port, if it is a name: connections are asked for by it, so that grants for names apply, and netd finds the addresses.
    ///
    /// # Errors
    /// Text that is neither name nor address with a port.
    fn host(&self) -> Result<Option<(&str, u16)>, Error> {
        Ok(None)
    }
}

/// Types that need no resolving.
macro_rules! plain {
    ($($type:ty),*) => {$(
        impl ToEndpoints for $type {
            fn to_endpoints(&self, _client: &Client, _deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
                Ok(vec![SocketAddr::from(*self)])
            }
        }
    )*};
}

plain!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

impl ToEndpoints for (&str, u16) {
    fn to_endpoints(&self, client: &Client, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
        let (host, port) = *self;
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => client.resolve_deadline(host, deadline)?,
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    fn host(&self) -> Result<Option<(&str, u16)>, Error> {
        let (host, port) = *self;
        Ok(host.parse::<IpAddr>().is_err().then_some((host, port)))
    }
}

impl ToEndpoints for (String, u16) {
    fn to_endpoints(&self, client: &Client, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
        (self.0.as_str(), self.1).to_endpoints(client, deadline)
    }

    fn host(&self) -> Result<Option<(&str, u16)>, Error> {
        Ok(self.0.parse::<IpAddr>().is_err().then_some((self.0.as_str(), self.1)))
    }
}

impl ToEndpoints for str {
    fn to_endpoints(&self, client: &Client, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
        match self.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => split(self)?.to_endpoints(client, deadline),
        }
    }

    fn host(&self) -> Result<Option<(&str, u16)>, Error> {
        if self.parse::<SocketAddr>().is_ok() {
            return Ok(None);
        }
        let (host, port) = split(self)?;
        Ok(host.parse::<IpAddr>().is_err().then_some((host, port)))
    }
}

/// Host and port of `HOST:PORT`.
fn split(text: &str) -> Result<(&str, u16), Error> {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    split.ok_or_else(|| Error::Refused {
        kind: ErrorKind::InvalidInput,
        message: format!(
            "'{text}' is no endpoint: expected HOST:PORT, such as example.org:443 or [2001:db8::1]:443"
        ),
    })
}

impl ToEndpoints for String {
    fn to_endpoints(&self, client: &Client, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
        self.as_str().to_endpoints(client, deadline)
    }

    fn host(&self) -> Result<Option<(&str, u16)>, Error> {
        self.as_str().host()
    }
}

impl ToEndpoints for [SocketAddr] {
    fn to_endpoints(&self, _client: &Client, _deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
        Ok(self.to_vec())
    }
}

impl<T: ToEndpoints + ?Sized> ToEndpoints for &T {
    fn to_endpoints(&self, client: &Client, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Error> {
        (**self).to_endpoints(client, deadline)
    }

    fn host(&self) -> Result<Option<(&str, u16)>, Error> {
        (**self).host()
    }
}

/// Tries one endpoint after the other; the last error if none succeeds.
pub(super) fn try_each<T>(
    to: impl ToEndpoints,
    client: &Client,
    deadline: Option<Instant>,
    mut try_one: impl FnMut(SocketAddr) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut last = None;
    for endpoint in to.to_endpoints(client, deadline)? {
        match try_one(endpoint) {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Refused {
        kind: ErrorKind::NotFound,
        message: "the name has no address".to_owned(),
    }))
}
