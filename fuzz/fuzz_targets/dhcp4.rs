#![no_main]
//! See `netd_fuzz::stack`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::stack::dhcp4(data));
