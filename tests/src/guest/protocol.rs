//! The conversation between the harness and the agent in a guest, over one byte stream (a virtio-serial port).
//!
//! A frame is: length of what follows the length field (u32), kind (u8), process number (u32), payload; little endian.
//! The host numbers the processes that it starts; every frame names the process that it belongs to, so that several
//! programs run and stream their output at once. The agent opens the conversation with [`Event::Hello`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

/// The name of the virtio-serial port that carries the conversation.
pub const PORT_NAME: &str = "netd.agent";
/// Payload of one frame at most. Pipes hand over 64 KiB at once; more would only delay the frames of other programs.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Kind and process number.
const HEADER_BYTES: usize = 5;

/// A program to start in the guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Spawn {
    /// Program and arguments; the program is looked up in the agent's PATH.
    pub argv: Vec<String>,
    /// Environment beside the agent's own.
    pub env: BTreeMap<String, String>,
    /// User and group to run as; root when absent. Supplementary groups are dropped.
    pub uid: Option<u32>,
}

/// What the host asks of the agent.
#[derive(Clone, Debug)]
pub enum Request {
    /// Start a program.
    Spawn(Spawn),
    /// Bytes for the program's standard input.
    Stdin(Vec<u8>),
    /// No more input.
    StdinEnd,
    /// Send a signal, by number.
    Signal(i32),
}

/// What the agent tells the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest is up (process number 0).
    Hello,
    /// The program runs, under this process id.
    Started(u32),
    /// The program could not be started; why.
    Refused(String),
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// It returned this code.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
}

/// One direction's messages, as they go into and come out of frames.
pub trait Message: Sized {
    /// The frame's kind and payload.
    fn encode(&self) -> io::Result<(u8, Vec<u8>)>;
    /// The message in a frame.
    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Self>;
}

impl Message for Request {
    fn encode(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Request::Spawn(spawn) => (1, serde_json::to_vec(spawn)?),
            Request::Stdin(bytes) => (2, bytes.clone()),
            Request::StdinEnd => (3, Vec::new()),
            Request::Signal(number) => (4, number.to_le_bytes().to_vec()),
        })
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Request> {
        match kind {
            1 => Ok(Request::Spawn(serde_json::from_slice(&payload)?)),
            2 => Ok(Request::Stdin(payload)),
            3 => Ok(Request::StdinEnd),
            4 => Ok(Request::Signal(number(&payload)?)),
            _ => Err(invalid(format!("unknown request {kind}"))),
        }
    }
}

impl Message for Event {
    fn encode(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Event::Hello => (101, Vec::new()),
            Event::Started(pid) => (102, pid.cast_signed().to_le_bytes().to_vec()),
            Event::Refused(why) => (103, why.clone().into_bytes()),
            Event::Stdout(bytes) => (104, bytes.clone()),
            Event::Stderr(bytes) => (105, bytes.clone()),
            Event::Exited(code) => (106, code.to_le_bytes().to_vec()),
            Event::Signaled(signal) => (107, signal.to_le_bytes().to_vec()),
        })
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Event> {
        match kind {
            101 => Ok(Event::Hello),
            102 => Ok(Event::Started(number(&payload)?.cast_unsigned())),
            103 => Ok(Event::Refused(String::from_utf8_lossy(&payload).into_owned())),
            104 => Ok(Event::Stdout(payload)),
            105 => Ok(Event::Stderr(payload)),
            106 => Ok(Event::Exited(number(&payload)?)),
            107 => Ok(Event::Signaled(number(&payload)?)),
            _ => Err(invalid(format!("unknown event {kind}"))),
        }
    }
}

/// Writes one frame, in one write so that frames of several threads behind one lock stay whole.
pub fn send<M: Message>(stream: &mut impl Write, process: u32, message: &M) -> io::Result<()> {
    let (kind, payload) = message.encode()?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("a payload of {} bytes; at most {PAYLOAD_BYTES_MAX}", payload.len())));
    }
    let length = u32::try_from(HEADER_BYTES + payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(4 + HEADER_BYTES + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(&process.to_le_bytes());
    frame.extend_from_slice(&payload);
    stream.write_all(&frame)?;
    stream.flush()
}

/// Reads one frame; `UnexpectedEof` when the other side is gone.
pub fn receive<M: Message>(stream: &mut impl Read) -> io::Result<(u32, M)> {
    let mut head = [0; 4 + HEADER_BYTES];
    stream.read_exact(&mut head)?;
    let [l0, l1, l2, l3, kind, p0, p1, p2, p3] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let payload_bytes = length.checked_sub(HEADER_BYTES).filter(|bytes| *bytes <= PAYLOAD_BYTES_MAX);
    let payload_bytes = payload_bytes.ok_or_else(|| invalid(format!("a frame of {length} bytes")))?;
    let mut payload = vec![0; payload_bytes];
    stream.read_exact(&mut payload)?;
    Ok((u32::from_le_bytes([p0, p1, p2, p3]), M::decode(kind, payload)?))
}

fn number(payload: &[u8]) -> io::Result<i32> {
    let bytes = payload.try_into().map_err(|_| invalid(format!("a number of {} bytes", payload.len())))?;
    Ok(i32::from_le_bytes(bytes))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_sent_back_to_back_arrive_whole_and_in_order() {
        let events = [
            (0, Event::Hello),
            (7, Event::Started(u32::MAX)),
            (7, Event::Stdout(vec![0xa5; PAYLOAD_BYTES_MAX])),
            (8, Event::Refused("no such file".to_owned())),
            (7, Event::Exited(-1)),
        ];
        let mut wire = Vec::new();
        for (process, event) in &events {
            send(&mut wire, *process, event).unwrap();
        }
        let mut wire = wire.as_slice();
        for expected in events {
            assert_eq!(receive::<Event>(&mut wire).unwrap(), expected);
        }
        assert_eq!(receive::<Event>(&mut wire).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn frame_longer_than_the_limit_is_refused_before_memory_is_taken() {
        let mut wire: &[u8] = &[0xff, 0xff, 0xff, 0x7f, 104, 1, 0, 0, 0];
        assert_eq!(receive::<Event>(&mut wire).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let oversized = Event::Stdout(vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(send(&mut Vec::new(), 1, &oversized).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
