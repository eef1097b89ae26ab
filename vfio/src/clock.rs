//! Whether the kernel takes its own clock for right: adjtimex(2), which no safe library offers.
//!
//! It has nothing to do with PCI. It stands in this crate because here is where system calls are made by hand.

use std::io;
use std::mem::MaybeUninit;

/// Whether the kernel's clock is synchronised, as whoever disciplines it told the kernel.
///
/// False is also what a machine says on which nobody tells the kernel: ntpd, chronyd and systemd-timesyncd do.
///
/// # Errors
///
/// The system call failed, which it does not unless it is forbidden (a seccomp filter).
pub fn kernel_is_synchronised() -> io::Result<bool> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: adjtimex(2) reads and writes one `timex` through the pointer, which is valid for both and aligned, and keeps no
    // copy of it. Its `modes` are 0, so nothing is changed, and no right is needed.
    let state = unsafe { libc::adjtimex(timex.as_mut_ptr()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `timex` is integers only, for which zeros, and whatever the kernel wrote over them, are values.
    let status = unsafe { timex.assume_init() }.status;
    Ok(state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_says_the_same_as_the_systems_own_tool() {
        let ours = kernel_is_synchronised().unwrap();
        // util-linux and systemd have no program that prints the bits; the python interpreter can call the same function.
        let script = "import ctypes; b = (ctypes.c_long * 64)(); s = ctypes.CDLL(None).adjtimex(b); \
                      print(s != 5 and not ctypes.cast(ctypes.byref(b, 40), ctypes.POINTER(ctypes.c_int))[0] & 0x40)";
        let said = std::process::Command::new("python3").args(["-c", script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim().to_lowercase(), ours.to_string());
    }
}
