//! Fuzz target: see `plimsoll_fuzz::wire::http1_response`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plimsoll_fuzz::wire::http1_response(data));
