//! Fuzzes the decoding of values in Redis.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustered_sessions::fuzzing::envelope(bytes));
