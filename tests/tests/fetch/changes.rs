//! What is taken away while a body comes: the root that its server was believed by, and the devnet switch.

use std::fs;

use netd_tests::tapped::GATEWAY;
use netd_tests::{Result, ensure};

use crate::Trying as _;
use crate::certificates::HOST;
use crate::running::{LIAR_PORT, LIAR_TLS_PORT, Running};

pub(crate) fn check(running: &Running<'_>) -> Result<()> {
    silent(running)?;
    let secured = running.begin(&format!("https://{HOST}:{LIAR_TLS_PORT}/steady"), "secured")?;
    let plain = running.begin(&format!("http://{HOST}:{LIAR_PORT}/steady"), "plain")?;
    // One goes on when the root of the other goes.
    fs::rename(running.path("roots/root.pem"), running.path("root.pem")).trying("use our own directory")?;
    running.given_up(secured, "no_roots")?;
    fs::rename(running.path("root.pem"), running.path("roots/root.pem")).trying("use our own directory")?;
    let part = || fs::metadata(running.path("plain.part")).map_or(0, |part| part.len());
    let (before, moved) = (part(), "more of the body without TLS");
    running.tapped.wait(moved, |_| Ok(part() > before))?;

    switch(running, false)?;
    running.given_up(plain, "DevnetDisabled")?;
    let url = format!("http://{HOST}:{LIAR_PORT}/ok");
    running.refused(&url, &[], "DevnetDisabled", "devnet switch")?;
    // Everything is granted to everybody here.
    for asked in [
        &["resolve", HOST][..],
        &["connect", HOST, "8099"],
        &["connect", GATEWAY, "8099"],
        &["ping", GATEWAY],
        &["udp", "send", GATEWAY, "53", "anything"],
    ] {
        let told = running.tapped.json(asked)?;
        ensure!(told.to_string().contains("DevnetDisabled"), "netctl {}: {told:#}", asked.join(" "));
    }
    running.fetched("https://fixture.local/hello", &[])?;
    switch(running, true)?;
    running.fetched(&url, &[]).map(drop)
}

/// A server that stopped sending, and whose root is removed: it is given up at once, and not when it has been silent for too long.
fn silent(running: &Running<'_>) -> Result<()> {
    let (root, moved) = (running.path("roots/root.pem"), running.path("root.pem"));
    fs::rename(&root, &moved).trying("use our own directory")?;
    running.services(&["trust", "add", &moved.display().to_string()])?;
    let stalled = running.begin(&format!("https://{HOST}:{LIAR_TLS_PORT}/stalls"), "stalled")?;
    let listed = running.services(&["trust", "list"])?;
    let id = listed["roots"][0]["sha256"].as_str().unwrap_or_default().to_owned();
    running.services(&["trust", "remove", &id])?;
    running.given_up(stalled, "no_roots")?;
    fs::rename(&moved, &root).trying("use our own directory")?;
    // The directories are looked at once a second.
    let url = format!("https://{HOST}:{LIAR_TLS_PORT}/ok");
    running.tapped.wait("the root", |_| Ok(running.fetch(&url, &[])?.done))
}

/// The devnet switch, by a reload.
fn switch(running: &Running<'_>, on: bool) -> Result<()> {
    let path = running.path("netd.toml");
    let text = fs::read_to_string(&path).trying("read netd.toml")?;
    let switched = text.replace(&format!("enabled = {}", !on), &format!("enabled = {on}"));
    ensure!(switched != text, "the switch is {on} already");
    fs::write(&path, switched).trying("write netd.toml")?;
    running.tapped.reload()?;
    running.tapped.wait("the switch", |tapped| Ok(tapped.json(&["status"])?["devnet_enabled"] == on))
}
