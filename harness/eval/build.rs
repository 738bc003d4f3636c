//! Names the sources that this binary was built from, so that records of another build are never taken for its own: a
//! version number stays the same while code changes under it.
#![allow(clippy::print_stdout)] // A build script talks to cargo on stdout.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What can change a score: code, manifests, and the versions of everything it is built with.
const PARTS: [&str; 26] = [
    "Cargo.lock",
    "Cargo.toml",
    "backends/abi/Cargo.toml",
    "backends/abi/src",
    "backends/candle/Cargo.toml",
    "backends/candle/src",
    "backends/engine/Cargo.toml",
    "backends/engine/src",
    "backends/host/Cargo.toml",
    "backends/host/src",
    "backends/kernels/Cargo.toml",
    "backends/kernels/src",
    "backends/ngram/Cargo.toml",
    "backends/ngram/src",
    "backends/onnx/Cargo.toml",
    "backends/onnx/src",
    "backends/onnx-file/Cargo.toml",
    "backends/onnx-file/src",
    "data/Cargo.toml",
    "data/src",
    "data/manifests",
    "data/python_json/Cargo.toml",
    "data/python_json/src",
    "harness",
    "tasks/Cargo.toml",
    "tasks/src",
];

fn main() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..");
    let mut files = Vec::new();
    for part in PARTS {
        println!("cargo::rerun-if-changed={}", root.join(part).display());
        collect(&root.join(part), &mut files);
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        let bytes = fs::read(file).unwrap_or_default();
        let name = file.strip_prefix(&root).unwrap_or(file).to_string_lossy().replace('\\', "/");
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(&bytes);
    }
    let digest: String = hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
    println!("cargo::rustc-env=BHEVAL_SOURCE={digest}");
}

/// Every file below a path.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    match fs::read_dir(path) {
        Ok(entries) => entries.filter_map(Result::ok).for_each(|entry| collect(&entry.path(), files)),
        Err(_) if path.is_file() => files.push(path.to_path_buf()),
        Err(_) => {}
    }
}
