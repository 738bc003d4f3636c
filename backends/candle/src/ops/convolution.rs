//! The short causal convolution over the path above each node: depthwise; by itself, or with bias and SiLU.

use bheval_abi::{Failure, NO_PARENT};

use super::forest::Walk;
use crate::kernels::activation::{Activation, add_bias};
use crate::kernels::{Isa, Kernel, launch};
use crate::loader::Loader;

/// Taps of a depthwise convolution over `C` channels, `[taps, C]`, the tap of the node itself last.
#[derive(Clone, Debug)]
pub struct Taps {
    channels: usize,
    weights: Vec<f32>,
}

impl Taps {
    /// From candle's layout, `[channels, 1, taps]` each, the channels of the parts side by side.
    #[must_use]
    pub fn new(taps: usize, parts: &[&[f32]]) -> Self {
        let channels = parts.iter().map(|p| p.len() / taps).sum();
        let rows = || parts.iter().flat_map(|p| p.chunks_exact(taps));
        Self { channels, weights: (0..taps).flat_map(|t| rows().map(move |row| row[t])).collect() }
    }

    fn count(&self) -> usize {
        self.weights.len() / self.channels
    }
}

/// A convolution as recurrent models have it: a bias, and SiLU after it.
#[derive(Debug)]
pub(crate) struct Biased {
    taps: Taps,
    bias: Option<Vec<f32>>,
}

impl Biased {
    /// Reads `{name}.weight [channels, 1, taps]` and, where there is one, `{name}.bias`.
    pub(crate) fn load(
        loader: &mut Loader,
        name: &str,
        channels: usize,
        taps: usize,
        bias: bool,
    ) -> Result<Self, Failure> {
        let weight = loader.values(&format!("{name}.weight"), &[channels, 1, taps])?;
        let bias = loader.optional(&format!("{name}.bias"), &[channels], bias)?;
        Ok(Self { taps: Taps::new(taps, &[&weight]), bias })
    }

    /// `y = silu(conv(x) + b)` for the rows `first..` of a walk, as many as `y` holds.
    pub(crate) fn silu(&self, isa: Isa, walk: &Walk, x: &[f32], first: usize, y: &mut [f32]) {
        over_paths(isa, walk.parents(), x, &self.taps, first, y);
        if let Some(bias) = &self.bias {
            add_bias(isa, bias, y);
        }
        Activation::Silu.apply(isa, y);
    }
}

/// `y[row - first] = Σ_t w[t] ⊙ x[ancestor t of row]` for the rows `first..`, as many as `y` holds; the farthest ancestor
/// comes first in the sum, and those before the root are left out. `x` is `[rows, C]`, `y` is `[some, C]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn over_paths(isa: Isa, parents: &[u32], x: &[f32], taps: &Taps, first: usize, y: &mut [f32]) {
    assert_eq!(x.len(), parents.len() * taps.channels, "x has another number of rows than the walk");
    launch(isa, OverPaths { parents, x, taps, first, y });
}

struct OverPaths<'a> {
    parents: &'a [u32],
    x: &'a [f32],
    taps: &'a Taps,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for OverPaths<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let channels = self.taps.channels;
        let mut path = Vec::with_capacity(self.taps.count());
        for (row, y) in (self.first..).zip(self.y.chunks_exact_mut(channels)) {
            path.clear();
            let above = |&row: &u32| Some(self.parents[row as usize]).filter(|&p| p != NO_PARENT);
            path.extend(std::iter::successors(Some(row as u32), above).take(self.taps.count()));
            y.fill(0.0);
            for (age, &row) in path.iter().enumerate().rev() {
                let w = &self.taps.weights[(self.taps.count() - 1 - age) * channels..][..channels];
                let x = &self.x[row as usize * channels..][..channels];
                for ((y, &w), &x) in y.iter_mut().zip(w).zip(x) {
                    *y = w.mul_add(x, *y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random::Numbers;

    /// `Σ_age w[channel][last - age] · x[ancestor][channel]`, walking up from the node, in f64.
    fn naive(parents: &[u32], x: &[f32], w: &[f32], taps: usize, row: usize, channel: usize) -> f64 {
        let channels = w.len() / taps;
        let (mut sum, mut at) = (0.0, row as u32);
        for age in 0..taps {
            if at == NO_PARENT {
                break;
            }
            let x = f64::from(x[at as usize * channels + channel]);
            sum += f64::from(w[channel * taps + taps - 1 - age]) * x;
            at = parents[at as usize];
        }
        sum
    }

    #[test]
    fn agrees_with_the_sum_over_ancestors_for_any_rows() {
        let parents = [NO_PARENT, 0, 1, 1, 3, 4, NO_PARENT, 6, 2];
        for (taps, channels) in [(1, 5), (3, 17), (4, 32)] {
            let mut numbers = Numbers::new(taps as u64);
            let (x, w) = (numbers.normal(9 * channels, 1.0), numbers.normal(channels * taps, 1.0));
            let packed = Taps::new(taps, &[&w[..taps], &w[taps..]]);
            let mut all = vec![0.0; 9 * channels];
            over_paths(Isa::PORTABLE, &parents, &x, &packed, 0, &mut all);
            for (i, &y) in all.iter().enumerate() {
                let exact = naive(&parents, &x, &w, taps, i / channels, i % channels);
                assert!((f64::from(y) - exact).abs() < 2e-6, "{taps} taps at {i}: {y} {exact}");
            }
            for isa in Isa::available() {
                let mut part = vec![0.0; 4 * channels];
                over_paths(isa, &parents, &x, &packed, 3, &mut part);
                assert_eq!(part, all[3 * channels..7 * channels]);
            }
        }
    }
}
