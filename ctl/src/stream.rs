//! connect and listen: a TCP stream as standard input and output.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use netd_ipc::{Client, Grant, Outcome, StreamEnd, TcpStream};
use serde_json::json;

use crate::cli;
use crate::error::Error;
use crate::names::Host;
use crate::output::Output;
use crate::pipe::{self, Carried};

/// How long the peer may take to acknowledge the end of what was sent, after it sent its own. A retransmission that got
/// lost three times in a row comes within 1 + 2 + 4 + 8 seconds (RFC 6298, 5.5); this is four times as long.
const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(60);
/// How often netd is asked meanwhile.
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn connect(client: &Client, output: &Output, arguments: &cli::Connect) -> Result<ExitCode, Error> {
    let cli::Connect { host, port, timeout, verbose } = arguments;
    let stream = match host {
        Host::Address(address) => client.tcp_connect(SocketAddr::new(*address, *port), Some(*timeout))?,
        Host::Name(name) => client.tcp_connect_host(name, *port, Some(*timeout))?,
    };
    if *verbose && let Some(Grant { rule, tls }) = stream.grant() {
        let demand =
            if tls.as_deref() == Some("required") { ", must begin with TLS for that name" } else { "" };
        output.note(&format!("connected to {}, by {rule}{demand}", stream.peer_addr()));
    }
    serve(client, output, &stream)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn listen(client: &Client, output: &Output, arguments: &cli::Listen) -> Result<ExitCode, Error> {
    let listener = client.tcp_listen(Some(arguments.port), None)?;
    if arguments.port == 0 {
        output.note(&format!("listening on {}", listener.local_addr()));
    }
    loop {
        let (stream, remote) = listener.accept()?;
        match serve(client, output, &stream) {
            Ok(()) if !arguments.keep => return Ok(ExitCode::SUCCESS),
            Ok(()) => {}
            // One peer that goes wrong must not end the service for the next.
            Err(error @ Error::Client(_)) if arguments.keep => {
                output.note(&format!("netctl: connection from {remote}: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Carries bytes both ways until the stream is over, and says whether it ended well.
fn serve(client: &Client, output: &Output, stream: &TcpStream) -> Result<(), Error> {
    let Carried { sent_bytes, received_bytes, result, sent_all } =
        pipe::both_ways(stream, io::stdin(), io::stdout());
    let result =
        result.and_then(|()| if sent_all { await_acknowledgement(client, stream.id()) } else { Ok(()) });
    if output.is_json() {
        output.note(
            &json!({
                "id": stream.id(),
                "local": stream.local_addr(),
                "remote": stream.peer_addr(),
                "rule": stream.grant().map(|grant| &grant.rule),
                "tls": stream.grant().and_then(|grant| grant.tls.as_ref()),
                "sent_bytes": sent_bytes,
                "received_bytes": received_bytes,
                "complete": result.is_ok(),
            })
            .to_string(),
        );
    }
    result
}

/// Waits until both ends are acknowledged: only then is it known that everything arrived.
fn await_acknowledgement(client: &Client, id: u64) -> Result<(), Error> {
    let deadline = Instant::now() + ACKNOWLEDGE_MAX;
    loop {
        match client.outcome(id)? {
            Outcome { end: StreamEnd::Finished, .. } => return Ok(()),
            Outcome { end: StreamEnd::Open, .. } if Instant::now() < deadline => {
                thread::sleep(ACKNOWLEDGE_PAUSE);
            }
            Outcome { end: StreamEnd::Open, .. } => {
                return Err(Error::Unacknowledged { seconds: ACKNOWLEDGE_MAX.as_secs() });
            }
            Outcome { end, .. } => return Err(netd_ipc::Error::CutShort { end }.into()),
        }
    }
}
