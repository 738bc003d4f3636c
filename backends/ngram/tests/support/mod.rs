//! The slow twin: modified Kneser-Ney straight from its definition, with hash maps, in f64.
#![allow(dead_code)] // Each test file uses its part.

use std::collections::{BTreeMap, BTreeSet};

use bheval_ngram::model::{NgramModel, State};
use bheval_ngram::train::{Corpus, FALLBACK, Trained};

pub(crate) type Gram = Vec<u32>;

/// A model as its definition has it: Heafield et al. 2013, sections 2 and 3.
pub(crate) struct Naive {
    vocab: u32,
    order: usize,
    /// Adjusted counts of each order.
    adjusted: Vec<BTreeMap<Gram, f64>>,
    pub(crate) discounts: Vec<[f64; 3]>,
}

impl Naive {
    pub(crate) fn train(vocab: u32, order: usize, sequences: &[Gram]) -> Self {
        let adjusted: Vec<_> = (1..=order).map(|n| adjusted(sequences, n, order)).collect();
        let discounts = adjusted.iter().map(discounts).collect();
        Self { vocab, order, adjusted, discounts }
    }

    /// `p(word | the last N-1 tokens of context)`.
    pub(crate) fn p(&self, context: &[u32], word: u32) -> f64 {
        let context = &context[context.len().saturating_sub(self.order - 1)..];
        let counts = &self.adjusted[context.len()];
        let d = |a: f64| if a == 0.0 { 0.0 } else { self.discounts[context.len()][(a as usize).min(3) - 1] };
        let children: Vec<(u32, f64)> = counts
            .iter()
            .filter(|(gram, _)| gram.starts_with(context))
            .map(|(g, &a)| (g[context.len()], a))
            .collect();
        let lower =
            if context.is_empty() { 1.0 / f64::from(self.vocab) } else { self.p(&context[1..], word) };
        let total: f64 = children.iter().map(|(_, a)| a).sum();
        if total == 0.0 {
            return lower;
        }
        let a = children.iter().find(|(w, _)| *w == word).map_or(0.0, |&(_, a)| a);
        let b: f64 = children.iter().map(|&(_, a)| d(a)).sum::<f64>() / total;
        (a - d(a)) / total + b * lower
    }
}

/// a(g): the count in the highest order; else the number of words before g, and of sequences that begin with g, unless
/// g is but one token: the first of a sequence is not predicted.
fn adjusted(sequences: &[Gram], n: usize, order: usize) -> BTreeMap<Gram, f64> {
    let mut before: BTreeMap<Gram, BTreeSet<u32>> = BTreeMap::new();
    let mut counts: BTreeMap<Gram, f64> = BTreeMap::new();
    for sequence in sequences {
        for (at, gram) in sequence.windows(n).enumerate() {
            let whole = if n == order { n > 1 || at > 0 } else { n > 1 && at == 0 };
            if whole {
                *counts.entry(gram.to_vec()).or_default() += 1.0;
            } else if n < order && at > 0 {
                before.entry(gram.to_vec()).or_default().insert(sequence[at - 1]);
            }
        }
    }
    for (gram, words) in before {
        *counts.entry(gram).or_default() += words.len() as f64;
    }
    counts
}

/// Chen and Goodman 1999, equation 26.
fn discounts(counts: &BTreeMap<Gram, f64>) -> [f64; 3] {
    let t: Vec<f64> =
        (0..=4).map(|k| counts.values().filter(|&&a| a == f64::from(k)).count() as f64).collect();
    if t[1] * t[2] * t[3] == 0.0 {
        return FALLBACK;
    }
    let y = t[1] / (t[1] + 2.0 * t[2]);
    let d = [1.0 - 2.0 * y * t[2] / t[1], 2.0 - 3.0 * y * t[3] / t[2], 3.0 - 4.0 * y * t[4] / t[3]];
    let sound = d.iter().zip([1.0, 2.0, 3.0]).all(|(&d, k)| d > 0.0 && d <= k);
    if sound { d } else { FALLBACK }
}

pub(crate) fn train(vocab: u32, order: u32, sequences: &[Gram], threads: usize) -> Trained {
    let mut corpus = Corpus::new(vocab).expect("a vocabulary");
    sequences.iter().for_each(|s| corpus.push(s).expect("ids within the vocabulary"));
    corpus.train(order, threads).expect("something to learn from")
}

/// `p(token | path before it)` for every token but the first.
pub(crate) fn path(model: &NgramModel, tokens: &[u32]) -> Vec<f64> {
    let mut state = State::EMPTY;
    let mut all = Vec::new();
    for &token in tokens {
        let (p, next) = model.step(state, token);
        all.push(p);
        state = next;
    }
    all.remove(0);
    all
}

/// The state after a path.
pub(crate) fn after(model: &NgramModel, tokens: &[u32]) -> State {
    tokens.iter().fold(State::EMPTY, |state, &token| model.step(state, token).1)
}
