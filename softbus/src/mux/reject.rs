//! Why a frame is refused, by the names that are fixed.

use core::fmt;

/// Why a frame is refused. On the wire (RST) a number, in logs and counters a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reject {
    /// A frame longer than 32 KiB.
    FrameOversize = 1,
    /// A frame that the stream's state does not allow, or that makes no sense at all.
    InvalidStreamStateTransition = 2,
    /// More data than credit, or more credit than a stream can have.
    WindowCredit = 3,
    /// A frame of a stream that was never opened.
    UnknownStreamFrame = 4,
    /// A frame before the session was ready.
    UnauthenticatedSession = 5,
    /// One stream too many.
    StreamLimitExceeded = 6,
    /// The sender has a stream of this name already.
    DuplicateStreamName = 7,
    /// A name of no bytes, of more than 64, or that is no text.
    InvalidStreamName = 8,
}

impl Reject {
    /// All of them, by number.
    pub const ALL: [Reject; 8] = [
        Reject::FrameOversize,
        Reject::InvalidStreamStateTransition,
        Reject::WindowCredit,
        Reject::UnknownStreamFrame,
        Reject::UnauthenticatedSession,
        Reject::StreamLimitExceeded,
        Reject::DuplicateStreamName,
        Reject::InvalidStreamName,
    ];

    /// The name that is fixed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reject::FrameOversize => "mux.reject.frame_oversize",
            Reject::InvalidStreamStateTransition => "mux.reject.invalid_stream_state_transition",
            Reject::WindowCredit => "mux.reject.window_credit_overflow_or_underflow",
            Reject::UnknownStreamFrame => "mux.reject.unknown_stream_frame",
            Reject::UnauthenticatedSession => "mux.reject.unauthenticated_session",
            Reject::StreamLimitExceeded => "mux.reject.stream_limit_exceeded",
            Reject::DuplicateStreamName => "mux.reject.duplicate_stream_name",
            Reject::InvalidStreamName => "mux.reject.invalid_stream_name",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
