#![no_main]
//! See `netd_fuzz::sntp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::sntp::sntp(data));
