#![no_main]

use std::sync::Once;

static QUIET: Once = Once::new();

// libFuzzer's hook ends the process at any panic, even one that `bheval_data::tokenizer` contains. Without the hook a
// panic that leaves the body is still caught and reported by libfuzzer-sys.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    bheval_tests::fuzzing::tokenizer(bytes);
});
