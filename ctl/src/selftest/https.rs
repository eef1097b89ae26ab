//! A fetch over TLS: by netd-services, on netd's sockets, from a server whose certificate leads to a trusted root.

use netd_ipc::services::{Client, Error, ErrorKind, FetchOptions, Hop};

use super::{Finding, failed, ok, placeholder};
use crate::cli;

/// More than any page that is fetched to try something.
const BYTES_MAX: u64 = 64 << 20;

pub(super) fn check(arguments: &cli::Selftest) -> Finding {
    let Some(url) = &arguments.https_url else {
        return placeholder("no server was named: give --https-url, of one whose root is trusted");
    };
    let client = match &arguments.services_socket {
        Some(path) => Client::at(path),
        None => Client::default_paths(),
    };
    let options = FetchOptions { size_max: Some(BYTES_MAX), ..FetchOptions::default() };
    let fetched = client.fetch(url, &options).and_then(|fetching| {
        let last = fetching.head().hops.last().cloned();
        Ok((last, fetching.finish()?))
    });
    match fetched {
        Ok((Some(Hop { tls: Some(tls), peer: Some(peer), protocol, .. }), end)) => {
            let version = tls.version;
            ok(format!("{} bytes from {peer} over {version} and {protocol}; root: {}", end.bytes, tls.root))
        }
        Ok(_) => placeholder(format!("{url} was not fetched over TLS from a real server")),
        Err(error) => refused(&error),
    }
}

/// What is missing is no failure of what is there.
fn refused(error: &Error) -> Finding {
    match (error, error.kind()) {
        (Error::NotRunning { .. }, _) | (_, Some(ErrorKind::DevnetDisabled | ErrorKind::PolicyDenied)) => {
            placeholder(error.to_string())
        }
        _ => failed(error.to_string()),
    }
}
