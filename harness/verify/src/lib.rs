//! The conformance suite for those who write backends: whether a backend keeps the contract of `bheval-abi`, with the
//! evidence where it does not.
//!
//! Each check is a small function over a [`Subject`]. Questions are token ids drawn at random from a fixed seed, so any
//! vocabulary will do and no tokenizer is needed. A backend under test may crash, hang or end the process: [`child`] runs
//! a check in a process of its own.

mod ask;
mod checks;
pub mod child;
mod corpus;
mod memory;
mod random;
mod raw;
mod rejection;
mod subject;
mod trees;
mod unload;
mod verdict;

pub use checks::{CHECKS, Check, EXIT, OPENS, UNLOAD};
pub use subject::Subject;
pub use unload::unload;
pub use verdict::{Outcome, Verdict};
