//! Estimates a model from sequences of ids: count, adjust, discount, interpolate.
//!
//! A sequence is a sentence or document with the token that stands before it (BOS) in front and EOS, where there is one,
//! at its end. The first token is context only: it is never predicted, so it adds nothing to the unigrams. An n-gram
//! does not reach over the beginning or the end of a sequence.
//!
//! The result is a function of the sequences and the order alone: counts are whole numbers, every sum over floating-point
//! numbers has a fixed order, and only `+ - * /` are used, so the bytes are the same for any number of threads and on any
//! machine.
//!
//! Memory: 8 bytes a token and 8 an n-gram while windows are sorted; after that 28 for each n-gram below the highest order
//! and 24 for each of the highest. 103 million tokens of 207 MB of text, with 45 million distinct n-grams up to order 5,
//! took 1.4 GB.

mod adjust;
mod discount;
mod estimate;
mod windows;

use bheval_abi::{Failure, Status};

use crate::model::NgramModel;
use crate::{MAX_ORDER, MAX_VOCAB};

pub use discount::{Discounts, FALLBACK};

/// Stands behind each sequence; no id of a vocabulary.
const END: u32 = u32::MAX;

/// Sequences to learn from.
#[derive(Clone, Debug)]
pub struct Corpus {
    vocab: u32,
    /// The sequences, [`END`] behind each.
    tokens: Vec<u32>,
    sequences: u64,
    predicted: u64,
}

/// A model, and how each of its orders was discounted.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The model.
    pub model: NgramModel,
    /// Unigrams first.
    pub discounts: Vec<Discounts>,
}

impl Corpus {
    /// No sequences yet, over the ids below `vocab`.
    ///
    /// # Errors
    /// No id at all, or more than [`MAX_VOCAB`].
    pub fn new(vocab: u32) -> Result<Self, Failure> {
        if !(1..=MAX_VOCAB).contains(&vocab) {
            return Err(Failure::input(format!(
                "a vocabulary of {vocab} ids can't be modelled: from 1 to {MAX_VOCAB} are supported; is the tokenizer's \
                 file damaged?"
            )));
        }
        Ok(Self { vocab, tokens: Vec::new(), sequences: 0, predicted: 0 })
    }

    /// Adds a sequence. One of fewer than two tokens predicts nothing and is left out.
    ///
    /// # Errors
    /// An id beyond the vocabulary, or more tokens than can be counted.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), Failure> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.vocab) {
            return Err(Failure::input(format!("token id {id} is beyond the vocabulary of {}", self.vocab)));
        }
        if ids.len() < 2 {
            return Ok(());
        }
        // Positions and counts are 32 bits wide.
        if self.tokens.len() + ids.len() >= u32::MAX as usize {
            return Err(Failure::new(
                Status::EXHAUSTED,
                "more than 4,294,967,294 tokens can't be counted; train on a part of the text",
            ));
        }
        self.tokens.extend_from_slice(ids);
        self.tokens.push(END);
        self.sequences += 1;
        self.predicted += ids.len() as u64 - 1;
        Ok(())
    }

    /// Sequences that were taken.
    #[must_use]
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Tokens that are predicted: all but the first of each sequence.
    #[must_use]
    pub fn predicted(&self) -> u64 {
        self.predicted
    }

    /// Estimates an interpolated modified Kneser-Ney model of this order, with this many threads.
    ///
    /// # Errors
    /// An order that is not supported, nothing to learn from, or no threads to be had.
    pub fn train(self, order: u32, threads: usize) -> Result<Trained, Failure> {
        if !(1..=MAX_ORDER).contains(&order) {
            return Err(Failure::input(format!("order {order} is not supported; choose 1 to {MAX_ORDER}")));
        }
        if self.predicted == 0 {
            return Err(Failure::input(
                "there is nothing to learn from: the text has no sentence in which a token follows another",
            ));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .build()
            .map_err(|e| Failure::new(Status::EXHAUSTED, format!("threads could not be started: {e}")))?;
        Ok(pool.install(|| self.estimate(order as usize)))
    }

    fn estimate(self, order: usize) -> Trained {
        let mut counted = windows::count(&self.tokens, self.vocab, order);
        adjust::adjust(&mut counted, &self.tokens);
        let vocab = self.vocab;
        drop(self);
        let discounts: Vec<_> =
            counted.iter().zip(1..).map(|(level, n)| Discounts::of(n, &level.count)).collect();
        Trained { model: NgramModel { vocab, levels: estimate::estimate(counted, &discounts) }, discounts }
    }
}

/// N-grams of one order with their counts, in the order of [`crate::model::Level`].
#[derive(Clone, Debug, Default)]
struct Counted {
    /// Last words; empty for unigrams.
    word: Vec<u32>,
    /// a: how often each was seen, adjusted below the highest order.
    count: Vec<u32>,
    /// Index one order below of the n-gram without its first word; empty for unigrams.
    suffix: Vec<u32>,
    /// Index one order above of the first child, and one more at the end; empty in the highest order.
    child: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_learnt_from_is_refused() {
        let refused = |result: Result<Trained, Failure>, part: &str| {
            let text = result.expect_err("should be refused").text;
            assert!(text.contains(part), "{text}");
        };
        let corpus = |ids: &[u32]| {
            let mut corpus = Corpus::new(4).expect("a corpus");
            corpus.push(ids).expect("taken");
            corpus
        };
        refused(corpus(&[0, 1]).train(0, 1), "order 0");
        refused(corpus(&[0, 1]).train(6, 1), "order 6");
        refused(corpus(&[0]).train(2, 1), "nothing to learn from");
        assert!(
            Corpus::new(4).expect("a corpus").push(&[0, 4]).is_err_and(|f| f.text.contains("token id 4"))
        );
        assert!(Corpus::new(0).is_err() && Corpus::new(MAX_VOCAB + 1).is_err());
    }
}
