//! Lower bounds of HGRN2's forget gates (architectures.md 1.3 and 1.8): one tensor `λ [L, D]` for all layers,
//! `p = softmax(λ)` over the layers and `β_l = p_1 + … + p_l`.
//!
//! A layer's bound is no matrix of tokens, so it is not on the tape: layers read it from a [`Bound`] and leave its gradient
//! there; the operation, which came before all of them, turns those into the gradient of `λ`.

use std::sync::{Arc, Mutex, PoisonError};

use bheval_kernels::elementwise::LowerBound;
use bheval_kernels::gemm::Store;

use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// A bound below this one is 0: no gate can tell, and gradients of gates that are divided by it stay finite.
const LEAST: f64 = 1e-30;

/// The lower bound of one layer's forget gates, `β [D]`, and the sum of its gradients.
#[derive(Clone, Debug)]
pub struct Bound {
    values: Arc<LowerBound>,
    gradient: Option<Arc<Mutex<Vec<f32>>>>,
}

impl Bound {
    /// No bound: `β = 0`.
    #[must_use]
    pub fn none(width: usize) -> Self {
        let values = LowerBound { bound: vec![0.0; width], complement: vec![1.0; width] };
        Self { values: Arc::new(values), gradient: None }
    }

    /// `β`, and `1 - β` rounded once.
    #[must_use]
    pub fn values(&self) -> &LowerBound {
        &self.values
    }

    /// Adds to the gradient of `β`.
    pub(crate) fn add_gradient(&self, rows: impl Iterator<Item = impl AsRef<[f32]>>) {
        let Some(gradient) = &self.gradient else { return };
        let mut sum = gradient.lock().unwrap_or_else(PoisonError::into_inner);
        rows.for_each(|row| sum.iter_mut().zip(row.as_ref()).for_each(|(sum, g)| *sum += g));
    }
}

/// The bounds of all layers from `λ [layers, D]`; the first layer has none.
pub fn lower_bounds(tape: &mut Tape<'_>, lambda: Parameter, layers: usize) -> Vec<Bound> {
    let weights = softmax(tape.parameter(lambda), layers);
    let width = weights.len() / layers;
    let mut sum = vec![0.0; width];
    let mut bounds = vec![Bound::none(width)];
    for weights in weights.chunks_exact(width).skip(1) {
        sum.iter_mut().zip(weights).for_each(|(sum, p)| *sum += p);
        bounds.push(Bound {
            values: Arc::new(rounded(&sum)),
            gradient: Some(Arc::new(Mutex::new(vec![0.0; width]))),
        });
    }
    let gradients = bounds.iter().filter_map(|b| b.gradient.clone()).collect();
    tape.push(vec![], |y| Record { y, lambda, weights, gradients });
    bounds
}

fn rounded(bounds: &[f64]) -> LowerBound {
    let exact = |b: &f64| if *b < LEAST { 0.0 } else { b.min(1.0) };
    LowerBound {
        bound: bounds.iter().map(|b| exact(b) as f32).collect(),
        complement: bounds.iter().map(|b| (1.0 - exact(b)) as f32).collect(),
    }
}

/// `softmax` over the layers, per channel.
fn softmax(lambda: &[f32], layers: usize) -> Vec<f64> {
    let width = lambda.len() / layers;
    let mut p = vec![0.0; lambda.len()];
    for channel in 0..width {
        let column = || (channel..lambda.len()).step_by(width);
        let max = column().map(|i| lambda[i]).fold(f32::MIN, f32::max);
        column().for_each(|i| p[i] = f64::from(lambda[i] - max).exp());
        let sum: f64 = column().map(|i| p[i]).sum();
        column().for_each(|i| p[i] /= sum);
    }
    p
}

struct Record {
    y: Value,
    lambda: Parameter,
    /// `p [L, D]`
    weights: Vec<f64>,
    /// Those of `β_1`, `β_2`, …
    gradients: Vec<Arc<Mutex<Vec<f32>>>>,
}

impl Operation for Record {
    /// `dp_j = Σ_{l>=j} dβ_l` for `j >= 1` and `dp_0 = 0`; `dλ_j = p_j ⊙ (dp_j - Σ_m p_m ⊙ dp_m)`.
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Self { y, lambda, weights, gradients } = *self;
        drop(back.gradient(y));
        let width = weights.len() / (gradients.len() + 1);
        let mut dp = vec![0.0f64; weights.len()];
        for (l, gradient) in gradients.iter().enumerate().rev() {
            let gradient = gradient.lock().unwrap_or_else(PoisonError::into_inner);
            for (c, g) in gradient.iter().enumerate() {
                let later = dp.get((l + 2) * width + c).copied().unwrap_or(0.0);
                dp[(l + 1) * width + c] = later + f64::from(*g);
            }
        }
        let (store, mut d_lambda) = back.open_parameter(lambda);
        for c in 0..width {
            let column = || (c..weights.len()).step_by(width);
            let mean: f64 = column().map(|i| weights[i] * dp[i]).sum();
            for i in column() {
                let g = (weights[i] * (dp[i] - mean)) as f32;
                d_lambda[i] = if store == Store::Add { d_lambda[i] + g } else { g };
            }
        }
        back.close_parameter(lambda, d_lambda);
    }
}
