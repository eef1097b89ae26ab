//! The service bus: who announces itself, who opens streams, and who asks what on them.

mod discovery;
mod mux;
mod remote;

pub use discovery::discovery;
pub use mux::mux;
pub use remote::remote;
