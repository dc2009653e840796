//! Fuzz target: see `plimsoll_fuzz::wire::protobuf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plimsoll_fuzz::wire::protobuf(data));
