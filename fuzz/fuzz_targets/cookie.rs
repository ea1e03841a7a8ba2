//! Any bytes as a `Cookie` header.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustered_sessions::fuzzing::cookie(bytes));
