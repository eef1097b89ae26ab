//! One stream: two halves with a buffer and credit each.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::config::{Config, INITIAL_CREDIT_BYTES, STREAM_BYTES_MAX};
use super::frame::ResetCode;
use super::reject::Reject;
use crate::name::StreamName;

/// Whether the other side knows of the stream, and wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// We opened it; no answer yet. Data may go out, as far as the initial credit reaches.
    Asked,
    /// The peer opened it; our user has not said anything.
    Offered,
    /// Both want it.
    Agreed,
}

/// A half of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Open,
    /// No more will be added to what is buffered.
    Ending,
    /// CLOSE was sent, or read by the user.
    Closed,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: StreamName,
    pub(super) priority: u8,
    pub(super) opened_here: bool,
    pub(super) agreement: Agreement,
    pub(super) sending: Half,
    pub(super) receiving: Half,
    /// It ended, and the user has not been told yet.
    pub(super) reset: Option<ResetCode>,
    unsent: VecDeque<u8>,
    /// What the peer still takes.
    credit: usize,
    unread: VecDeque<u8>,
    /// What the peer may still send.
    granted: usize,
    /// The user had to wait with writing.
    pub(super) starved: bool,
    /// Events and frames that are queued, so that each is queued once.
    pub(super) queued: Queued,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queued {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) credit: bool,
    pub(super) data: bool,
}

impl Stream {
    pub(super) fn new(name: StreamName, priority: u8, opened_here: bool) -> Stream {
        Stream {
            name,
            priority,
            opened_here,
            agreement: if opened_here { Agreement::Asked } else { Agreement::Offered },
            sending: Half::Open,
            receiving: Half::Open,
            reset: None,
            unsent: VecDeque::new(),
            credit: INITIAL_CREDIT_BYTES,
            unread: VecDeque::new(),
            granted: INITIAL_CREDIT_BYTES,
            starved: false,
            queued: Queued::default(),
        }
    }

    /// The user's bytes, as many as there is room for.
    pub(super) fn write(&mut self, bytes: &[u8], config: &Config) -> usize {
        let room = config.send_bytes.saturating_sub(self.unsent.len());
        let len = bytes.len().min(room);
        self.unsent.extend(&bytes[..len]);
        self.starved |= len < bytes.len();
        len
    }

    /// Whether the user, who had to wait, may go on: half of the room is there again.
    pub(super) fn relieved(&self, config: &Config) -> bool {
        self.starved && self.unsent.len() <= config.send_bytes / 2
    }

    /// Whether there is something for [`Stream::next_data`], or a CLOSE.
    pub(super) fn has_output(&self) -> bool {
        match self.unsent.is_empty() {
            true => self.sending == Half::Ending,
            false => self.credit > 0,
        }
    }

    /// The next bytes for the peer, as far as its credit reaches.
    pub(super) fn next_data(&mut self, config: &Config) -> Vec<u8> {
        let len = self.unsent.len().min(self.credit).min(config.data_bytes);
        self.credit -= len;
        take(&mut self.unsent, len)
    }

    /// The peer has room for more.
    pub(super) fn add_credit(&mut self, more: u32) -> Result<(), Reject> {
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        let credit = self.credit.saturating_add(more);
        if credit > STREAM_BYTES_MAX {
            return Err(Reject::WindowCredit);
        }
        self.credit = credit;
        Ok(())
    }

    /// Bytes of the peer, which it may send only as far as our credit reaches.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        if self.receiving != Half::Open {
            return Err(Reject::InvalidStreamStateTransition);
        }
        self.granted = self.granted.checked_sub(bytes.len()).ok_or(Reject::WindowCredit)?;
        self.unread.extend(bytes);
        Ok(())
    }

    /// What the user reads.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.unread.len().min(buffer.len());
        let (front, back) = self.unread.as_slices();
        let in_front = len.min(front.len());
        buffer[..in_front].copy_from_slice(&front[..in_front]);
        buffer[in_front..len].copy_from_slice(&back[..len - in_front]);
        self.unread.drain(..len);
        len
    }

    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    pub(super) fn buffered(&self) -> usize {
        self.unread.len() + self.unsent.len()
    }

    /// Credit that the peer could be given. Worth a frame only when it is a quarter of what we buffer.
    pub(super) fn credit_due(&self, config: &Config) -> usize {
        let wanted = self.agreement != Agreement::Offered && self.receiving == Half::Open;
        let due = config.receive_bytes.saturating_sub(self.unread.len() + self.granted);
        if wanted && due >= config.receive_bytes / 4 { due } else { 0 }
    }

    pub(super) fn grant(&mut self, bytes: usize) {
        self.granted += bytes;
    }

    /// The stream is over in both directions, and the user has read to the end.
    pub(super) fn is_done(&self) -> bool {
        self.sending == Half::Closed && self.receiving == Half::Closed
    }

    /// The stream ends here.
    pub(super) fn abort(&mut self, code: ResetCode) {
        self.reset = Some(code);
        self.unsent = VecDeque::new();
        self.unread = VecDeque::new();
        (self.sending, self.receiving) = (Half::Closed, Half::Closed);
    }
}

fn take(buffer: &mut VecDeque<u8>, len: usize) -> Vec<u8> {
    let (front, back) = buffer.as_slices();
    let in_front = len.min(front.len());
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(&front[..in_front]);
    bytes.extend(&back[..len - in_front]);
    buffer.drain(..len);
    bytes
}
