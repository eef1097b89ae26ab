//! What clients of netd see: the interface `io.netd`, its types and errors, and a blocking client library.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::net::SocketAddr;
//!
//! let client = netd_ipc::Client::connect_default()?;
//! let mut stream = client.tcp_connect(SocketAddr::from(([192, 0, 2, 1], 7)), None)?;
//! stream.write_all(b"hello")?;
//! stream.shutdown_write()?;
//! let mut answer = Vec::new();
//! // An answer that was cut short is an error here, and never a short answer.
//! stream.read_to_end(&mut answer)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The wire side is here as well, for netd itself: [`framing`], [`passing`], [`call`], [`datagram`], [`accepted`].

#![forbid(unsafe_code)]

pub mod accepted;
pub mod call;
pub mod client;
pub mod datagram;
pub mod error;
pub mod framing;
pub mod passing;
pub mod types;

pub use client::{Client, SYSTEM_SOCKET, TcpListener, TcpStream, UdpSocket, user_socket};
pub use error::{Error, ErrorKind};
pub use types::*;
