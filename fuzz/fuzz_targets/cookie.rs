//! Fuzzes the verification of `Cookie` headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustered_sessions::fuzzing::cookie(bytes));
