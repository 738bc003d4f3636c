//! Everything between a file and a token: what data sets are, where they lie, how they are fetched and read, and how
//! text becomes ids.
//!
//! Everything that comes from outside is checked here, once: a file against its pinned size and SHA-256, an
//! archive and a line against fixed limits. What leaves this crate can be trusted to be the pinned bytes, but for
//! [`locate::DataSet::read_packed`], whose content its reader must check.

pub mod archive;
pub mod atomic;
pub mod content;
pub mod digest;
pub mod encode;
mod error;
pub mod fetch;
pub mod jsonl;
pub mod lines;
pub mod locate;
pub mod manifest;
pub mod masked;
mod plain_path;
pub mod protocol;
pub mod sentences;
pub mod tokenizer;

pub use error::Error;
