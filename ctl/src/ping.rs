//! ping: ICMP echo requests, one after the other.

use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use netd_ipc::{Client, ErrorKind, Pong};
use serde::Serialize;

use crate::cli;
use crate::error::Error;
use crate::output::{Output, milliseconds};

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    to: IpAddr,
    sent: u32,
    received: usize,
    rtt_us: Option<RoundTrip>,
    replies: Vec<Pong>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct RoundTrip {
    min: u64,
    mean: u64,
    max: u64,
}

/// Succeeds if any request was answered, as ping(8) does.
pub(crate) fn run(client: &Client, output: &Output, arguments: &cli::Ping) -> Result<ExitCode, Error> {
    let cli::Ping { ref host, count, interval, timeout, size } = *arguments;
    let address = *host.addresses(client)?.first().ok_or(Error::Usage("the name has no address"))?;
    let mut replies = Vec::new();
    for number in 1..=count {
        let start = Instant::now();
        match client.ping(address, Some(timeout), Some(size)) {
            Ok(pong) => {
                let Pong { from, rtt_us, ttl, bytes } = &pong;
                let rtt = milliseconds(*rtt_us);
                output.progress(&format!("{bytes} bytes from {from}: seq={number} ttl={ttl} time={rtt}"))?;
                replies.push(pong);
            }
            Err(error) => match error.kind() {
                Some(ErrorKind::TimedOut) => output.progress(&format!("no answer: seq={number}"))?,
                Some(ErrorKind::Unreachable) => output.progress(&format!("seq={number}: {error}"))?,
                // What is denied or wrong once is so every time.
                _ => return Err(error.into()),
            },
        }
        if number < count {
            thread::sleep(interval.saturating_sub(start.elapsed()));
        }
    }
    let summary =
        Summary { to: address, sent: count, received: replies.len(), rtt_us: round_trip(&replies), replies };
    output.result(&summary, || summary_text(&summary))?;
    Ok(if summary.received > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary_text(summary: &Summary) -> String {
    let mut text = format!("{} sent, {} received", summary.sent, summary.received);
    if let Some(RoundTrip { min, mean, max }) = summary.rtt_us {
        let [min, mean, max] = [min, mean, max].map(milliseconds);
        text.push_str(&format!("; round trip min {min}, mean {mean}, max {max}"));
    }
    text + "\n"
}

fn round_trip(replies: &[Pong]) -> Option<RoundTrip> {
    let times = || replies.iter().map(|pong| pong.rtt_us);
    let count = u64::try_from(replies.len()).ok().filter(|count| *count > 0)?;
    Some(RoundTrip { min: times().min()?, mean: times().sum::<u64>() / count, max: times().max()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_of_replies_and_of_none() {
        let pong = |rtt_us| Pong { from: IpAddr::from([192, 0, 2, 1]), rtt_us, ttl: 64, bytes: 56 };
        assert_eq!(round_trip(&[pong(1), pong(3), pong(5)]), Some(RoundTrip { min: 1, mean: 3, max: 5 }));
        assert_eq!(round_trip(&[]), None);
    }
}
