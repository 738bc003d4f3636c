//! The gates of one head over one sequence, kept in range.
//!
//! With `F` the sum of `ln σ(f̃)` up to a step, step `j` has the weight `exp(F_t − F_j + ĩ_j − m_t)` in step `t`, where
//! `m_t = max_{j ≤ t}(F_t − F_j + ĩ_j)`. Let `β_j = ĩ_j − F_j` and `μ_t = m_t − F_t`, the largest `β` so far: then it is
//! `exp(β_j − μ_t)`, at most 1, and a product of two such factors on both sides of any step between. The sums are f64: `F`
//! grows with the sequence, while what counts is small differences of it.

use bheval_kernels::cells::log_sigmoid;
use bheval_kernels::elementwise::{exp, sigmoids};
use bheval_kernels::{Isa, Kernel, launch};

use super::flow::Flow;

/// The gates of one head over one sequence.
pub(super) struct Gates {
    /// `f̃`, capped.
    forget: Vec<f32>,
    /// `β`
    beta: Vec<f64>,
    /// `μ` before each step, and after the last one.
    largest: Vec<f64>,
    /// `exp(−m)` at each step.
    floor: Vec<f32>,
}

impl Gates {
    /// From the gates before their activation; `start` is `m` before the first step.
    pub(super) fn new(isa: Isa, input: &[f32], forget: &[f32], start: f32) -> Self {
        let mut floor = vec![0.0; forget.len()];
        launch(isa, Each { f: log_sigmoid, x: forget, y: &mut floor });
        let (mut decay, mut largest) = (0.0, vec![f64::from(start)]);
        let mut negative_m = vec![];
        let next = |(input, log): (&f32, &f32)| {
            decay += f64::from(*log);
            let (beta, before) = (f64::from(*input) - decay, largest[largest.len() - 1]);
            // Not `max`, which would hide NaN.
            let now = if beta <= before { before } else { beta };
            negative_m.push(-(now + decay) as f32);
            largest.push(now);
            beta
        };
        let beta = input.iter().zip(&floor).map(next).collect();
        launch(isa, Each { f: exp, x: &negative_m, y: &mut floor });
        Self { forget: forget.to_vec(), beta, largest, floor }
    }

    /// Steps.
    pub(super) fn len(&self) -> usize {
        self.beta.len()
    }

    /// The weight of step `j` in step `t`, `j ≤ t`.
    #[inline(always)]
    pub(super) fn weight(&self, t: usize, j: usize) -> f32 {
        exp((self.beta[j] - self.largest[t + 1]) as f32)
    }

    /// What is left in step `t` of what was gathered before step `edge`, `edge ≤ t`.
    #[inline(always)]
    pub(super) fn left(&self, t: usize, edge: usize) -> f32 {
        exp((self.largest[edge] - self.largest[t + 1]) as f32)
    }

    /// The weight of step `j` in what was gathered before step `edge`, `j < edge`.
    #[inline(always)]
    pub(super) fn gathered(&self, j: usize, edge: usize) -> f32 {
        exp((self.beta[j] - self.largest[edge]) as f32)
    }

    /// What the numerator is divided by at step `t`: `max(|n|, exp(−m)) + ε`. NaN where `n` overflowed, since to divide by
    /// infinity would silently turn the output into zeros.
    #[inline(always)]
    pub(super) fn denominator(&self, t: usize, n: f32, eps: f32) -> f32 {
        let size = if n.is_infinite() { f32::NAN } else { n.abs() };
        (if size <= self.floor[t] { self.floor[t] } else { size }) + eps
    }

    /// `d max(|n|, exp(−m)) / dn` at step `t`.
    pub(super) fn normaliser_slope(&self, t: usize, n: f32) -> f32 {
        if n.abs() <= self.floor[t] { 0.0 } else { n.signum() }
    }

    /// `dĩ` and `df̃`, side by side, from the gradients of the weights' logarithms and of `m`, which goes to whichever gate set it.
    pub(super) fn gradients(&self, flow: &Flow, out: &mut [f32]) {
        let mut stabiliser = 0.0;
        for t in (0..self.len()).rev() {
            stabiliser += flow.stabiliser[t];
            let (mut input, mut decay) = (flow.input[t], flow.decay[t]);
            if self.beta[t] > self.largest[t] {
                input += stabiliser;
                stabiliser = 0.0;
            } else {
                decay += stabiliser;
            }
            let closed = sigmoids(self.forget[t]).1;
            out[2 * t] = input as f32;
            out[2 * t + 1] = (decay * f64::from(closed)) as f32;
        }
    }
}

/// `y = f(x)`
struct Each<'a, F> {
    f: F,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Fn(f32) -> f32> Kernel for Each<'_, F> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y = (self.f)(*x);
        }
    }
}
