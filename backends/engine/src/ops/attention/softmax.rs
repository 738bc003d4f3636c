//! A block of scores becomes probabilities, and their gradient that of the scores.

use bheval_kernels::elementwise::{exp, lane_sum};
use bheval_kernels::{Isa, Kernel, LANES};

use super::dropout::WeightDropout;

/// Which scores a block has.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// From one query's row to the next.
    pub(super) stride: usize,
    /// Columns in use.
    pub(super) seen: usize,
    /// The step of the first query; the query at step `t` sees the keys up to `t`.
    pub(super) first: usize,
    /// What is dropped, and the number of the first query among those of all sequences and heads.
    pub(super) dropout: Option<(WeightDropout, u64)>,
}

impl Block {
    /// Multiplies the weights of query `r` with what is kept of them.
    #[inline(always)]
    fn thin(self, r: usize, weights: &mut [f32]) {
        if let Some((dropout, number)) = self.dropout {
            let choices = dropout.of(number + r as u64);
            for (key, w) in weights.iter_mut().enumerate() {
                *w *= choices.factor(key as u32);
            }
        }
    }
}

/// Scores become `exp(score - max)`, and 0 for keys that are not seen or are dropped; `sums` gets each row's maximum and
/// one over the sum of its exponentials.
pub(super) struct Softmax<'a> {
    pub(super) block: Block,
    pub(super) scores: &'a mut [f32],
    pub(super) sums: &'a mut [[f32; 2]],
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.scores.chunks_mut(self.block.stride).zip(self.sums);
        for (r, (row, sums)) in rows.enumerate() {
            let lanes = mask(&mut row[..self.block.seen], self.block.first + r + 1);
            let max = largest(lanes);
            for s in lanes.iter_mut() {
                *s = exp(*s - max);
            }
            *sums = [max, (1.0 / lane_sum(lanes, |sum, x| sum + x)) as f32];
            self.block.thin(r, lanes);
        }
    }
}

/// Makes the weights `w` of [`Softmax`] again from scores, in place, but divided by their sum, and from `dw`, their
/// gradient, that of the scores: `p ⊙ (kept ⊙ dw - delta)`, in place, `p` being the weights before dropout and `delta` each
/// row's `Σ w ⊙ dw`.
pub(super) struct SoftmaxBack<'a> {
    pub(super) block: Block,
    pub(super) scores: &'a mut [f32],
    pub(super) dw: &'a mut [f32],
    pub(super) sums: &'a [[f32; 2]],
    pub(super) delta: &'a [f32],
}

impl Kernel for SoftmaxBack<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let block = self.block;
        let rows = self.scores.chunks_mut(block.stride).zip(self.dw.chunks_mut(block.stride));
        let each = rows.zip(self.sums.iter().zip(self.delta)).enumerate();
        for (r, ((row, dw), ([max, scale], delta))) in each {
            let seen = block.first + r + 1;
            let lanes = mask(&mut row[..block.seen], seen);
            block.thin(r, &mut dw[..lanes.len()]);
            for (p, g) in lanes.iter_mut().zip(&mut *dw) {
                *p = exp(*p - max) * scale;
                *g = *p * (*g - delta);
            }
            block.thin(r, lanes);
            // What was there for keys that are not seen may not be a number.
            dw[seen..block.seen].fill(0.0);
        }
    }
}

/// Makes -∞ of scores in the lanes beyond the `seen` first ones, and 0 of all after those; returns the lanes.
#[inline(always)]
fn mask(row: &mut [f32], seen: usize) -> &mut [f32] {
    let whole = seen.next_multiple_of(LANES);
    row[seen..whole].fill(f32::NEG_INFINITY);
    row[whole..].fill(0.0);
    &mut row[..whole]
}

/// The largest value; NaN is passed over here and reaches the sum instead.
#[inline(always)]
fn largest(lanes: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut max = [f32::NEG_INFINITY; LANES];
    for x in lanes.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            max[l] = larger(max[l], x[l]);
        }
    }
    max.into_iter().fold(f32::NEG_INFINITY, larger)
}
