//! What clients of netd see: the interface `io.netd`, its types and errors, and a blocking client library.
//!
//! ```no_run
//! use std::io::{Read, Write};
//!
//! let mut stream = netd_ipc::TcpStream::connect("echo.example:7")?;
//! stream.write_all(b"hello")?;
//! stream.shutdown_write()?;
//! let mut answer = Vec::new();
//! // An answer that was cut short is an error here, and never a short answer.
//! stream.read_to_end(&mut answer)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For tokio there is a module `tokio` (feature `tokio`), for C the crate in `c/`, for Python the module in `python/`.
//!
//! The wire side is here as well, for netd itself: [`framing`], [`passing`], [`call`], [`datagram`], [`frames`], [`accepted`].

#![forbid(unsafe_code)]

pub mod accepted;
pub mod call;
pub mod client;
pub mod datagram;
pub mod error;
pub mod frames;
pub mod framing;
pub mod passing;
pub mod policy;
pub mod server;
pub mod services;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod types;

pub use client::{
    Client, Event, Frames, Grant, Incoming, Received, SOCKET_VARIABLE, SYSTEM_SOCKET, TcpListener, TcpStream,
    ToEndpoints, UdpSocket, resolve, user_socket,
};
pub use error::{Error, ErrorKind};
pub use policy::AuditReport;
pub use types::*;
