#![no_main]
//! See `netd_fuzz::virtio`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::virtio::virtio_modern(data));
