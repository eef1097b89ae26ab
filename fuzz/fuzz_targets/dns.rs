#![no_main]
//! See `netd_fuzz::dns`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::dns::dns(data));
