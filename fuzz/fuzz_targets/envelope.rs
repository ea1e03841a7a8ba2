//! Fuzzes the decoding of the binary form of a record.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustered_sessions::fuzzing::envelope(bytes));
