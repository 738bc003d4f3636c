//! The logarithm of a softmax's denominator, gathered block by block so that no row of logits has to exist as a whole.

use super::elementwise::{exp, lane_sum};
use super::{Isa, Kernel, launch};

/// Logits that are summed together. A constant, so that a row's sum does not depend on how it was computed.
pub const COLUMNS: usize = 1024;

/// `ln Σ exp(x)` of a row so far, as a maximum and a sum relative to it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LogSumExp {
    max: f32,
    sum: f64,
}

impl LogSumExp {
    /// Of no logits.
    pub const EMPTY: LogSumExp = LogSumExp { max: f32::NEG_INFINITY, sum: 0.0 };

    /// `x - ln Σ exp`: the log-probability of a logit of this row, in nats and at most 0; NaN where a logit was not finite.
    #[must_use]
    pub fn log_prob(self, x: f32) -> f32 {
        let exact = f64::from(x) - f64::from(self.max) - self.sum.ln();
        // Rounding of the sum may leave the likeliest token a hair above 0.
        if exact > 0.0 && exact < 1e-5 { 0.0 } else { exact as f32 }
    }

    /// Joins a block's maximum and sum.
    fn join(&mut self, max: f32, sum: f64) {
        if max > self.max {
            self.sum = self.sum * f64::from(self.max - max).exp() + sum;
            self.max = max;
        } else {
            self.sum += sum * f64::from(max - self.max).exp();
        }
    }
}

/// Adds one block, at most [`COLUMNS`] wide, of the logits `x[M, width]` to the sums of the `M` rows.
///
/// # Panics
/// If `x` is not `M` rows.
pub fn accumulate(isa: Isa, x: &[f32], sums: &mut [LogSumExp]) {
    assert!(!sums.is_empty() && x.len().is_multiple_of(sums.len()), "x and the sums differ in rows");
    launch(isa, Accumulate { x, sums });
}

struct Accumulate<'a> {
    x: &'a [f32],
    sums: &'a mut [LogSumExp],
}

impl Kernel for Accumulate<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.x.len() / self.sums.len();
        for (row, total) in self.x.chunks_exact(width).zip(self.sums) {
            let max = row_max(row);
            total.join(max, lane_sum(row, |sum, x| sum + exp(x - max)));
        }
    }
}

/// The largest value; NaN is passed over here and reaches the sum instead.
#[inline(always)]
fn row_max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut max = [f32::NEG_INFINITY; super::LANES];
    let (whole, rest) = row.as_chunks::<{ super::LANES }>();
    for x in whole {
        for (max, &x) in max.iter_mut().zip(x) {
            *max = larger(*max, x);
        }
    }
    max.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.
mod tests {
    use super::*;
    use crate::random::Numbers;

    fn whole(isa: Isa, row: &[f32]) -> LogSumExp {
        let mut sums = [LogSumExp::EMPTY];
        for block in row.chunks(COLUMNS) {
            accumulate(isa, block, &mut sums);
        }
        sums[0]
    }

    #[test]
    fn agrees_with_f64() {
        let mut worst = 0.0f64;
        for (n, spread) in [(1, 1.0), (5, 3.0), (768, 4.0), (1025, 30.0), (50_000, 2.0)] {
            let row = Numbers::new(n as u64).normal(n, spread);
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
            for &x in &row[..n.min(50)] {
                let exact = f64::from(x) - f64::from(max) - sum.ln();
                let got = f64::from(whole(Isa::best(), &row).log_prob(x));
                worst = worst.max((got - exact).abs() / exact.abs().max(1.0));
            }
        }
        println!("log-probability: worst error {worst:e}");
        assert!(worst < 3e-7, "{worst:e}");
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let row = Numbers::new(9).normal(3333, 10.0);
        let first = whole(Isa::PORTABLE, &row);
        assert!(Isa::available().into_iter().all(|isa| whole(isa, &row) == first));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(whole(Isa::best(), &[0.0, bad, 1.0]).log_prob(0.0).is_nan());
        }
        assert!(!whole(Isa::best(), &[f32::NEG_INFINITY; 20]).log_prob(f32::NEG_INFINITY).is_finite());
        assert_eq!(whole(Isa::best(), &[5.0]).log_prob(5.0), 0.0);
    }
}
