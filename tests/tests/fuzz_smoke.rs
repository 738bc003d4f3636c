//! Every fuzz target by random mutation, under stable: some thousand inputs each, the same in every run.
//!
//! `BHEVAL_FUZZ_SECONDS` makes each target run that long, `BHEVAL_FUZZ_NUMBER` chooses other inputs. Under coverage
//! guidance the same targets run with cargo-fuzz; see `tests/fuzz/run.sh`.
#![allow(unsafe_code)] // An allocator with a limit; each block states what it relies on.
#![allow(clippy::print_stderr)] // One line for each target is what a run is asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bheval_tests::fuzzing::{self, Budget};

/// The most memory that all targets together may hold. Inputs are 16 KiB and the largest bound of a reader is 256 MiB.
const LIMIT: usize = 1 << 30;

/// The system's allocator, which has no more than [`LIMIT`] to give: what asks for more ends the process, and the input
/// lies where [`fuzzing::drive`] put it.
struct Limited;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Limited = Limited;

// SAFETY: every call is passed on to the system's allocator or answered with null, which the trait allows.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if HELD.fetch_add(layout.size(), Ordering::Relaxed).saturating_add(layout.size()) > LIMIT {
            HELD.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's guarantees, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's guarantees, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

/// A number from the environment; what is set and is none must not pass as if it were not set.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is not a whole number")))
}

fn smoke(target: &str, body: fn(&[u8]), inputs: u64) {
    let budget = setting("BHEVAL_FUZZ_SECONDS").map(Duration::from_secs);
    let budget = budget.map_or(Budget::Inputs(inputs), Budget::Time);
    let artifacts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let number = setting("BHEVAL_FUZZ_NUMBER").unwrap_or(0);
    let driven = fuzzing::drive(target, body, budget, number, &artifacts);
    eprintln!("{target}: {} executions in {:.1} s", driven.inputs, driven.took.as_secs_f64());
}

#[test]
fn jsonl() {
    smoke("jsonl", fuzzing::jsonl, 50_000);
}

#[test]
fn lines() {
    smoke("lines", fuzzing::lines, 50_000);
}

#[test]
fn archive() {
    smoke("archive", fuzzing::archive, 20_000);
}

#[test]
fn manifest() {
    smoke("manifest", fuzzing::manifest, 50_000);
}

#[test]
fn safetensors() {
    smoke("safetensors", fuzzing::safetensors, 20_000);
}

#[test]
fn forest() {
    smoke("forest", fuzzing::forest, 3_000);
}

#[test]
fn records() {
    smoke("records", fuzzing::records, 10_000);
}

#[test]
fn tokenizer() {
    smoke("tokenizer", fuzzing::tokenizer, 20_000);
}
