#![no_main]
//! See `netd_fuzz::policy`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::policy::client_hello(data));
