#![no_main]
//! See `netd_fuzz::daemon`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::daemon::config(data));
