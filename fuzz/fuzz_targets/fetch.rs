#![no_main]
//! See `netd_fuzz::fetch`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::fetch::fetch(data));
