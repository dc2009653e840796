//! Fuzz target: see `plimsoll_fuzz::wire::http1_fields`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plimsoll_fuzz::wire::http1_fields(data));
