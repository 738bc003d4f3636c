//! What trains: the arithmetic belongs to a backend, the loop to this crate. They meet here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::teacher::Teacher;

/// A tensor that is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in a saved model.
    pub name: String,
    /// Its shape in a saved model, row by row.
    pub shape: Vec<usize>,
    /// Whether weight decay applies unless the plan decays all.
    pub decay: bool,
}

impl Tensor {
    /// How many numbers it holds.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a tensor is never looked at for emptiness")]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What is kept for each trained number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The number itself.
    Weight,
    /// Adam's running mean of its gradient.
    FirstMoment,
    /// Adam's running mean of its gradient's square.
    SecondMoment,
}

/// Number format of large products. Everything else is f32 or better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16 factors, f32 sums; weights and moments stay f32.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// Sequences of one length that are passed through at once.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub steps: usize,
    /// Inputs, one sequence after the other: `batch * steps`.
    pub tokens: &'a [u32],
    /// What follows each input; a negative one is not learnt from.
    pub targets: &'a [i32],
    /// Weight of one target's cross-entropy in the loss that gradients are taken of: 1 / targets of the whole step, times
    /// what distillation leaves to it.
    pub weight: f32,
    /// What random choices of this pass (dropout) are drawn from: a pure function of seed, step and micro-batch.
    pub pass: u64,
    /// What its teachers say, in distillation.
    pub teacher: Option<Teacher<'a>>,
}

/// What a pass gives beside gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Cross-entropy, summed over the targets, in nats.
    pub nats: f64,
    /// Targets that were not ignored.
    pub targets: u64,
    /// The divergence from the teachers, summed over the targets as it enters the loss before weighting.
    pub distilled: f64,
}

impl Sums {
    /// Adds another pass.
    pub fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.targets += other.targets;
        self.distilled += other.distilled;
    }
}

/// How one update is done: AdamW with decoupled decay (Loshchilov and Hutter 2019, algorithm 2, as PyTorch: the decay is
/// `learning_rate * weight_decay * weight`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether it applies to every tensor, not only to those with [`Tensor::decay`].
    pub decay_all: bool,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    pub clip: Option<f64>,
    /// Number of the update, from 1, for the correction of the moments' bias.
    pub step: u64,
}

/// What a learner is.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnerInfo {
    /// Architecture as `config.json` spells it.
    pub architecture: String,
    /// Rows of the embedding, padding included.
    pub vocab: usize,
    /// Longest sequence, or 0 where there is no limit.
    pub context: usize,
    /// Trained numbers.
    pub parameters: u64,
    /// Floating-point operations of one token's forward pass, a fused multiply-add counted as two.
    pub forward_flops: f64,
    /// Threads.
    pub threads: u32,
    /// Number format of large products.
    pub precision: Precision,
    /// The machine that computes, as its users call it: `cpu (avx512)`.
    pub device: String,
    /// Name and version of the arithmetic: weights are bit-identical only where this is the same.
    pub arithmetic: String,
}

/// A model in training. Whatever the number of threads, the same calls give the same bits.
pub trait Learner {
    /// What it is; operations are counted for sequences of `steps` tokens.
    ///
    /// # Errors
    /// What the backend reports.
    fn info(&self, steps: usize) -> Result<LearnerInfo, Error>;

    /// Bytes held: weights, gradients, moments, and the buffers that passes have needed so far.
    fn bytes(&self) -> u64;

    /// The tensors that are trained, in an order that stays.
    fn tensors(&self) -> &[Tensor];

    /// Passes a micro-batch forward and back, and adds its gradients to those of the step.
    ///
    /// # Errors
    /// What the backend reports. Sums that are not finite are none: they are given as they are.
    fn accumulate(&mut self, batch: &Batch<'_>) -> Result<Sums, Error>;

    /// Passes a micro-batch forward only, without dropout.
    ///
    /// # Errors
    /// As [`Learner::accumulate`].
    fn evaluate(&mut self, batch: &Batch<'_>) -> Result<Sums, Error>;

    /// Clips by the norm of all gradients, updates, and forgets the gradients; returns the norm before clipping. A norm that is
    /// not finite changes nothing and is returned as it is.
    ///
    /// # Errors
    /// What the backend reports.
    fn update(&mut self, rates: &Rates) -> Result<f64, Error>;

    /// Reads what is kept of a tensor, row by row.
    ///
    /// # Errors
    /// What the backend reports.
    fn read(&mut self, tensor: usize, kept: Kept, out: &mut [f32]) -> Result<(), Error>;

    /// Replaces what is kept of a tensor, row by row. It is called between steps only, while there are no gradients.
    ///
    /// # Errors
    /// What the backend reports.
    fn write(&mut self, tensor: usize, kept: Kept, values: &[f32]) -> Result<(), Error>;
}
