//! Streams that can be made again from a seed, and SHA-256 of what arrived at the other end.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

/// Large enough that the cost of a system call does not show, small enough for any pipe.
const CHUNK_BYTES: usize = 64 * 1024;

/// SHA-256 in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    to_hex(Sha256::digest(bytes).as_slice())
}

/// Reads to the end; returns the number of bytes and their SHA-256.
pub fn of_reader(mut reader: impl Read) -> io::Result<(u64, String)> {
    let (mut hash, mut total) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            return Ok((total, to_hex(hash.finalize().as_slice())));
        }
        hash.update(&chunk[..count]);
        total += count as u64;
    }
}

/// Writes `total` bytes that depend on the seed alone, and returns their SHA-256.
pub fn generate(total: u64, seed: u64, mut writer: impl Write) -> io::Result<String> {
    let (mut hash, mut state) = (Sha256::new(), seed);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = total;
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        let count = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        hash.update(&chunk[..count]);
        writer.write_all(&chunk[..count])?;
        left -= count as u64;
    }
    writer.flush()?;
    Ok(to_hex(hash.finalize().as_slice()))
}

/// SplitMix64 (Steele, Lea, Flood 2014): no period that a repeated or lost block could hide behind.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn to_hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_abc_is_the_one_in_fips_180() {
        assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn generated_stream_read_back_has_the_same_digest_and_length() {
        let mut stream = Vec::new();
        let sent = generate(100_001, 7, &mut stream).unwrap();
        assert_eq!(of_reader(stream.as_slice()).unwrap(), (100_001, sent.clone()));
        assert_ne!(generate(100_001, 8, io::sink()).unwrap(), sent);
        stream.swap(10, 70_000);
        assert_ne!(of_reader(stream.as_slice()).unwrap().1, sent);
    }
}
