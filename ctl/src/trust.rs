//! trust: the roots that certificates are believed by, and what a server shows. netd-services is asked, where TLS is understood.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use netd_ipc::services::{Certificate, Client, Root, TrustCheck, TrustList};

use crate::cli;
use crate::error::Error;
use crate::output::{Output, fields, table};

/// What a request may hold (64 KiB), less what JSON adds to lines of PEM: a backslash and a letter for each line's end.
const PEM_BYTES_MAX: u64 = 60 << 10;

pub(crate) fn run(output: &Output, arguments: &cli::Trust) -> Result<ExitCode, Error> {
    let client = match &arguments.services {
        Some(path) => Client::at(path),
        None => Client::default_paths(),
    };
    match &arguments.command {
        cli::TrustCommand::List => {
            let list = client.trust()?;
            output.result(&list, || list_text(&list))?;
        }
        cli::TrustCommand::Add { file } => {
            let added = client.add_trust(&read(file)?)?;
            output.result(&added, || changed_text("trusted from now on", &added))?;
        }
        cli::TrustCommand::Remove { id } => {
            let removal = client.remove_trust(id)?;
            output.result(&removal, || {
                let removed = changed_text("not trusted any more", &removal.roots);
                if removed.is_empty() {
                    format!("{} is gone; it gave no root\n", removal.file)
                } else {
                    removed
                }
            })?;
        }
        cli::TrustCommand::Check { target, timeout } => {
            let check = client.check_trust(target, *timeout)?;
            output.result(&check, || check_text(&check))?;
            if !check.accepted {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file, or standard input for `-`.
fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut pem = String::new();
    let input: Box<dyn std::io::Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    input.take(PEM_BYTES_MAX + 1).read_to_string(&mut pem).map_err(failed)?;
    if pem.len() as u64 > PEM_BYTES_MAX {
        return Err(Error::Usage(
            "more than 60 KiB of certificates at once: split the file, or put it into the directory of installed roots itself",
        ));
    }
    Ok(pem)
}

fn list_text(list: &TrustList) -> String {
    let mut text = if list.roots.is_empty() {
        "no roots: no server is trusted (netctl trust add FILE)\n".to_owned()
    } else {
        let row = |root: &Root| {
            [
                root.sha256.chars().take(16).collect(),
                root.certificate.not_after.chars().take(10).collect(),
                root.key.clone(),
                root.origin.clone(),
                root.certificate.subject.clone(),
            ]
        };
        let rows: Vec<_> = list.roots.iter().map(row).collect();
        table(["SHA256", "UNTIL", "KEY", "FROM", "SUBJECT"], &rows)
    };
    if list.time != "strict" {
        text.push_str(&format!("\ndates: {} (what has expired is accepted)\n", list.time));
    }
    if !list.pins.is_empty() {
        text.push_str("\npins\n");
        for (pattern, pins) in &list.pins {
            text.push_str(&format!("  {pattern}  {}\n", pins.join(" or ")));
        }
    }
    if !list.problems.is_empty() {
        text.push_str("\nnot used as they stand\n");
        for problem in &list.problems {
            text.push_str(&format!("  {}: {}\n", problem.file, problem.what));
        }
    }
    text
}

fn changed_text(what: &str, roots: &[Root]) -> String {
    roots.iter().map(|root| format!("{what}: {} ({})\n", root.certificate.subject, root.file)).collect()
}

fn check_text(check: &TrustCheck) -> String {
    let verdict = match &check.reason {
        None => check.message.clone(),
        Some(reason) => format!("refused ({reason}): {}", check.message),
    };
    let mut lines =
        vec![("verdict", verdict), ("server", check.peer.to_string()), ("rule", check.rule.clone())];
    if let (Some(version), Some(suite)) = (&check.version, &check.cipher_suite) {
        lines.push(("TLS", format!("{version}, {suite}")));
    }
    if let Some(root) = &check.root {
        lines.push(("root", format!("{} ({})", root.certificate.subject, root.file)));
    }
    if let Some(pin) = &check.pin {
        lines.push(("pin", pin.clone()));
    }
    if let Some(dates) = &check.dates {
        lines.push(("dates", dates.clone()));
    }
    let mut text = fields(&lines);
    let (heading, certificates) =
        if check.accepted { ("chain", &check.chain) } else { ("what the server sent", &check.sent) };
    text.push_str(&format!("\n{heading}\n"));
    text.extend(certificates.iter().map(certificate_text));
    text
}

fn certificate_text(certificate: &Certificate) -> String {
    let Certificate { subject, issuer, not_before, not_after, spki_sha256 } = certificate;
    format!("  {subject}\n    by {issuer}\n    {not_before} to {not_after}\n    {spki_sha256}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(subject: &str) -> Certificate {
        Certificate {
            subject: subject.to_owned(),
            issuer: "CN=root".to_owned(),
            not_before: "2026-01-01T00:00:00Z".to_owned(),
            not_after: "2027-01-01T00:00:00Z".to_owned(),
            spki_sha256: "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
        }
    }

    fn root() -> Root {
        Root {
            certificate: certificate("CN=root"),
            sha256: "0123456789abcdef0123".to_owned(),
            key: "P-256".to_owned(),
            file: "/t/root.pem".to_owned(),
            origin: "pkg://trust/".to_owned(),
        }
    }

    #[test]
    fn list_shows_roots_pins_and_what_is_wrong() {
        let list = TrustList {
            roots: vec![root()],
            problems: vec![netd_ipc::services::TrustProblem {
                file: "/t/x.pem".into(),
                what: "it is odd".into(),
            }],
            time: "ignore-dates".into(),
            pins: [("*.a.example".to_owned(), vec!["sha256/x".to_owned(), "sha256/y".to_owned()])].into(),
        };
        let text = list_text(&list);
        for part in [
            "0123456789abcdef  2027-01-01  P-256  pkg://trust/  CN=root",
            "dates: ignore-dates",
            "*.a.example  sha256/x or sha256/y",
            "/t/x.pem: it is odd",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn refused_server_is_shown_with_what_it_sent_and_the_reason() {
        let check = TrustCheck {
            accepted: false,
            reason: Some("expired".into()),
            message: "the certificate of 'CN=leaf' expired".into(),
            rule: "netd.toml:3".into(),
            peer: "192.0.2.1:443".parse::<std::net::SocketAddr>().unwrap().into(),
            version: None,
            cipher_suite: None,
            sent: vec![certificate("CN=leaf")],
            chain: Vec::new(),
            root: None,
            pin: None,
            dates: None,
        };
        let text = check_text(&check);
        assert!(text.contains("refused (expired): the certificate of 'CN=leaf' expired"), "{text}");
        assert!(text.contains("what the server sent\n  CN=leaf\n    by CN=root\n"), "{text}");
    }
}
