//! What the whole-program tests share: where the data and the golden values lie, and naive models to judge others by.

use std::path::PathBuf;

pub mod fuzzing;
pub mod onnx;
pub mod peers;
pub mod plugins;
pub mod recurrent;
pub mod reference;

/// The folder of golden references.
///
/// # Panics
/// Where `BHEVAL_GOLDEN` names no folder: a test that needs it must not pass without it.
#[must_use]
pub fn golden() -> PathBuf {
    folder("BHEVAL_GOLDEN", "the golden references")
}

/// The folder of benchmark data.
///
/// # Panics
/// Where `BHEVAL_DATA` names no folder: a test that needs it must not pass without it.
#[must_use]
pub fn data() -> PathBuf {
    folder("BHEVAL_DATA", "the benchmark data")
}

/// The folder of small trained models.
///
/// # Panics
/// Where `BHEVAL_MODELS` names no folder: a test that needs it must not pass without it.
#[must_use]
pub fn models() -> PathBuf {
    folder("BHEVAL_MODELS", "the small trained models")
}

fn folder(variable: &str, what: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    match path {
        Some(path) if path.is_dir() => path,
        Some(path) => panic!("{variable} is {}, which is not a folder; it must hold {what}", path.display()),
        None => panic!("{variable} is not set; run the tests with cargo, or set it to the folder of {what}"),
    }
}
