//! The end of a pass.

use crate::parameters::Parameter;

/// What turns hidden states into logits: `logits = cap(hidden · Wᵀ + b)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Head {
    /// `[vocab, width]`; the embedding's where they are tied.
    pub weight: Parameter,
    /// `[vocab]`
    pub bias: Option<Parameter>,
    /// `cap · tanh(logits / cap)`
    pub soft_cap: Option<f32>,
    /// Tokens.
    pub vocab: usize,
    /// Columns of the hidden states.
    pub width: usize,
}
