//! A block of scores becomes probabilities, and their gradient that of the scores.

use bheval_kernels::elementwise::{exp, lane_sum};
use bheval_kernels::{Isa, Kernel, LANES};

/// Scores of the queries from step `first` on, a row each, `stride` apart, with columns for `seen` keys; the query
/// at step `t` sees the keys up to `t`.
/// They become `exp(score - max)`, and 0 for keys that are not seen; `sums` gets each row's maximum and one over its sum.
pub(super) struct Softmax<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) seen: usize,
    pub(super) first: usize,
    pub(super) sums: &'a mut [[f32; 2]],
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.scores.chunks_mut(self.stride).zip(self.sums);
        for (r, (row, sums)) in rows.enumerate() {
            let lanes = mask(&mut row[..self.seen], self.first + r + 1);
            let max = largest(lanes);
            for s in lanes.iter_mut() {
                *s = exp(*s - max);
            }
            *sums = [max, (1.0 / lane_sum(lanes, |sum, x| sum + x)) as f32];
        }
    }
}

/// Makes the probabilities of [`Softmax`] again from scores, in place, and from `dp`, the gradient of the probabilities,
/// that of the scores: `p ⊙ (dp - delta)`, in place, `delta` being each row's `Σ p ⊙ dp`.
pub(super) struct SoftmaxBack<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) dp: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) seen: usize,
    pub(super) first: usize,
    pub(super) sums: &'a [[f32; 2]],
    pub(super) delta: &'a [f32],
}

impl Kernel for SoftmaxBack<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.scores.chunks_mut(self.stride).zip(self.dp.chunks_mut(self.stride));
        let each = rows.zip(self.sums.iter().zip(self.delta)).enumerate();
        for (r, ((row, dp), ([max, scale], delta))) in each {
            let seen = self.first + r + 1;
            let lanes = mask(&mut row[..self.seen], seen);
            for (p, g) in lanes.iter_mut().zip(&mut *dp) {
                *p = exp(*p - max) * scale;
                *g = *p * (*g - delta);
            }
            // What was there for keys that are not seen may not be a number.
            dp[seen..self.seen].fill(0.0);
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
