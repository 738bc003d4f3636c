//! What masked architectures share: sequences side by side, the head, and who asks for what. An architecture adds an
//! [`Encoder`].

use bheval_abi::{Failure, MaskedView};
use rayon::prelude::*;

use crate::body::{Body, Evaluator, HEAD_ROWS, Scratch};
use crate::head::check_finite;
use crate::kernels::Isa;

/// How an architecture reads sequences from both sides. A row is a token; a row's hidden state depends on its own sequence
/// alone, bit for bit.
pub trait Encoder: Body {
    /// Writes the hidden states after the last layer, `h [tokens, D]`. Runs in the pool.
    fn hidden(&self, isa: Isa, batch: &MaskedView<'_>, space: &mut Self::Space, h: &mut [f32]);
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

/// An encoder that scores.
pub struct Masked<E: Encoder>(Evaluator<E>);

impl<E: Encoder> Masked<E> {
    /// A scorer on so many threads.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(encoder: E, threads: usize, isa: Isa) -> Result<Self, Failure> {
        Ok(Self(Evaluator::new(encoder, threads, isa)?))
    }
}

impl<E: Encoder> MaskedScorer for Masked<E> {
    fn nodes(&self, memory: u64) -> u32 {
        self.0.nodes(memory, 512)
    }

    fn vocab(&self) -> u32 {
        self.0.vocab()
    }

    fn context(&self) -> u32 {
        self.0.body.context()
    }

    fn score(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        batch.check_tokens(self.0.vocab())?;
        batch.check_length(self.0.body.context() as usize)?;
        let Evaluator { body, isa, pool, space, h } = &mut self.0;
        h.resize(batch.token.len() * body.width(), 0.0);
        pool.install(|| body.hidden(*isa, &batch, space, h));
        let this = &self.0;
        let block = |scratch: &mut Scratch, (rows, targets): (&[u32], &[u32])| {
            let asked: Vec<(usize, u32)> = targets.iter().copied().enumerate().collect();
            this.log_probs(rows, &asked, scratch)
        };
        let questions = batch.position.par_chunks(HEAD_ROWS).zip(batch.target.par_chunks(HEAD_ROWS));
        let answers: Vec<Vec<f32>> =
            this.pool.install(|| questions.map_init(Scratch::default, block).collect());
        for (q, (out, score)) in log_prob.iter_mut().zip(answers.into_iter().flatten()).enumerate() {
            check_finite(score, batch.target[q], || format!("question {q}"))?;
            *out = score;
        }
        Ok(batch.token.len() as u64)
    }
}
