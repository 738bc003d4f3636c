//! A worker with the tests' backend linked in, for `tests/isolated.rs`.
#![allow(unreachable_pub)]

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::process::ExitCode;

fn main() -> ExitCode {
    match bheval_host::serve(&[&fake::TABLE]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}
