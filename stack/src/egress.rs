//! Where frames go.

/// The device's transmit side, as the stack sees it: the daemon's over a driver's queue, a test's over a `Vec`.
pub trait Egress {
    /// Whether a buffer is free now.
    fn ready(&self) -> bool;

    /// Lends a buffer of exactly `len` bytes. `fill` writes an Ethernet frame and returns true to send it, false to give the
    /// buffer back. Returns false when no buffer was free (then `fill` was not called) or when `fill` returned false.
    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool;
}
