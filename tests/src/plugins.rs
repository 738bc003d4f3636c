//! Backends as libraries: those that cargo builds as examples, and those in C that a test compiles.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library of the backend `name`, an example of the crate `package`. `cargo test` builds the examples of the crates
/// it tests; `cargo test --test ...` does not.
///
/// # Panics
/// Where it was not built, with the command that builds it.
#[must_use]
pub fn example(package: &str, name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test knows where it lies");
    let profile = exe.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps");
    let file = profile.join("examples").join(bheval_host::file_name(name));
    let flag = if profile.ends_with("debug") { "" } else { " --release" };
    assert!(
        file.is_file(),
        "{} is not there; build it with `cargo build{flag} -p {package} --example bheval_{name}`",
        file.display()
    );
    file
}

/// Compiles `tests/plugins/<name>.c` into a library in `folder`.
///
/// # Panics
/// Where there is no C compiler `cc`, or it refuses the file.
#[must_use]
pub fn compiled(folder: &Path, name: &str) -> PathBuf {
    compiled_from(folder, name, &Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{name}.c")))
}

/// Compiles a C file into the library of the backend `name` in `folder`, as the how-to says.
///
/// # Panics
/// Where there is no C compiler `cc`, or it refuses the file.
#[must_use]
pub fn compiled_from(folder: &Path, name: &str, source: &Path) -> PathBuf {
    let out = folder.join(bheval_host::file_name(name));
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC", "-I"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends/abi/include")).arg(source);
    let output = command
        .arg("-o")
        .arg(&out)
        .args(["-lm", "-lpthread"])
        .output()
        .expect("a C compiler, `cc`, is there");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    out
}
