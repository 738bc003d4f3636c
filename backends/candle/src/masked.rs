//! What masked architectures share: sequences side by side, the head, and who asks for what. An architecture adds an
//! [`Encoder`].

use bheval_abi::{Failure, MaskedView};
use rayon::prelude::*;

use crate::head::{Head, check_finite};
use crate::kernels::Isa;
use crate::kernels::softmax::COLUMNS;
use crate::room;
use crate::scorer::pool;

/// Rows whose logits are computed together.
const HEAD_ROWS: usize = 48;

/// What an architecture puts between token ids and the head. A row is a token; a row's hidden state depends on its own
/// sequence alone, bit for bit.
pub trait Encoder: Send + Sync {
    /// Activations of a call, kept for the next one.
    type Space: Default + Send + Sync;

    /// `D`, the values of a hidden state.
    fn width(&self) -> usize;
    /// The head, after [`Encoder::last`].
    fn head(&self) -> &Head;
    /// Longest sequence in tokens.
    fn context(&self) -> u32;
    /// Bytes of activations that a row takes, its hidden state left out.
    fn row_bytes(&self) -> u64;
    /// Bytes that a thread takes, whatever the number of rows.
    fn thread_bytes(&self) -> u64;
    /// Writes the hidden states after the last layer, `h [tokens, D]`. Runs in the pool.
    fn hidden(&self, isa: Isa, batch: &MaskedView<'_>, space: &mut Self::Space, h: &mut [f32]);
    /// What stands between the last layer and the head, for some rows: from `h [M, D]` to `x [M, K]`, `K` being the inner
    /// width of the head; `room` is for its own use.
    fn last(&self, isa: Isa, h: &[f32], room: &mut Vec<f32>, x: &mut [f32]);
}

/// A masked model, whatever its architecture.
pub trait MaskedScorer: Send {
    /// How many tokens fit into `memory` bytes of activations, between 512 and 65,536.
    fn nodes(&self, memory: u64) -> u32;
    /// Size of the vocabulary.
    fn vocab(&self) -> u32;
    /// Longest sequence in tokens.
    fn context(&self) -> u32;
    /// Writes `ln p(target | sequence)` for each question; returns how many tokens were fed.
    ///
    /// # Errors
    /// Tokens beyond the vocabulary, sequences longer than the context, and results that are not finite.
    fn score(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure>;
}

/// An encoder with its threads and its room.
pub struct Masked<E: Encoder> {
    encoder: E,
    isa: Isa,
    pool: rayon::ThreadPool,
    space: E::Space,
    h: Vec<f32>,
}

/// Room of one thread in the head.
#[derive(Default)]
struct Scratch {
    rows: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
}

impl<E: Encoder> Masked<E> {
    /// A scorer on so many threads.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(encoder: E, threads: usize, isa: Isa) -> Result<Self, Failure> {
        Ok(Self { encoder, isa, pool: pool(threads)?, space: E::Space::default(), h: Vec::new() })
    }

    /// Answers to some questions, by their indices, in that order.
    fn answers(&self, batch: &MaskedView<'_>, questions: &[u32], scratch: &mut Scratch) -> Vec<f32> {
        let width = self.encoder.width();
        let h = room(&mut scratch.rows, questions.len() * width);
        for (&q, h) in questions.iter().zip(h.chunks_exact_mut(width)) {
            h.copy_from_slice(&self.h[batch.position[q as usize] as usize * width..][..width]);
        }
        let x = room(&mut scratch.normed, questions.len() * self.encoder.head().weights.inner());
        self.encoder.last(self.isa, h, &mut scratch.wide, x);
        let asked: Vec<(usize, u32)> =
            questions.iter().enumerate().map(|(i, &q)| (i, batch.target[q as usize])).collect();
        self.encoder.head().log_probs(self.isa, x, &asked, &mut scratch.wide)
    }
}

impl<E: Encoder> MaskedScorer for Masked<E> {
    fn nodes(&self, memory: u64) -> u32 {
        let (width, head) = (self.encoder.width() as u64, (HEAD_ROWS * COLUMNS) as u64 * 4);
        let thread = self.encoder.thread_bytes() + head + 3 * HEAD_ROWS as u64 * width * 4;
        let fixed = self.pool.current_num_threads() as u64 * thread;
        let row = self.encoder.row_bytes() + width * 4 + 32;
        (memory.saturating_sub(fixed) / row).clamp(512, 65_536) as u32
    }

    fn vocab(&self) -> u32 {
        self.encoder.head().vocab() as u32
    }

    fn context(&self) -> u32 {
        self.encoder.context()
    }

    fn score(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        batch.check_tokens(self.encoder.head().vocab() as u32)?;
        batch.check_length(self.encoder.context() as usize)?;
        self.h.resize(batch.token.len() * self.encoder.width(), 0.0);
        let Self { encoder, isa, pool, space, h } = self;
        pool.install(|| encoder.hidden(*isa, &batch, space, h));
        let this = &*self;
        let questions: Vec<u32> = (0..batch.position.len() as u32).collect();
        let block = |scratch: &mut Scratch, part: &[u32]| this.answers(&batch, part, scratch);
        let answers: Vec<Vec<f32>> =
            self.pool.install(|| questions.par_chunks(HEAD_ROWS).map_init(Scratch::default, block).collect());
        for (q, (out, score)) in log_prob.iter_mut().zip(answers.into_iter().flatten()).enumerate() {
            check_finite(score, batch.target[q], || format!("question {q}"))?;
            *out = score;
        }
        Ok(batch.token.len() as u64)
    }
}
