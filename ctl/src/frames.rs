//! frames send and recv: raw frames from a shell.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

use netd_ipc::frames::Header;
use netd_ipc::{Client, Frames};
use netd_vfio::Mac;
use serde_json::json;

use crate::cli;
use crate::error::Error;
use crate::output::Output;

/// An EtherType as everybody writes them: 0x88b5.
pub(crate) fn ether_type(text: &str) -> Result<u16, String> {
    let number = text.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok());
    number.ok_or_else(|| "expected an EtherType in hexadecimal, such as 0x88b5".to_owned())
}

pub(crate) fn send(client: &Client, output: &Output, arguments: &cli::FramesSend) -> Result<ExitCode, Error> {
    let cli::FramesSend { ether_type, to, text, wait } = arguments;
    let frames = client.frames(*ether_type)?;
    let payload = match text {
        Some(text) => text.clone().into_bytes(),
        None => {
            let mut payload = Vec::new();
            // One byte more than fits shows that it does not.
            let limit = frames.mtu() as u64 + 1;
            io::stdin().lock().take(limit).read_to_end(&mut payload).map_err(Error::Input)?;
            payload
        }
    };
    frames.send(to.0, &payload)?;
    if let Some(wait) = wait {
        frames.set_read_deadline(Some(Instant::now() + *wait));
        receive(&frames, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn receive_all(
    client: &Client,
    output: &Output,
    arguments: &cli::FramesRecv,
) -> Result<ExitCode, Error> {
    let cli::FramesRecv { ether_type, count, wait } = arguments;
    let frames = client.frames(*ether_type)?;
    frames.set_read_deadline(wait.map(|wait| Instant::now() + wait));
    for _ in 0..*count {
        receive(&frames, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for a frame and prints its payload as it is, or with JSON as text beside its ends.
fn receive(frames: &Frames, output: &Output) -> Result<(), Error> {
    let mut payload = vec![0; frames.mtu()];
    let (Header { to, from, ether_type: _ }, count) = frames.recv(&mut payload)?;
    payload.truncate(count);
    if output.is_json() {
        // Short frames are padded with zeros.
        let text = String::from_utf8_lossy(&payload);
        let text = text.trim_end_matches('\0');
        let (from, to) = (Mac(from).to_string(), Mac(to).to_string());
        return output
            .line(&json!({ "from": from, "to": to, "bytes": payload.len(), "text": text }).to_string());
    }
    let mut out = io::stdout().lock();
    out.write_all(&payload).and_then(|()| out.flush()).map_err(Error::Output)
}
