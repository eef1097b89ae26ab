//! bus: devices that find and trust each other, and what their services have for each other. netd-services is asked.

mod program;
mod remote;
mod zone;

mod files;
mod state;

use std::io::{self, BufRead as _};
use std::process::ExitCode;

use netd_ipc::services::{
    BusDevice, BusEvent, BusMode, BusOutcome, BusPeer, BusPin, BusStatus, BusStream, Client,
};
use serde_json::json;

use crate::cli::{self, BusCommand};
use crate::error::Error;
use crate::output::{Output, fields, list, name, or_dash, table};
use crate::pipe::{self, Carried};

pub(crate) fn run(output: &Output, arguments: &cli::Bus) -> Result<ExitCode, Error> {
    let client = match &arguments.services {
        Some(path) => Client::at(path),
        None => Client::default_paths(),
    };
    match &arguments.command {
        BusCommand::Status => {
            let status = client.bus()?;
            output.result(&status, || status_text(&status))?;
        }
        BusCommand::Peers => {
            let peers = client.bus_peers()?;
            output.result(&peers, || peers_text(&peers))?;
        }
        BusCommand::Services { device: None } => services(&client, output)?,
        BusCommand::Services { device: Some(device) } => remote::services(&client, output, device)?,
        BusCommand::Zone { domain, host } => {
            let records = zone::records(&client.bus()?, domain, host.as_deref())?;
            output.result(&records, || {
                records.iter().map(|record| format!("{record}\n")).collect::<String>()
            })?;
        }
        BusCommand::Watch { count } => watch(&client, output, *count)?,
        BusCommand::Pair { device: None, .. } => {
            let pin = client.show_bus_pin()?;
            output.result(&pin, || pin_text(&pin))?;
        }
        BusCommand::Pair { device: Some(device), pin } => {
            let pin = pin.clone().map_or_else(typed_pin, Ok)?;
            let paired = client.pair_bus(device, pin.trim())?;
            output.result(&paired, || changed_text("paired with", &paired))?;
        }
        BusCommand::Pin { device, key } => {
            let pinned = client.pin_bus(device, key)?;
            output.result(&pinned, || changed_text("trusted from now on:", &pinned))?;
        }
        BusCommand::Revoke { device } => {
            let revoked = client.revoke_bus(device)?;
            output.result(&revoked, || changed_text("never trusted again:", &revoked))?;
        }
        BusCommand::Open { device, service, priority, timeout } => {
            let stream = client.open_bus(device, service, Some(*priority), Some(*timeout))?;
            carry(output, &stream)?;
        }
        BusCommand::Serve { service, keep } => serve(&client, output, service, *keep)?,
        BusCommand::Call { device, service, method, payload, timeout } => {
            remote::call(&client, output, (device, service, method), payload.as_deref(), *timeout)?;
        }
        BusCommand::Answer { service, count, program } => {
            remote::answer(&client, output, service, program, *count)?;
        }
        BusCommand::Publish { service, topic } => remote::publish(&client, output, service, topic)?,
        BusCommand::Subscribe { device, service, topic, count } => {
            remote::subscribe(&client, output, (device, service), topic.as_deref(), *count)?;
        }
        BusCommand::Files { command } => files::run(&client, output, command)?,
        BusCommand::State { command } => state::run(&client, output, command)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the other device shows, from whoever stands before this one.
fn typed_pin() -> Result<String, Error> {
    if rustix::termios::isatty(io::stdin()) {
        eprint!("PIN: ");
    }
    let mut pin = String::new();
    io::stdin().lock().read_line(&mut pin).map_err(Error::Input)?;
    Ok(pin)
}

fn serve(client: &Client, output: &Output, service: &str, keep: bool) -> Result<(), Error> {
    let mut offered = client.serve_bus(service)?;
    loop {
        let stream = offered.accept()?;
        match carry(output, &stream) {
            Ok(()) if !keep => return Ok(()),
            Ok(()) => {}
            // One stream that goes wrong must not end the service for the next.
            Err(error @ (Error::Stream(_) | Error::Services(_))) if keep => {
                output.note(&format!("netctl: stream from {}: {error}", stream.device()));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Carries bytes both ways until the stream is over, and says whether it ended well.
fn carry(output: &Output, stream: &BusStream) -> Result<(), Error> {
    let Carried { sent_bytes, received_bytes, result, .. } =
        pipe::both_ways(stream, io::stdin(), io::stdout());
    if output.is_json() {
        let outcome = stream.outcome().ok();
        output.note(
            &json!({
                "id": stream.id(),
                "device": stream.device(),
                "service": stream.service(),
                "sent_bytes": sent_bytes,
                "received_bytes": received_bytes,
                "complete": result.is_ok() && outcome != Some(BusOutcome::Reset),
            })
            .to_string(),
        );
    }
    result
}

fn watch(client: &Client, output: &Output, count: Option<usize>) -> Result<(), Error> {
    let mut watch = client.watch_bus()?;
    for _ in 0..count.unwrap_or(usize::MAX) {
        let event = watch.next_event()?;
        let line = if output.is_json() { json!(event).to_string() } else { event_text(&event) };
        output.line(&line)?;
    }
    Ok(())
}

fn event_text(event: &BusEvent) -> String {
    let BusEvent { event, device, key, service, detail } = event;
    let short = key.as_ref().map(|key| key.chars().take(16).collect::<String>());
    let parts = [device.as_ref(), service.as_ref(), short.as_ref(), detail.as_ref()];
    let mut line = event.replace('_', " ");
    for part in parts.into_iter().flatten() {
        line.push_str("  ");
        line.push_str(part);
    }
    line
}

fn services(client: &Client, output: &Output) -> Result<(), Error> {
    let own = client.bus()?;
    let peers = client.bus_peers()?;
    let of_peers = peers.iter().flat_map(|peer| {
        peer.services.iter().map(|service| (peer.device.clone(), service.clone(), peer.pinned))
    });
    let ours = own.services.iter().map(|service| ("loopback".to_owned(), service.clone(), true));
    let all: Vec<_> = ours.chain(of_peers).collect();
    let value: Vec<_> = all
        .iter()
        .map(|(device, service, trusted)| json!({ "device": device, "service": service, "trusted": trusted }))
        .collect();
    output.result(&value, || {
        if all.is_empty() {
            return "no services: netctl bus serve NAME offers one\n".to_owned();
        }
        let row = |(device, service, trusted): &(String, String, bool)| {
            [device.clone(), service.clone(), yes(*trusted)]
        };
        table(["DEVICE", "SERVICE", "TRUSTED"], &all.iter().map(row).collect::<Vec<_>>())
    })
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn status_text(status: &BusStatus) -> String {
    let mut lines = vec![("mode", name(&status.mode))];
    if status.mode != status.configured || status.problem.is_some() {
        lines.push(("configured", name(&status.configured)));
        lines.push(("because", or_dash(status.problem.as_ref())));
    }
    lines.push(("device", status.device.clone()));
    if let Some(key) = &status.key {
        lines.push(("key", key.clone()));
    }
    if status.mode == BusMode::Network {
        lines.push(("port", status.port.to_string()));
        lines.push((
            "peers",
            format!("{} heard, {} trusted, {} keys revoked", status.peers, status.pinned, status.revoked),
        ));
        lines.push(("sessions", status.sessions.to_string()));
    }
    lines.push(("streams", status.streams.to_string()));
    lines
        .push(("services", if status.services.is_empty() { "-".to_owned() } else { list(&status.services) }));
    if let Some(tries) = status.pin_tries {
        lines.push(("PIN", format!("shown, {tries} tries left")));
    }
    fields(&lines)
}

fn peers_text(peers: &[BusPeer]) -> String {
    if peers.is_empty() {
        return "nobody was heard, and nobody is trusted\n".to_owned();
    }
    let row = |peer: &BusPeer| {
        [
            peer.device.clone(),
            if peer.pinned { "trusted" } else { "stranger" }.to_owned(),
            peer.sessions.to_string(),
            or_dash(peer.heard_ms.map(|heard| format!("{} s ago", heard / 1000))),
            or_dash(peer.addresses.first()),
            if peer.services.is_empty() { "-".to_owned() } else { list(&peer.services) },
            peer.key.chars().take(16).collect(),
        ]
    };
    let rows: Vec<_> = peers.iter().map(row).collect();
    table(["DEVICE", "TRUST", "SESSIONS", "HEARD", "ADDRESS", "SERVICES", "KEY"], &rows)
}

fn pin_text(pin: &BusPin) -> String {
    let BusPin { pin, tries, seconds } = pin;
    format!(
        "{pin}\ngood for {seconds} s and {tries} tries; on the other device: netctl bus pair DEVICE, with this machine's id\n"
    )
}

fn changed_text(what: &str, changed: &BusDevice) -> String {
    let BusDevice { device, keys } = changed;
    format!("{what} {device} ({})\n", keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> BusStatus {
        BusStatus {
            mode: BusMode::Loopback,
            configured: BusMode::Network,
            problem: Some("the devnet switch is off".into()),
            device: "hub".into(),
            key: Some("ab".into()),
            port: 34567,
            peers: 0,
            pinned: 1,
            revoked: 0,
            sessions: 0,
            streams: 2,
            services: vec!["chat".into()],
            pin_tries: None,
            announcements: [].into(),
        }
    }

    #[test]
    fn status_that_is_not_as_configured_says_why() {
        let text = status_text(&status());
        for part in ["loopback", "network", "the devnet switch is off", "chat"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn peers_are_shown_with_trust_and_absence() {
        let absent = BusPeer {
            device: "hub".into(),
            key: "0123456789abcdef0123".into(),
            pinned: true,
            present: false,
            addresses: vec![],
            port: 0,
            services: vec![],
            sessions: 0,
            heard_ms: None,
        };
        let text = peers_text(&[absent]);
        assert!(
            text.contains("hub     trusted  0         -      -        -         0123456789abcdef"),
            "{text}"
        );
    }
}
