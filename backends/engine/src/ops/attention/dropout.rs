//! Dropout of attention's weights: each choice is a function of the pass, the place on the tape, the head, the query and
//! the key, so that the way back makes it again.

use bheval_kernels::random::Numbers;

/// What is dropped in one pass of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightDropout {
    seed: u64,
    /// Probability with which a weight is dropped.
    p: f32,
}

impl WeightDropout {
    /// The choices that `seed` stands for.
    pub(super) fn new(seed: u64, p: f32) -> Self {
        Self { seed, p }
    }

    /// The choices for one query, by its number among those of all sequences and heads.
    pub(super) fn of(self, query: u64) -> Choices {
        Choices {
            start: Numbers::new(self.seed.wrapping_add(query)).bits() as u32,
            below: (f64::from(self.p) * 2f64.powi(32)) as u32,
            keep: 1.0 / (1.0 - self.p),
        }
    }
}

/// What one query drops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices {
    start: u32,
    below: u32,
    keep: f32,
}

impl Choices {
    /// What the weight of a key is multiplied with: 0 or `1 / (1 - p)`.
    #[inline(always)]
    pub(super) fn factor(self, key: u32) -> f32 {
        // A counter through a 32-bit mix (Wellons' lowbias32), which vectorises.
        let x = self.start.wrapping_add(key.wrapping_mul(0x9E37_79B9));
        let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
        let x = x ^ (x >> 16);
        if x < self.below { 0.0 } else { self.keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of weights that are dropped, and how often neighbours agree, within five standard deviations.
    #[test]
    fn as_many_as_asked_for_and_independent() {
        let (p, n) = (0.1f32, 100_000u32);
        let dropout = WeightDropout::new(7, p);
        let dropped = |query: u64, key: u32| f64::from(u8::from(dropout.of(query).factor(key) == 0.0));
        let mean = |x: &dyn Fn(u32) -> f64| (0..n).map(x).sum::<f64>() / f64::from(n);
        let near = |got: f64, expected: f64| {
            let deviation = (expected * (1.0 - expected) / f64::from(n)).sqrt();
            assert!((got - expected).abs() < 5.0 * deviation, "{got} for {expected}");
        };
        near(mean(&|i| dropped(u64::from(i / 100), i % 100)), 0.1);
        near(
            mean(&|i| dropped(u64::from(i / 100), i % 100) * dropped(u64::from(i / 100), i % 100 + 1)),
            0.01,
        );
        near(
            mean(&|i| dropped(u64::from(i / 100), i % 100) * dropped(u64::from(i / 100) + 1, i % 100)),
            0.01,
        );
        assert!((dropout.of(0).factor(0) - 1.0 / 0.9).abs() < 1e-6 || dropped(0, 0) == 1.0);
    }
}
