//! What is refused, each by its own name and in its own words, and with nothing written.

use std::fs;

use netd_tests::{Result, ensure};

use crate::Trying as _;
use crate::certificates::{HOST, OTHER_HOSTS};
use crate::running::{BETWEEN_PORT, LIAR_PORT, LIAR_TLS_PORT, Running, SOON};

/// Servers with bad certificates: what they show, and what is said of it.
const CERTIFICATES: [(&str, &str); 9] = [
    ("wrong_host", "not for 'www.host.test' but for 'other.test'"),
    ("expired", "expired on 2022-01-01"),
    ("not_yet_valid", "is not valid before 2038-01-01"),
    ("unknown_root", "'CN=unknown root', which is no trusted root"),
    ("missing_intermediate", "lacks an intermediate"),
    ("name_constraints", "name constraints"),
    ("self_signed", "signed by itself"),
    ("weak_key", "weak key (RSA 1024)"),
    ("weak_signature", "can be forged"),
];

/// What the liar does over plain HTTP: path, name of the error, words of it.
const LIES: [(&str, &[&str], &str, &str); 12] = [
    ("redirect/1", &[], "RedirectRefused", "more than 10 times"),
    ("elsewhere", &[], "RedirectRefused", "another host, 'other.host.test'"),
    ("headers", &[], "ProtocolError", "longer than 65536 bytes"),
    ("truncated", &[], "Truncated", "broke off"),
    ("chunk", &[], "Truncated", "broke off"),
    ("bomb", &["--compressed"], "TooLarge", "taken for a bomb"),
    ("cut-gzip", &["--compressed"], "Truncated", "in the middle of what it encodes"),
    ("encoded", &[], "ProtocolError", "encoded as 'rot13'"),
    ("drip", &["--idle-timeout"], "TimedOut", "fewer than 1024 bytes"),
    ("silent", &["--first-byte-timeout"], "TimedOut", "the head of the answer"),
    ("garbage", &[], "ProtocolError", "cannot be understood"),
    ("missing", &[], "StatusRefused", "404 Not Found"),
];

