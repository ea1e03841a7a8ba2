//! Fuzzes the decoding of payloads.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustered_sessions::fuzzing::payload(bytes));
