//! Norms over a row.

use bheval_abi::Failure;

use crate::kernels::Isa;
use crate::kernels::elementwise::{layer_norm, rms_norm};
use crate::weights::{Weights, floats};

/// A norm with its weights, `[D]` each.
#[derive(Debug)]
pub enum Norm {
    /// `w ⊙ x / sqrt(mean(x²) + ε)`
    Rms {
        /// `w`
        weight: Vec<f32>,
        /// ε
        eps: f64,
    },
    /// `w ⊙ (x - mean) / sqrt(variance + ε) + b`
    Layer {
        /// `w`
        weight: Vec<f32>,
        /// `b`
        bias: Vec<f32>,
        /// ε
        eps: f64,
    },
}

impl Norm {
    /// The RMSNorm of a name.
    ///
    /// # Errors
    /// What [`Weights::tensor`] refuses.
    pub fn rms(weights: &mut Weights, name: &str, width: usize, eps: f64) -> Result<Self, Failure> {
        Ok(Self::Rms { weight: floats(&weights.tensor(&format!("{name}.weight"), &[width])?)?, eps })
    }

    /// The LayerNorm of a name; `gamma` and `beta` are what old files call weight and bias.
    ///
    /// # Errors
    /// What [`Weights::tensor`] refuses.
    pub fn layer(weights: &mut Weights, name: &str, width: usize, eps: f64) -> Result<Self, Failure> {
        let old = weights.shape(&format!("{name}.gamma")).is_some();
        let [w, b] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let mut part = |part: &str| floats(&weights.tensor(&format!("{name}.{part}"), &[width])?);
        Ok(Self::Layer { weight: part(w)?, bias: part(b)?, eps })
    }

    /// Applies it to the rows of `x [M, D]`.
    pub fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        match self {
            Self::Rms { weight, eps } => rms_norm(isa, x, weight, *eps, y),
            Self::Layer { weight, bias, eps } => layer_norm(isa, x, weight, bias, *eps, y),
        }
    }
}
