//! The onnxruntime library that tests use, and ONNX files made by hand.

mod proto;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub use proto::{Attribute, Model, Tensor, Value, field, number};

/// The library: what `ORT_DYLIB_PATH` names, else the pinned one, which `.ci/onnxruntime` gets from the registry once.
///
/// # Panics
/// Where it can't be had: a test that needs it must not pass without it.
pub fn onnxruntime() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| match std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()) {
        Some(named) => named.into(),
        None => pinned(),
    })
}

fn pinned() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/onnxruntime");
    let output = Command::new("bash").arg(&script).output().expect("a shell");
    assert!(
        output.status.success(),
        "tests of ONNX models need the onnxruntime library: run .ci/onnxruntime where a Python registry can be reached, or \
         set ORT_DYLIB_PATH to the library of an installed onnxruntime, 1.17 or newer\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8").trim().into()
}
