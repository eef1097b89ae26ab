//! The service bus: who announces itself, and who opens streams.

mod discovery;
mod mux;

pub use discovery::discovery;
pub use mux::mux;
