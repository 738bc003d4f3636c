//! Everything between a file and a token: manifests, bounded readers, archives, tokenisation.

pub mod encode;
pub mod protocol;
pub mod tokenizer;
