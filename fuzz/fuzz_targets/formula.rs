//! Fuzz target: see `plimsoll_fuzz::formula::formula`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plimsoll_fuzz::formula::formula(data));
