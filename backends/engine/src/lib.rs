//! Training of language models on the CPU: hand-written forward and backward passes over reused buffers.
//!
//! A [`tape::Tape`] records operations on matrices with one row a token; each operation is one file in [`ops`], knows its
//! own backward pass and keeps what that needs. [`models`] say how an architecture is put together, [`loss`] ends a pass,
//! [`adamw`] updates. [`trainer::Trainer`] is the whole. The one invariant: every sum has an order that the number of
//! threads does not change, so that a step is reproducible bit for bit.

pub mod adamw;
#[cfg(test)]
mod check;
pub mod loss;
pub mod models;
pub mod ops;
pub mod parameters;
pub mod pool;
pub mod tape;
pub mod trainer;
