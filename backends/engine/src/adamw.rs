//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), one pass over each tensor.
//!
//! ```text
//! θ ← θ − η λ θ;  m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
//! θ ← θ − η / (1 − β₁ᵗ) · m / (sqrt(v / (1 − β₂ᵗ)) + ε)
//! ```

use bheval_abi::{Failure, TrainRates};
use bheval_kernels::elementwise::lane_sum;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::parameters::Parameters;

/// Values that one task updates.
const TASK: usize = 1 << 14;

/// First and second moments of every tensor.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// `m`
    pub first: Vec<Vec<f32>>,
    /// `v`
    pub second: Vec<Vec<f32>>,
}

impl Moments {
    /// Zeros for every tensor.
    #[must_use]
    pub fn new(parameters: &Parameters) -> Self {
        let zeros = |spec: &crate::parameters::Spec| vec![0.0; spec.shape.iter().product()];
        let first: Vec<_> = parameters.specs().iter().map(zeros).collect();
        Self { second: first.clone(), first }
    }
}

/// The norm of all gradients together: in f32 lanes within blocks of fixed places, in f64 between them.
#[must_use]
pub fn norm(isa: Isa, gradients: &[Vec<f32>]) -> f64 {
    let square = |x: &[f32]| {
        let mut sum = 0.0;
        launch(isa, Square { x, sum: &mut sum });
        sum
    };
    let tensor = |x: &Vec<f32>| x.par_chunks(TASK).map(square).collect::<Vec<f64>>().iter().sum::<f64>();
    gradients.iter().map(tensor).sum::<f64>().sqrt()
}

struct Square<'a> {
    x: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Square<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let sum = lane_sum(self.x, |sum, x| x.mul_add(x, sum));
        // Squares of finite values can overflow f32; a gradient that large is still a finite one.
        *self.sum =
            if sum.is_finite() { sum } else { self.x.iter().map(|&x| f64::from(x) * f64::from(x)).sum() };
    }
}

/// Updates every tensor by its gradient, scaled so that the norm of all is at most `rates.clip`. Returns the norm before
/// that; where it is not finite, nothing changes.
///
/// # Errors
/// Rates that make no sense.
pub fn update(
    isa: Isa,
    rates: &TrainRates,
    parameters: &mut Parameters,
    gradients: &[Vec<f32>],
    moments: &mut Moments,
) -> Result<f64, Failure> {
    check(rates)?;
    let norm = norm(isa, gradients);
    if !norm.is_finite() {
        return Ok(norm);
    }
    // As PyTorch's clip_grad_norm_: the 1e-6 keeps the quotient defined.
    let clip = if rates.clip > 0.0 { (rates.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let decays: Vec<bool> = parameters.specs().iter().map(|s| s.decay || rates.decay_all != 0).collect();
    let values = parameters.values_mut().iter_mut().zip(gradients).zip(decays);
    let moments = moments.first.iter_mut().zip(&mut moments.second);
    for (((value, gradient), decay), (first, second)) in values.zip(moments) {
        let factors = Factors::new(rates, clip, decay);
        let parts = value.par_chunks_mut(TASK).zip(gradient.par_chunks(TASK));
        let moments = first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK));
        parts.zip(moments).for_each(|((value, gradient), (first, second))| {
            launch(isa, Step { factors, value, gradient, first, second });
        });
    }
    Ok(norm)
}

fn check(rates: &TrainRates) -> Result<(), Failure> {
    let unit = |x: f64| (0.0..1.0).contains(&x);
    let positive = |x: f64| x.is_finite() && x >= 0.0;
    let sound = positive(rates.learning_rate)
        && positive(rates.weight_decay)
        && positive(rates.clip)
        && positive(rates.epsilon)
        && unit(rates.beta1)
        && unit(rates.beta2)
        && rates.step > 0;
    if sound { Ok(()) } else { Err(Failure::input(format!("these rates make no sense: {rates:?}"))) }
}

/// What is the same for all values of a tensor.
#[derive(Clone, Copy)]
struct Factors {
    clip: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    /// `1 - β₁` and `1 - β₂`, each rounded once: one minus the rounded β₂ is off by 1e-5, which the correction for it is not.
    rest: [f32; 2],
    rate: f32,
    correction: f32,
    epsilon: f32,
}

impl Factors {
    fn new(rates: &TrainRates, clip: f64, decay: bool) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(rates.step as f64);
        let decay = if decay { rates.learning_rate * rates.weight_decay } else { 0.0 };
        Self {
            clip: clip as f32,
            keep: (1.0 - decay) as f32,
            beta1: rates.beta1 as f32,
            beta2: rates.beta2 as f32,
            rest: [rates.beta1, rates.beta2].map(|beta| (1.0 - beta) as f32),
            rate: (rates.learning_rate / correction(rates.beta1)) as f32,
            correction: correction(rates.beta2).sqrt().recip() as f32,
            epsilon: rates.epsilon as f32,
        }
    }
}

struct Step<'a> {
    factors: Factors,
    value: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Step<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let f = self.factors;
        let [rest1, rest2] = f.rest;
        let moments = self.first.iter_mut().zip(self.second);
        for ((value, gradient), (first, second)) in self.value.iter_mut().zip(self.gradient).zip(moments) {
            let g = gradient * f.clip;
            *first = f.beta1.mul_add(*first, rest1 * g);
            *second = f.beta2.mul_add(*second, rest2 * g * g);
            let size = second.sqrt().mul_add(f.correction, f.epsilon);
            *value = (*value * f.keep) - f.rate * *first / size;
        }
    }
}
