//! One command a file.

pub(crate) mod backends;
pub(crate) mod corpus;
pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod score;
pub(crate) mod tasks;
pub(crate) mod text;
pub(crate) mod tokenizer;
pub(crate) mod train;
pub(crate) mod train_ngram;
pub(crate) mod verify;
pub(crate) mod worker;
