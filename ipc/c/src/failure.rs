//! Failures: a sentence and a number for C, and the values that say that there is one.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::io;

use netd_ipc::{Error, ErrorKind};
use rustix::io::Errno;

thread_local! {
    static LAST: RefCell<(CString, c_int)> = RefCell::default();
}

/// Why a call failed.
pub(crate) struct Failure {
    errno: Errno,
    text: String,
}

impl Failure {
    /// What C handed over cannot be meant.
    pub(crate) fn invalid(text: impl Into<String>) -> Failure {
        Failure { errno: Errno::INVAL, text: format!("{}: {}", ErrorKind::InvalidInput, text.into()) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let errno = match (&error, error.kind()) {
            (_, Some(kind)) => errno(kind),
            (Error::Io(source), _) => of_io(source),
            (Error::CutShort { .. } | Error::OutcomeUnknown(_), _) => Errno::CONNRESET,
            (Error::NotRunning { .. }, _) => Errno::NOENT,
            (Error::NoPermission { .. }, _) => Errno::ACCESS,
            (Error::Service { .. } | Error::Protocol(_) | Error::Refused { .. }, _) => Errno::PROTO,
        };
        // The library's own words for reading and writing leave the reason to the source.
        let text = match &error {
            Error::Io(source) => source.to_string(),
            error => error.to_string(),
        };
        Failure { errno, text }
    }
}

fn of_io(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// The number that programs know for an error of the interface.
fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Unsupported => Errno::OPNOTSUPP,
        ErrorKind::WouldBlock => Errno::AGAIN,
        ErrorKind::TimedOut => Errno::TIMEDOUT,
        ErrorKind::InvalidInput => Errno::INVAL,
        ErrorKind::AddrInUse => Errno::ADDRINUSE,
        ErrorKind::NotFound => Errno::NOENT,
        ErrorKind::NotConnected => Errno::NOTCONN,
        ErrorKind::Disconnected => Errno::CONNABORTED,
        ErrorKind::NoBufs => Errno::NOBUFS,
        ErrorKind::Internal => Errno::IO,
        ErrorKind::DeviceUnavailable => Errno::NETDOWN,
        ErrorKind::InvalidSocket | ErrorKind::InvalidListener => Errno::BADF,
        ErrorKind::DevnetDisabled | ErrorKind::PolicyDenied => Errno::ACCESS,
        ErrorKind::QuotaExceeded => Errno::DQUOT,
        ErrorKind::ConnectionRefused => Errno::CONNREFUSED,
        ErrorKind::ConnectionReset => Errno::CONNRESET,
        ErrorKind::Unreachable => Errno::HOSTUNREACH,
    }
}

/// Remembers why, for `netd_error` and `netd_errno`.
fn fail(failure: Failure) {
    let text: Vec<u8> = failure.text.into_bytes().into_iter().filter(|byte| *byte != 0).collect();
    // Without NUL bytes it always is a string of C.
    LAST.set((CString::new(text).unwrap_or_default(), failure.errno.raw_os_error()));
}

/// A handle, or NULL.
pub(crate) fn handle<T>(made: Result<T, impl Into<Failure>>) -> *mut T {
    made.map_or_else(
        |error| (fail(error.into()), std::ptr::null_mut()).1,
        |made| Box::into_raw(Box::new(made)),
    )
}

/// A count, or -1.
pub(crate) fn count(done: Result<usize, impl Into<Failure>>) -> isize {
    done.map_or_else(|error| (fail(error.into()), -1).1, |count| isize::try_from(count).unwrap_or(isize::MAX))
}

/// A number, or -1.
pub(crate) fn number(done: Result<u64, impl Into<Failure>>) -> i64 {
    done.map_or_else(|error| (fail(error.into()), -1).1, |number| i64::try_from(number).unwrap_or(i64::MAX))
}

/// 0, or -1.
pub(crate) fn status(done: Result<(), impl Into<Failure>>) -> c_int {
    done.map_or_else(|error| (fail(error.into()), -1).1, |()| 0)
}

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_error() -> *const c_char {
    LAST.with_borrow(|(text, _)| text.as_ptr())
}

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_errno() -> c_int {
    LAST.with_borrow(|(_, errno)| *errno)
}
