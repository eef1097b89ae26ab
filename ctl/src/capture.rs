//! capture: frames as a pcapng file, or as one line each.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::process::ExitCode;

use netd_ipc::Client;

use crate::cli;
use crate::error::Error;
use crate::output::Output;

mod line;

/// Block types of pcapng.
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
/// The longest block: a frame of 64 KiB with its header and options.
const BLOCK_BYTES_MAX: usize = 128 * 1024;

pub(crate) fn run(client: &Client, output: &Output, arguments: &cli::Capture) -> Result<ExitCode, Error> {
    let cli::Capture { filter, write, count, snap } = arguments;
    let blocks = Blocks(client.capture(&filter.join(" "), *snap)?);
    let count = count.unwrap_or(u64::MAX);
    match write.as_deref() {
        None => print(blocks, output, count)?,
        Some(path) if path.as_os_str() == "-" => {
            if io::stdout().is_terminal() {
                return Err(Error::Usage(
                    "standard output is a terminal: name a file, or pipe it to a program",
                ));
            }
            copy(blocks, io::stdout().lock(), count)?;
        }
        Some(path) => {
            let file = File::create(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
            let taken = copy(blocks, file, count)?;
            output.note(&format!("{taken} frames in {}", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the blocks as they come, until so many frames are written, netd ends, or the file's reader does.
fn copy(mut blocks: Blocks<impl Read>, out: impl Write, count: u64) -> Result<u64, Error> {
    let mut out = BufWriter::new(out);
    let mut taken = 0;
    while taken < count
        && let Some(block) = blocks.next().map_err(Error::Capture)?
    {
        out.write_all(&block.bytes).and_then(|()| out.flush()).map_err(Error::Output)?;
        taken += u64::from(block.kind == ENHANCED_PACKET);
    }
    Ok(taken)
}

fn print(mut blocks: Blocks<impl Read>, output: &Output, count: u64) -> Result<(), Error> {
    let mut taken = 0;
    while taken < count
        && let Some(block) = blocks.next().map_err(Error::Capture)?
    {
        match block.kind {
            ENHANCED_PACKET => {
                taken += 1;
                output.line(&line::of_packet(&block.bytes))?;
            }
            INTERFACE_STATISTICS => output.note("some frames were lost: netctl was slower than the network"),
            _ => {}
        }
    }
    Ok(())
}

struct Block {
    kind: u32,
    bytes: Vec<u8>,
}

/// The blocks of a pcapng stream in the machine's own byte order.
struct Blocks<R>(R);

impl<R: Read> Blocks<R> {
    /// The next block; none at the end of the stream.
    fn next(&mut self) -> io::Result<Option<Block>> {
        let mut head = [0; 8];
        match self.0.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [k0, k1, k2, k3, l0, l1, l2, l3] = head;
        let (kind, len) =
            (u32::from_ne_bytes([k0, k1, k2, k3]), u32::from_ne_bytes([l0, l1, l2, l3]) as usize);
        if !(12..=BLOCK_BYTES_MAX).contains(&len) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a block of {len} bytes")));
        }
        let mut bytes = head.to_vec();
        bytes.resize(len, 0);
        self.0.read_exact(&mut bytes[8..])?;
        Ok(Some(Block { kind, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32 + 12).to_ne_bytes();
        [&kind.to_ne_bytes()[..], &len, body, &len].concat()
    }

    #[test]
    fn copy_ends_with_the_frame_that_was_counted() {
        let stream = [block(0x0a0d_0d0a, &[0; 16]), block(6, &[1; 32]), block(6, &[2; 32])].concat();
        let mut out = Vec::new();
        assert_eq!(copy(Blocks(&stream[..]), &mut out, 1).unwrap(), 1);
        assert_eq!(out, stream[..28 + 44]);
    }

    #[test]
    fn block_of_an_impossible_length_is_an_error() {
        let mut stream = block(6, &[0; 4]);
        stream[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(Blocks(&stream[..]).next().is_err());
    }
}
