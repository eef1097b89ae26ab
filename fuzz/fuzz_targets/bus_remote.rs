#![no_main]
//! See `netd_fuzz::bus`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::bus::remote(data));
