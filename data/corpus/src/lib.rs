//! From text files to a tokenizer and to token shards.
//!
//! [`Corpus::open`] gives the tokens of a finished corpus, [`Windows`] the order that training sees them in.

mod corpus;
mod error;
mod index;
mod map;
mod permutation;
pub mod record;
pub mod source;
mod split;
mod windows;

pub use corpus::Corpus;
pub use error::Error;
pub use index::Document;
pub use split::Split;
pub use windows::{Offset, Windows};
