//! From text files to a tokenizer and to token shards.
//!
//! [`Corpus::open`] gives the tokens of a finished corpus, [`Windows`] the order that training sees them in.

pub mod bpe;
pub mod build;
mod corpus;
pub mod coverage;
mod error;
mod index;
mod map;
pub mod mixture;
mod parallel;
mod permutation;
pub mod plan;
pub mod record;
mod sample;
mod shards;
pub mod source;
pub mod sources;
mod split;
mod survey;
mod target;
mod walk;
mod windows;

pub use corpus::Corpus;
pub use error::Error;
pub use index::Document;
pub use split::Split;
pub use target::Target;
pub use walk::Effort;
pub use windows::{Offset, Windows};