/// All of them, and one complaint about all that were not refused as they should be.
pub(crate) fn check(running: &Running<'_>) -> Result<()> {
    let checks = [names, certificates, versions, lies, redirects, over_tls, bounds];
    let complaints: Vec<String> =
        checks.iter().filter_map(|check| check(running).err()).map(|error| error.to_string()).collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// Hosts just outside what is granted, and what is no host.
fn names(running: &Running<'_>) -> Result<()> {
    let mut complaints = Vec::new();
    for (host, name, words) in [
        ("host.test", "PolicyDenied", "no grant"),
        ("wwwhost.test", "PolicyDenied", "no grant"),
        ("www.host.test.secret.test", "PolicyDenied", "no grant"),
        // With a Cyrillic letter.
        ("www.h\u{43e}st.test", "PolicyDenied", "no grant"),
        ("10.77.0.2", "PolicyDenied", "no grant"),
        ("[::ffff:10.77.0.2]", "PolicyDenied", "no grant"),
        ("xn--a.host.test", "InvalidInput", "is no URL"),
        ("[fe80::1%25eth0]", "InvalidInput", "is no URL"),
        ("[fe80::1%eth0]", "InvalidInput", "is no URL"),
    ] {
        let refused = running.refused(&format!("http://{host}:{LIAR_PORT}/ok"), &[], name, words);
        complaints.extend(refused.err().map(|error| error.to_string()));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

fn certificates(running: &Running<'_>) -> Result<()> {
    let mut complaints = Vec::new();
    for (port, (name, words)) in (8301..).zip(CERTIFICATES) {
        let chain = running.certificates.chain(name).display().to_string();
        let key = running.certificates.key(name).display().to_string();
        let accept = port.to_string();
        // Without a security level openssl itself would refuse to show the weak ones.
        let options = ["s_server", "-quiet", "-www", "-cipher", "DEFAULT@SECLEVEL=0", "-accept", &accept];
        let pair = ["-cert", &chain, "-key", &key, "-cert_chain", &chain];
        let _server = running.server("openssl", &[&options[..], &pair].concat(), port)?;
        let refused = running.refused(&format!("https://{HOST}:{port}/"), &[], name, words);
        complaints.extend(refused.err().map(|error| error.to_string()));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

fn lies(running: &Running<'_>) -> Result<()> {
    let mut complaints = Vec::new();
    let soon = SOON.as_secs().to_string();
    for (path, arguments, name, words) in LIES {
        let arguments: Vec<&str> = match arguments {
            [timeout] if timeout.ends_with("timeout") => vec![timeout, &soon],
            other => other.to_vec(),
        };
        let refused = running.refused(&format!("http://{HOST}:{LIAR_PORT}/{path}"), &arguments, name, words);
        complaints.extend(refused.err().map(|error| error.to_string()));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// To another host, where the grant says so, that is followed, and no further than other grants allow.
fn redirects(running: &Running<'_>) -> Result<()> {
    let from = |host: &str, path: &str| format!("http://{host}:{LIAR_PORT}/{path}");
    let (_, told) = running.fetched(&from("other.host.test", "granted"), &[])?;
    ensure!(told["hops"][1]["url"] == "http://pinned.host.test:8099/ok", "{told:#}");
    running.refused(&from(HOST, "granted"), &[], "RedirectRefused", "another host, 'pinned.host.test'")?;
    running.refused(&from("other.host.test", "denied"), &[], "PolicyDenied", "secret.test")?;
    running.refused(&from("other.host.test", "fixture"), &[], "RedirectRefused", "fixture.local")
}

/// Only TLS 1.0 and 1.1, which are not spoken (RFC 8996).
fn versions(running: &Running<'_>) -> Result<()> {
    for (port, version) in [(8321, "-tls1"), (8322, "-tls1_1")] {
        let chain = running.certificates.chain("good").display().to_string();
        let key = running.certificates.key("good").display().to_string();
        let accept = port.to_string();
        let options = [
            "s_server",
            "-quiet",
            "-www",
            version,
            "-cipher",
            "ALL:@SECLEVEL=0",
            "-accept",
            &accept,
            "-cert",
            &chain,
        ];
        let _server = running.server("openssl", &[&options[..], &["-key", &key]].concat(), port)?;
        let url = format!("https://{HOST}:{port}/");
        running.refused(&url, &[], "protocol_version", "neither TLS 1.3 nor 1.2")?;
    }
    Ok(())
}

fn over_tls(running: &Running<'_>) -> Result<()> {
    let url = |path: &str| format!("https://{HOST}:{LIAR_TLS_PORT}/{path}");
    running.fetched(&url("ok"), &[])?;
    running.refused(&url("closed"), &[], "Truncated", "close_notify")?;
    running.refused(&url("truncated"), &[], "Truncated", "broke off")?;
    running.refused(&url("plain"), &[], "RedirectRefused", "from https to http")?;
    running.refused(&format!("https://{HOST}:{LIAR_PORT}/"), &[], "no_tls", "is it plain HTTP?")?;
    let downgraded = format!("https://{HOST}:{BETWEEN_PORT}/ok");
    running.refused(&downgraded, &[], "downgrade", "somebody between hides")?;
    let [wrongly_pinned, pinned, ..] = OTHER_HOSTS.map(|host| format!("https://{host}:{LIAR_TLS_PORT}/ok"));
    running.refused(&wrongly_pinned, &[], "wrong_pin", "pinned for 'wrongly-pinned.host.test'")?;
    let (_, told) = running.fetched(&pinned, &[])?;
    let pin = told["hops"][0]["tls"]["pin"].as_str().unwrap_or_default();
    ensure!(pin.contains("for pinned.host.test"), "{told:#}");
    // The root is taken away, and nothing else changes.
    fs::rename(running.path("roots/root.pem"), running.path("root.pem")).trying("use our own directory")?;
    // The directories are looked at once in a second.
    running.tapped.wait("the root to be gone", |_| Ok(!running.fetch(&url("ok"), &[])?.done))?;
    running.refused(&url("ok"), &[], "no_roots", "no root is trusted")?;
    fs::rename(running.path("root.pem"), running.path("roots/root.pem")).trying("use our own directory")?;
    running.tapped.wait("the root to be back", |_| Ok(running.fetch(&url("ok"), &[])?.done))
}

/// What the client or the operator bounds.
fn bounds(running: &Running<'_>) -> Result<()> {
    let url = |path: &str| format!("http://{HOST}:{LIAR_PORT}/{path}");
    running.refused(&url("big"), &["--max-size", "10K"], "TooLarge", "more than 10240 bytes")?;
    let other = "00".repeat(32);
    fs::write(running.path("out"), "precious").trying("use our own directory")?;
    let fetched = running.fetch(&url("ok"), &["--sha256", &other])?;
    let message = fetched.told["message"].as_str().unwrap_or_default();
    ensure!(!fetched.done && message.contains("was expected: nothing was written"), "{message}");
    ensure!(fs::read(running.path("out")).is_ok_and(|content| content == b"precious"), "it was written");
    running.refused("http://secret.test/", &[], "PolicyDenied", "net.http.fetch")?;
    running.refused(&format!("http://{HOST}:1/"), &[], "Unreachable", "ConnectionRefused")
}
