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

use bheval_abi::{Backend, backend_that_trains};
use bheval_candle::{Hgrn2, Lstm, Mamba, Transformers, Xlstm};
use trainer::Trainer;

/// HGRN2, scored and trained: the table of `--backend hgrn2`.
pub static HGRN2: Backend = backend_that_trains::<Hgrn2, Trainer>();
/// Transformers, scored and, where they are causal, trained.
pub static TRANSFORMER: Backend = backend_that_trains::<Transformers, Trainer>();
/// The LSTM, scored and trained.
pub static LSTM: Backend = backend_that_trains::<Lstm, Trainer>();
/// Mamba and Mamba-2, scored and trained.
pub static MAMBA: Backend = backend_that_trains::<Mamba, Trainer>();
/// xLSTM, scored and trained.
pub static XLSTM: Backend = backend_that_trains::<Xlstm, Trainer>();

/// The tables of all native backends, with the values of `model_type` that each opens.
pub static BACKENDS: [(&Backend, &[&str]); 5] = [
    (&HGRN2, bheval_candle::BACKENDS[0].1),
    (&TRANSFORMER, bheval_candle::BACKENDS[1].1),
    (&LSTM, bheval_candle::BACKENDS[2].1),
    (&MAMBA, bheval_candle::BACKENDS[3].1),
    (&XLSTM, bheval_candle::BACKENDS[4].1),
];
