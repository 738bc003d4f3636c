//! Mamba's state space over a forest: `h = exp(Δ A) ⊙ h + (Δ x) B`, `y = h C + D x`, per channel (architectures.md 5).

use rayon::prelude::*;

use super::forest::{Advance, Walk, carry};
use crate::kernels::elementwise::exp;
use crate::kernels::{Isa, Kernel, launch};

/// Channels that one task takes side by side, in the lanes of registers.
pub(crate) const CHANNELS: usize = 32;

/// `A` and `D` of one layer, ready for the scan.
#[derive(Debug)]
pub(crate) struct Rates {
    /// `A`, `[groups, N, CHANNELS]`, padded with zeros.
    a: Vec<[f32; CHANNELS]>,
    skip: Vec<f32>,
    states: usize,
}

impl Rates {
    /// From `A_log [D, N]` and `D [D]`.
    pub(crate) fn new(log: &[f32], skip: Vec<f32>) -> Self {
        let states = log.len() / skip.len();
        let mut a = vec![[0.0; CHANNELS]; skip.len().div_ceil(CHANNELS) * states];
        for (channel, row) in log.chunks_exact(states).enumerate() {
            for (n, &log) in row.iter().enumerate() {
                a[channel / CHANNELS * states + n][channel % CHANNELS] = -f64::from(log).exp() as f32;
            }
        }
        Self { a, skip, states }
    }

    /// Channels.
    pub(crate) fn channels(&self) -> usize {
        self.skip.len()
    }

    /// `N`
    pub(crate) fn states(&self) -> usize {
        self.states
    }
}

/// Inputs of a scan, one row per row of the walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// `[rows, D]`
    pub(crate) x: &'a [f32],
    /// Δ, `[rows, D]`
    pub(crate) step: &'a [f32],
    /// B and C side by side, `[rows, 2N]`.
    pub(crate) bc: &'a [f32],
}

/// Runs the scan in parallel over groups of channels. `y` is group by group, `[rows, CHANNELS]` each, the last one as wide
/// as channels are left.
pub(crate) fn scan(isa: Isa, walk: &Walk, rates: &Rates, x: Inputs<'_>, y: &mut [f32]) {
    assert!(y.len() == walk.len() * rates.channels() && x.x.len() == y.len() && x.step.len() == y.len());
    y.par_chunks_mut(walk.len() * CHANNELS).enumerate().for_each(|(group, y)| {
        launch(isa, Group { walk, rates, x, group, y });
    });
}

struct Group<'a> {
    walk: &'a Walk,
    rates: &'a Rates,
    x: Inputs<'a>,
    group: usize,
    y: &'a mut [f32],
}

impl Kernel for Group<'_> {
    #[inline(always)]
    fn run(mut self, _: Isa) {
        carry(self.walk, self.rates.states * CHANNELS, &mut self);
    }
}

impl Advance for Group<'_> {
    #[inline(always)]
    fn begin(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn advance(&mut self, row: usize, state: &mut [f32]) {
        let (channels, states) = (self.rates.channels(), self.rates.states);
        let first = self.group * CHANNELS;
        let width = CHANNELS.min(channels - first);
        let at = row * channels + first..row * channels + first + width;
        let (x, step) = (lanes(&self.x.x[at.clone()]), lanes(&self.x.step[at]));
        let mut added = [0.0f32; CHANNELS];
        let mut sums = [0.0f32; CHANNELS];
        for c in 0..CHANNELS {
            added[c] = step[c] * x[c];
        }
        let (b, c) = self.x.bc[row * 2 * states..][..2 * states].split_at(states);
        let (state, _) = state.as_chunks_mut::<CHANNELS>();
        let rates = &self.rates.a[self.group * states..][..states];
        for (((state, rates), &b), &c) in state.iter_mut().zip(rates).zip(b).zip(c) {
            let mut s = *state;
            for j in 0..CHANNELS {
                s[j] = exp(step[j] * rates[j]).mul_add(s[j], added[j] * b);
            }
            for j in 0..CHANNELS {
                sums[j] = c.mul_add(s[j], sums[j]);
            }
            *state = s;
        }
        let skip = lanes(&self.rates.skip[first..first + width]);
        for c in 0..CHANNELS {
            sums[c] = skip[c].mul_add(x[c], sums[c]);
        }
        self.y[row * width..][..width].copy_from_slice(&sums[..width]);
    }
}

/// Up to [`CHANNELS`] values, padded with zeros.
#[inline(always)]
fn lanes(x: &[f32]) -> [f32; CHANNELS] {
    let mut lanes = [0.0; CHANNELS];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}
