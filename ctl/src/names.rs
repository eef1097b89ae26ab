//! Names on the command line, and resolve.

use std::net::IpAddr;
use std::process::ExitCode;

use netd_ipc::{Client, RecordKind, Resolved, Service};

use crate::cli;
use crate::error::Error;
use crate::output::{Output, list};

/// A host as it was given: an address, or a name that netd resolves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// For the command line. What can only be a mistyped address is told apart from a name.
    pub(crate) fn parse(text: &str) -> Result<Host, String> {
        if let Ok(address) = text.parse() {
            return Ok(Host::Address(address));
        }
        if let Some((_, zone)) = text.split_once('%') {
            return Err(format!(
                "netd has one link, and no zone such as '{zone}': give the address without it"
            ));
        }
        let is_name = text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains([':', '/', ' ']);
        match is_name {
            true => Ok(Host::Name(text.to_owned())),
            false => Err("neither an IP address such as 192.0.2.1 or 2001:db8::1, nor a name".to_owned()),
        }
    }

    /// All its addresses, in the order to try them.
    pub(crate) fn addresses(&self, client: &Client) -> Result<Vec<IpAddr>, Error> {
        match self {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => Ok(client.resolve(name)?),
        }
    }
}

pub(crate) fn resolve(client: &Client, output: &Output, arguments: &cli::Resolve) -> Result<ExitCode, Error> {
    let is_address = arguments.name.parse::<IpAddr>().is_ok();
    let kind = arguments.kind.unwrap_or(if is_address { cli::Kind::Ptr } else { cli::Kind::Addresses });
    let resolved = client.resolve_records(&arguments.name, record(kind), None)?;
    output.result(&resolved, || text(&resolved))?;
    Ok(ExitCode::SUCCESS)
}

fn record(kind: cli::Kind) -> RecordKind {
    match kind {
        cli::Kind::Addresses => RecordKind::Addresses,
        cli::Kind::A => RecordKind::A,
        cli::Kind::Aaaa => RecordKind::Aaaa,
        cli::Kind::Cname => RecordKind::Cname,
        cli::Kind::Ptr => RecordKind::Ptr,
        cli::Kind::Srv => RecordKind::Srv,
        cli::Kind::Txt => RecordKind::Txt,
    }
}

/// The answer alone, one record per line, as a script wants it; then, after a #, where it came from.
fn text(resolved: &Resolved) -> String {
    let Resolved {
        name,
        aliases,
        addresses,
        names,
        services,
        texts,
        strings: _,
        ttl_seconds,
        source,
        incomplete,
    } = resolved;
    let service = |service: &Service| {
        let Service { priority, weight, port, target } = service;
        format!("{target}:{port} (priority {priority}, weight {weight})")
    };
    let mut lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    lines.extend(names.iter().cloned());
    lines.extend(services.iter().map(service));
    lines.extend(texts.iter().cloned());
    let mut about = format!("# {name} from {source}, good for {ttl_seconds} s");
    if !aliases.is_empty() {
        about += &format!("; by way of {}", list(aliases));
    }
    if *incomplete {
        about += "; the other address family did not answer in time";
    }
    lines.push(about);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_tells_addresses_names_and_typing_errors_apart() {
        assert_eq!(Host::parse("192.0.2.1"), Ok(Host::Address([192, 0, 2, 1].into())));
        assert_eq!(Host::parse("example.org"), Ok(Host::Name("example.org".into())));
        for wrong in ["1.2.3", "::g", "http://example.org", "1.2.3.4.5"] {
            assert!(Host::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_has_the_records_first() {
        let resolved = Resolved {
            name: "www.example.".into(),
            aliases: vec!["a.example.".into()],
            addresses: vec!["192.0.2.1".parse().unwrap()],
            names: vec![],
            services: vec![],
            texts: vec![],
            strings: vec![],
            ttl_seconds: 60,
            source: "cache".into(),
            incomplete: false,
        };
        let expected = "192.0.2.1\n# www.example. from cache, good for 60 s; by way of a.example.\n";
        assert_eq!(text(&resolved), expected);
    }
}
