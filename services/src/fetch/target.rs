//! What a URL names: checked, and in the one form that decisions are made on.

use netd_ipc::services::ErrorKind;
use url::{Host, Url};

use crate::Failure;
use crate::dial::Remote;

/// The host that the stub backend answers for.
const FIXTURE_HOST: &str = "fixture.local";

/// Where something is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Without user, password and fragment; the host's name in IDNA's form, without the dot at its end.
    url: Url,
    secure: bool,
    remote: Remote,
}

impl Target {
    /// Understands a URL.
    ///
    /// # Errors
    /// `InvalidInput`, and what would be right.
    pub fn parse(text: &str) -> Result<Target, Failure> {
        let url = Url::parse(text).map_err(|error| {
            wrong(format!("'{text}' is no URL ({error}): expected one such as https://example.org/file"))
        })?;
        Target::new(url)
    }

    /// What this URL redirects to with a `Location` (RFC 9110, 10.2.2).
    ///
    /// # Errors
    /// `InvalidInput`: it is no URL that can be fetched.
    pub fn join(&self, location: &str) -> Result<Target, Failure> {
        let url = self.url.join(location);
        Target::new(url.map_err(|error| wrong(format!("'{location}' is no URL ({error})")))?)
    }

    fn new(mut url: Url) -> Result<Target, Failure> {
        let secure = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(wrong(format!("the scheme is '{other}': only http and https are fetched"))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "a URL with a user or password is not fetched: both would show in logs and audits".to_owned(),
            ));
        }
        url.set_fragment(None);
        let host = match url.host() {
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_owned();
                if name.is_empty() || name.ends_with('.') {
                    return Err(wrong(format!("'{url}' has no host")));
                }
                Host::Domain(name)
            }
            Some(Host::Ipv4(address)) => Host::Ipv4(address),
            // ::ffff:a.b.c.d is a.b.c.d (RFC 4291, 2.5.5.2).
            Some(Host::Ipv6(address)) => address.to_ipv4_mapped().map_or(Host::Ipv6(address), Host::Ipv4),
            None => return Err(wrong(format!("'{url}' has no host"))),
        };
        let port = match url.port_or_known_default() {
            Some(port) if port != 0 => port,
            _ => return Err(wrong(format!("'{url}' has no port that can be connected to"))),
        };
        url.set_host(Some(&host.to_string()))
            .map_err(|error| wrong(format!("'{url}' has no host ({error})")))?;
        Ok(Target { url, secure, remote: Remote { host, port } })
    }

    /// As text.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Whether it takes TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whom it names: an IPv4 address within an IPv6 one as what it is, a name without the dot at its end.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Host and port, as netd is asked about them.
    pub fn authority(&self) -> String {
        self.remote.to_string()
    }

    /// The `Host` of a request: without the port if it is the scheme's (RFC 9110, 7.2).
    pub fn host_header(&self) -> String {
        match self.url.port() {
            Some(port) => format!("{}:{port}", self.remote.host),
            None => self.remote.host.to_string(),
        }
    }

    /// Path and query, as a request has them.
    pub fn path_and_query(&self) -> &str {
        self.url.as_str().get(url_authority_end(&self.url)..).filter(|rest| !rest.is_empty()).unwrap_or("/")
    }

    /// The path, still with its percents.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// Whether the stub backend answers for it.
    pub fn is_fixture(&self) -> bool {
        matches!(&self.remote.host, Host::Domain(name) if name == FIXTURE_HOST)
    }
}

/// Where the path begins.
fn url_authority_end(url: &Url) -> usize {
    use url::Position;
    url.as_str().len() - url[Position::BeforePath..].len()
}

fn wrong(message: String) -> Failure {
    Failure::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        Target::parse(text).unwrap_err().message
    }

    #[test]
    fn target_has_one_form_for_each_host() {
        for (text, authority, host, path) in [
            ("http://A.Example.", "a.example:80", "a.example", "/"),
            ("https://a.example:8443/x?y#z", "a.example:8443", "a.example:8443", "/x?y"),
            ("https://bücher.example:443/ä", "xn--bcher-kva.example:443", "xn--bcher-kva.example", "/%C3%A4"),
            ("http://[::ffff:192.0.2.1]/", "192.0.2.1:80", "192.0.2.1", "/"),
            ("http://0x7f.1/", "127.0.0.1:80", "127.0.0.1", "/"),
            ("http://[2001:DB8::1]:81/?a", "[2001:db8::1]:81", "[2001:db8::1]:81", "/?a"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.authority(), authority, "{text}");
            assert_eq!((target.host_header().as_str(), target.path_and_query()), (host, path), "{text}");
        }
    }

    #[test]
    fn target_that_cannot_be_fetched_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "is no URL"),
            ("example.org/x", "is no URL"),
            ("ftp://a.example/", "only http and https"),
            ("file:///etc/passwd", "only http and https"),
            ("http://u:p@a.example/", "user or password"),
            ("http://u@a.example/", "user or password"),
            ("http://a.example:0/", "no port"),
            ("http://./", "no host"),
            ("http://a b/", "is no URL"),
            ("http://[fe80::1%25eth0]/", "is no URL"),
        ] {
            assert!(said(text).contains(why), "{text}: {}", said(text));
        }
    }

    #[test]
    fn fixture_host_is_the_stubs_in_every_spelling() {
        for text in ["http://fixture.local/a", "https://FIXTURE.local./a", "http://fixture.local:8080/"] {
            assert!(Target::parse(text).unwrap().is_fixture(), "{text}");
        }
        for text in ["http://a.fixture.local/", "http://fixture.local.example/"] {
            assert!(!Target::parse(text).unwrap().is_fixture(), "{text}");
        }
    }
}
