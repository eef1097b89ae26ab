//! The daemon's own readers: filters of captures with the frames they look at, and the configuration.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use netd::capture::{Direction, Filter, Taps};
use netd::config::Config;
use netd_virtqueue::Checksum;

use crate::input::Input;

/// Kept of each frame.
const SNAP_BYTES: usize = 96;
/// Enhanced packet block (draft-ietf-opsawg-pcapng, 4.3).
const PACKET: u32 = 6;

/// `{ filter len u8 }`, then frames `{ len u16 }`: those that the filter takes come out as pcapng, in blocks that make sense.
pub fn capture(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(text) = input.short() else { return };
    let Ok(filter) = Filter::parse(&String::from_utf8_lossy(text)) else { return };
    let frames: Vec<&[u8]> = core::iter::from_fn(|| input.long()).take(64).collect();
    let taken: Vec<&[u8]> = frames.iter().copied().filter(|frame| filter.takes(frame)).collect();
    // A thread and a socket for each would only slow the search down: most scripts are about the filter.
    if taken.is_empty() {
        return;
    }
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut taps = Taps::default();
    taps.add(0, filter, SNAP_BYTES, ours.into()).expect("a thread");
    frames.iter().for_each(|frame| taps.offer(Direction::Received, frame, Checksum::Complete));
    drop(taps);
    let mut stream = Vec::new();
    theirs.read_to_end(&mut stream).expect("the stream, to its end");
    let packets = packets(&stream);
    assert_eq!(packets.len(), taken.len());
    for (packet, frame) in packets.iter().zip(taken) {
        assert_eq!(*packet, frame.get(..SNAP_BYTES).unwrap_or(frame));
    }
}

/// The packets of a pcapng stream; panics where it is none.
fn packets(mut stream: &[u8]) -> Vec<&[u8]> {
    let number =
        |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let mut packets = Vec::new();
    while !stream.is_empty() {
        let (kind, len) = (number(stream, 0), number(stream, 4) as usize);
        assert!(
            len.is_multiple_of(4) && len >= 12 && number(stream, len - 4) as usize == len,
            "a block of {len}"
        );
        if kind == PACKET {
            let kept = number(stream, 20) as usize;
            packets.push(&stream[28..28 + kept]);
        }
        stream = &stream[len..];
    }
    packets
}

/// A configuration file: taken, or refused with the place of what is wrong.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(Path::new("netd.toml"), text) {
        Ok(config) => {
            assert!(config.needs_restart(&config).is_empty(), "a configuration differs from itself")
        }
        Err(error) => assert!(error.to_string().contains("netd.toml"), "an error without a place: {error}"),
    }
}
