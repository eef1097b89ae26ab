//! Varlink's framing: one JSON object, then one NUL byte (https://varlink.org/Method-Call).

/// Largest request that netd reads. The largest that the interface needs is below 200 bytes; 64 KiB leaves room for
/// methods with lists, and 512 connections with an unfinished one each cost 32 MiB.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Largest reply that a client reads and netd writes: 40 000 sockets at 400 bytes each.
pub const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A message is longer than its reader allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of more than {limit} bytes")]
pub struct TooLong {
    /// What it allows.
    pub limit: usize,
}

/// Collects bytes until a whole message is there. Never holds more than one message of the allowed length and the bytes
/// of one [`Decoder::push`].
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the start that are known to hold no NUL, so that a message in many pieces is searched only once.
    searched: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder for messages of at most `limit` bytes, their NUL not counted.
    pub fn new(limit: usize) -> Decoder {
        Decoder { buffer: Vec::new(), searched: 0, limit }
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the first whole message, without its NUL; none until there is one.
    ///
    /// # Errors
    /// The message under way is too long already. There is no way to go on after that.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let end =
            self.buffer.iter().skip(self.searched).position(|byte| *byte == 0).map(|at| at + self.searched);
        if end.unwrap_or(self.buffer.len()) > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        let rest = self.buffer.split_off(end + 1);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.truncate(end);
        self.searched = 0;
        Ok(Some(message))
    }

    /// Whether nothing waits, not even a part of a message.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// A message as it goes over the socket.
///
/// # Errors
/// The value does not serialise, which takes a map with keys that are not strings.
pub fn encode(message: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    // JSON escapes NUL inside strings (RFC 8259, 7), so the only one is the one that ends the message.
    let mut out = serde_json::to_vec(message)?;
    out.push(0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn take_of_a_message_at_the_limit_succeeds_and_one_more_byte_fails() {
        let mut decoder = Decoder::new(4);
        decoder.push(b"1234\0");
        assert_eq!(decoder.take(), Ok(Some(b"1234".to_vec())));
        decoder.push(b"12345");
        assert_eq!(decoder.take(), Err(TooLong { limit: 4 }));
        let mut decoder = Decoder::new(4);
        decoder.push(b"12345\0");
        assert_eq!(decoder.take(), Err(TooLong { limit: 4 }));
    }

    #[test]
    fn encode_escapes_nul_inside_strings() {
        let bytes = encode(&"a\0b").unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1);
        assert_eq!(bytes.last(), Some(&0));
    }

    proptest! {
        #[test]
        fn take_is_independent_of_how_bytes_arrive(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..50), 0..8), piece in 1usize..40,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| [&message[..], &[0]].concat()).collect();
            let mut decoder = Decoder::new(50);
            let mut taken = Vec::new();
            for chunk in bytes.chunks(piece) {
                decoder.push(chunk);
                while let Some(message) = decoder.take().expect("within the limit") {
                    taken.push(message);
                }
            }
            prop_assert_eq!(taken, messages);
            prop_assert!(decoder.is_empty());
        }
    }
}
