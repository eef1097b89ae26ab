//! udp send and recv: datagrams from a shell.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_ipc::datagram::PAYLOAD_BYTES_MAX;
use netd_ipc::{Client, ErrorKind, UdpSocket};
use serde_json::json;

use crate::cli;
use crate::error::Error;
use crate::output::Output;

/// How long a refusal is waited for after a datagram that wants no answer: it comes within a round trip or not at all, and
/// those of policy come at once.
const REFUSAL_WAIT: Duration = Duration::from_millis(200);

pub(crate) fn send(client: &Client, output: &Output, arguments: &cli::UdpSend) -> Result<ExitCode, Error> {
    let cli::UdpSend { host, port, text, wait, local } = arguments;
    let payload = match text {
        Some(text) => text.clone().into_bytes(),
        None => standard_input()?,
    };
    let socket = client.udp_bind(*local)?;
    let address = host.addresses(client)?.first().copied();
    let to = SocketAddr::new(address.ok_or(Error::Usage("the name has no address"))?, *port);
    socket.send_to(&payload, to)?;
    socket.set_read_deadline(Some(Instant::now() + wait.unwrap_or(REFUSAL_WAIT)));
    match receive(&socket) {
        Ok((payload, from)) if wait.is_some() => show(output, &payload, from)?,
        Ok(_) => {}
        Err(error) if wait.is_none() && error.kind() == Some(ErrorKind::TimedOut) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn receive_all(
    client: &Client,
    output: &Output,
    arguments: &cli::UdpRecv,
) -> Result<ExitCode, Error> {
    let cli::UdpRecv { port, count, wait } = arguments;
    let socket = client.udp_bind(Some(*port))?;
    if *port == 0 {
        output.note(&format!("receiving on {}", socket.local_addr()));
    }
    socket.set_read_deadline(wait.map(|wait| Instant::now() + wait));
    for _ in 0..*count {
        let (payload, from) = receive(&socket)?;
        show(output, &payload, from)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr), netd_ipc::Error> {
    let mut payload = vec![0; PAYLOAD_BYTES_MAX];
    let (count, from) = socket.recv_from(&mut payload)?;
    payload.truncate(count);
    Ok((payload, from))
}

/// The payload as it is, or with JSON as text beside its sender.
fn show(output: &Output, payload: &[u8], from: SocketAddr) -> Result<(), Error> {
    if output.is_json() {
        let text = String::from_utf8_lossy(payload);
        return output.line(&json!({ "from": from, "bytes": payload.len(), "text": text }).to_string());
    }
    let mut out = io::stdout().lock();
    out.write_all(payload).and_then(|()| out.flush()).map_err(Error::Output)
}

fn standard_input() -> Result<Vec<u8>, Error> {
    let mut payload = Vec::new();
    // One byte more than fits shows that it does not.
    let limit = PAYLOAD_BYTES_MAX as u64 + 1;
    io::stdin().lock().take(limit).read_to_end(&mut payload).map_err(Error::Input)?;
    Ok(payload)
}
