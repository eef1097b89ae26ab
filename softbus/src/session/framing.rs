//! Frames on a stream: each with its length, two bytes, big-endian, in front (Noise, 13: what a length field is to look like).

use alloc::vec::Vec;

use super::channel::RECORD_BYTES_MAX;
use crate::error::Error;

const LENGTH_BYTES: usize = 2;

/// The frame with its length in front.
pub fn frame(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let too_long = || Error::TooMany { what: "bytes in a frame", count: bytes.len(), max: RECORD_BYTES_MAX };
    let len = u16::try_from(bytes.len()).ok().filter(|_| bytes.len() <= RECORD_BYTES_MAX);
    let len = len.ok_or_else(too_long)?;
    Ok([&len.to_be_bytes(), bytes].concat())
}

/// Cuts a stream into frames. Holds less than one frame and what was pushed last.
#[derive(Debug)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// What of it was given out.
    taken: usize,
    /// The longest frame.
    limit: usize,
}

impl Default for Deframer {
    fn default() -> Deframer {
        Deframer::new()
    }
}

impl Deframer {
    /// Nothing arrived. A frame is as long as a record at most.
    #[must_use]
    pub fn new() -> Deframer {
        Deframer::limited(RECORD_BYTES_MAX)
    }

    /// The same for frames of at most `limit` bytes.
    #[must_use]
    pub fn limited(limit: usize) -> Deframer {
        Deframer { buffer: Vec::new(), taken: 0, limit }
    }

    /// Bytes of the stream arrived. Take all frames before the next ones.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend(bytes);
    }

    /// The next frame that is complete.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some((len, rest)) = self.buffer[self.taken..].split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*len));
        if len > self.limit {
            return Err(Error::TooMany { what: "bytes in a frame", count: len, max: self.limit });
        }
        let frame = rest.get(..len);
        self.taken += frame.map_or(0, |frame| LENGTH_BYTES + frame.len());
        Ok(frame)
    }

    /// Whether the stream may end here: not within a frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_cut_anywhere_come_out_whole(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            cut in 1..50_usize,
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|bytes| frame(bytes).unwrap()).collect();
            let mut deframer = Deframer::new();
            let mut out = Vec::new();
            for bytes in stream.chunks(cut) {
                deframer.push(bytes);
                while let Some(frame) = deframer.next_frame().unwrap() {
                    out.push(frame.to_vec());
                }
            }
            prop_assert_eq!(out, frames);
            prop_assert!(deframer.is_empty());
        }
    }

    #[test]
    fn frame_longer_than_a_record_is_refused_by_its_length_alone() {
        let mut deframer = Deframer::new();
        deframer.push(&u16::MAX.to_be_bytes());
        let long = Error::TooMany { what: "bytes in a frame", count: 65_535, max: RECORD_BYTES_MAX };
        assert_eq!(deframer.next_frame(), Err(long));
        assert!(frame(&alloc::vec![0; RECORD_BYTES_MAX + 1]).is_err());
    }
}
