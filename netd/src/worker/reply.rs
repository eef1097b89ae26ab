//! The stack's errors as the interface names them.

use netd_ipc::ErrorKind;

use crate::command::{Failure, Reply};

/// The stack's error as the interface names it.
pub(super) fn error_reply(error: &netd_stack::Error) -> Reply {
    failure(error).into()
}

/// The same, not yet a reply.
pub(super) fn failure(error: &netd_stack::Error) -> Failure {
    use netd_stack::Error as E;
    let kind = match error {
        E::InvalidMac { .. } | E::InvalidMtu { .. } | E::InvalidPrefix { .. } => ErrorKind::Internal,
        E::AddrNotAvailable { .. }
        | E::InvalidAddress { .. }
        | E::InvalidInput { .. }
        | E::MessageTooLong { .. } => ErrorKind::InvalidInput,
        E::Unsupported { .. } => ErrorKind::Unsupported,
        E::InvalidSocket => ErrorKind::InvalidSocket,
        E::InvalidListener => ErrorKind::InvalidListener,
        E::AddrInUse { .. } => ErrorKind::AddrInUse,
        E::PortsExhausted | E::NoBuffers => ErrorKind::NoBufs,
        E::QuotaExceeded { .. } => ErrorKind::QuotaExceeded,
        E::Unreachable { .. } | E::HostUnreachable { .. } => ErrorKind::Unreachable,
        E::TimedOut => ErrorKind::TimedOut,
        E::NotConnected { .. } => ErrorKind::NotConnected,
        E::DeviceUnavailable => ErrorKind::DeviceUnavailable,
    };
    Failure(kind, error.to_string())
}
