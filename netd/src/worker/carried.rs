//! What was carried between clients' descriptors and the stack: payload, and what the kernel copied for it.

use std::ops::AddAssign;

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) payload_bytes: u64,
    /// Through the descriptor: payload, and the headers of datagrams.
    pub(super) descriptor_bytes: u64,
}

/// Both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) received: Flow,
    pub(super) sent: Flow,
}

impl Flow {
    /// Bytes of a stream.
    pub(super) fn stream(bytes: u64) -> Flow {
        Flow { payload_bytes: bytes, descriptor_bytes: bytes }
    }

    /// Datagrams, each behind a header.
    pub(super) fn datagrams(bytes: u64, count: u64) -> Flow {
        Flow::messages(bytes, count * netd_ipc::datagram::HEADER_BYTES as u64)
    }

    /// What raw frames carry, each behind its header.
    pub(super) fn frames(bytes: u64, count: u64) -> Flow {
        Flow::messages(bytes, count * netd_ipc::frames::HEADER_BYTES as u64)
    }

    fn messages(payload_bytes: u64, header_bytes: u64) -> Flow {
        Flow { payload_bytes, descriptor_bytes: payload_bytes + header_bytes }
    }
}

impl AddAssign for Carried {
    fn add_assign(&mut self, other: Carried) {
        for (ours, theirs) in [(&mut self.received, other.received), (&mut self.sent, other.sent)] {
            ours.payload_bytes += theirs.payload_bytes;
            ours.descriptor_bytes += theirs.descriptor_bytes;
        }
    }
}
