#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bheval_tests::fuzzing::manifest(bytes));
