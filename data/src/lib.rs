//! Data sets for bheval: what they are, where they lie, how they are fetched, and how they are read.
//!
//! Everything that comes from outside is checked here, once: a file against its pinned size and SHA-256, an
//! archive and a line against fixed limits. What leaves this crate can be trusted to be the pinned bytes.

pub mod archive;
pub mod atomic;
pub mod digest;
mod error;
pub mod fetch;
pub mod jsonl;
pub mod lines;
pub mod locate;
pub mod manifest;
mod plain_path;

pub use error::Error;
