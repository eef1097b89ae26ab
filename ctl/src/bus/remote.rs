//! bus call, answer, publish and subscribe: methods and topics of services.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::time::Duration;

use netd_ipc::services::{
    BusOffers, BusPublication, BusServiceInfo, CALL_BYTES_MAX, Client, ErrorKind, PUBLICATION_BYTES_MAX,
};
use serde_json::{Value, json};

use super::program;
use crate::error::Error;
use crate::output::{Output, table};

/// What stands for standard input.
const STDIN: &str = "-";

/// Calls a method, and prints the answer.
pub(super) fn call(
    client: &Client,
    output: &Output,
    (device, service, method): (&str, &str, &str),
    payload: Option<&str>,
    timeout: Duration,
) -> Result<(), Error> {
    let payload = match payload {
        Some(STDIN) => read_payload()?,
        payload => payload.unwrap_or_default().as_bytes().to_vec(),
    };
    let answer = client.call_bus(device, service, method, &payload, Some(timeout))?;
    if output.is_json() {
        return output.line(&shown(&answer).to_string());
    }
    write(&answer)
}

/// As much of standard input as may be sent, and one byte more, so that too much is told and not cut.
fn read_payload() -> Result<Vec<u8>, Error> {
    let mut payload = Vec::new();
    let most = u64::try_from(CALL_BYTES_MAX + 1).unwrap_or(u64::MAX);
    io::stdin().lock().take(most).read_to_end(&mut payload).map_err(Error::Input)?;
    Ok(payload)
}

/// A payload in JSON: as text, if it is one, and as base64.
fn shown(payload: &[u8]) -> Value {
    let payload = netd_ipc::services::BusPayload::from(payload.to_vec());
    json!({ "payload": payload, "text": std::str::from_utf8(&payload).ok() })
}

fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Offers a service whose calls a program answers, one after the other.
pub(super) fn answer(
    client: &Client,
    output: &Output,
    service: &str,
    command: &[String],
    count: Option<usize>,
) -> Result<(), Error> {
    let offers = BusOffers { calls: true, ..BusOffers::default() };
    let mut offered = client.offer_bus(service, offers)?;
    for _ in 0..count.unwrap_or(usize::MAX) {
        let call = offered.next_call()?;
        let answer = program::run(client, command, &call)?;
        let told = match &answer {
            Ok(payload) => Ok(payload.as_slice()),
            Err((error, message)) => Err((*error, message.as_str())),
        };
        match offered.answer(call.id, told) {
            Ok(()) => {}
            // Its caller waits no longer; the next one does.
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => {
                output.note(&format!("netctl: call {} of {}: {error}", call.method, call.device));
            }
            Err(error) if error.kind() == Some(ErrorKind::TooLarge) => {
                output.note(&format!("netctl: call {} of {}: {error}", call.method, call.device));
                let failed = (netd_ipc::services::BusCallError::Failed, "the answer is too long");
                offered.answer(call.id, Err(failed))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Offers a service, and publishes each line of standard input.
pub(super) fn publish(client: &Client, output: &Output, service: &str, topic: &str) -> Result<(), Error> {
    let offers = BusOffers { topics: true, ..BusOffers::default() };
    let mut offered = client.offer_bus(service, offers)?;
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Error::Input)? == 0 {
            return Ok(());
        }
        let payload = line.strip_suffix(b"\n").unwrap_or(&line);
        if payload.len() > PUBLICATION_BYTES_MAX {
            return Err(Error::Usage("a line of more than 4031 bytes: more goes over a stream (bus serve)"));
        }
        let subscribers = offered.publish(topic, payload)?;
        if output.is_json() {
            output.line(&json!({ "topic": topic, "subscribers": subscribers }).to_string())?;
        }
    }
}

/// Prints what a service publishes, each on a line.
pub(super) fn subscribe(
    client: &Client,
    output: &Output,
    (device, service): (&str, &str),
    topic: Option<&str>,
    count: Option<usize>,
) -> Result<(), Error> {
    let mut subscription = client.subscribe_bus(device, service, topic)?;
    for _ in 0..count.unwrap_or(usize::MAX) {
        let BusPublication { topic, payload, lost } = subscription.next_publication()?;
        if output.is_json() {
            let mut value = shown(&payload);
            value["topic"] = topic.into();
            value["lost"] = lost.into();
            output.line(&value.to_string())?;
            continue;
        }
        if lost > 0 {
            output.note(&format!("netctl: {lost} lost: this side, or the network, was too slow"));
        }
        let mut bytes: Vec<u8> = payload.into();
        bytes.push(b'\n');
        write(&bytes)?;
    }
    Ok(())
}

/// What one device has for this one.
pub(super) fn services(client: &Client, output: &Output, device: &str) -> Result<(), Error> {
    let services = client.bus_services(device, None)?;
    output.result(&services, || {
        if services.is_empty() {
            return format!("{device} has no services for this device\n");
        }
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let row = |BusServiceInfo { service, streams, calls, topics }: &BusServiceInfo| {
            [service.clone(), yes(*streams), yes(*calls), yes(*topics)]
        };
        table(["SERVICE", "STREAMS", "CALLS", "TOPICS"], &services.iter().map(row).collect::<Vec<_>>())
    })
}
