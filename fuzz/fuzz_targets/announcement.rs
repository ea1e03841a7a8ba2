//! Fuzzes the interpretation of announcements.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustered_sessions::fuzzing::announcement(bytes));
