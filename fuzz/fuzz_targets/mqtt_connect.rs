//! Fuzz target: see `plimsoll_fuzz::wire::mqtt_connect`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plimsoll_fuzz::wire::mqtt_connect(data));
