#![no_main]
//! See `netd_fuzz::ipc`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::ipc::ipc_reply(data));
