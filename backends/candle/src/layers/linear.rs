//! `y = W x + b`.

use bheval_abi::Failure;

use crate::kernels::Isa;
use crate::kernels::activation::add_bias;
use crate::kernels::gemm::{Packed, Store, matmul};
use crate::weights::{Weights, floats};

/// A matrix `W [out, in]`, packed, and perhaps a bias `b [out]`.
#[derive(Debug)]
pub struct Linear {
    /// `W`
    pub weights: Packed,
    /// `b`
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// The matrices of some names, `[out, in]` each, one below the other as if they were one, and their biases.
    ///
    /// # Errors
    /// What [`Weights::tensor`] refuses.
    pub fn load(
        weights: &mut Weights,
        names: &[String],
        (out, inner): (usize, usize),
        bias: bool,
    ) -> Result<Self, Failure> {
        Self::load_parts(weights, names, &vec![out; names.len()], inner, bias)
    }

    /// As [`Linear::load`], with a width for each.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn load_parts(
        weights: &mut Weights,
        names: &[String],
        out: &[usize],
        inner: usize,
        bias: bool,
    ) -> Result<Self, Failure> {
        let (mut matrices, mut biases) = (vec![], vec![]);
        for (name, &out) in names.iter().zip(out) {
            matrices.push(floats(&weights.tensor(&format!("{name}.weight"), &[out, inner])?)?);
            if bias {
                biases.extend(floats(&weights.tensor(&format!("{name}.bias"), &[out])?)?);
            }
        }
        let parts: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        Ok(Self { weights: Packed::new(inner, &parts), bias: bias.then_some(biases) })
    }

    /// A matrix stored as `[in, out]`, as GPT-2's `Conv1D` does, with its bias.
    ///
    /// # Errors
    /// What [`Weights::tensor`] refuses.
    pub fn load_transposed(
        weights: &mut Weights,
        name: &str,
        (out, inner): (usize, usize),
    ) -> Result<Self, Failure> {
        let stored = floats(&weights.tensor(&format!("{name}.weight"), &[inner, out])?)?;
        let matrix: Vec<f32> =
            (0..out).flat_map(|o| (0..inner).map(move |i| i * out + o)).map(|at| stored[at]).collect();
        let bias = floats(&weights.tensor(&format!("{name}.bias"), &[out])?)?;
        Ok(Self { weights: Packed::new(inner, &[&matrix]), bias: Some(bias) })
    }

    /// Width of its result.
    #[must_use]
    pub fn out(&self) -> usize {
        self.weights.columns()
    }

    /// `y [M, out] = W x + b`, or `y + W x + b`, for the rows of `x [M, in]`.
    pub fn apply(&self, isa: Isa, x: &[f32], store: Store, y: &mut [f32]) {
        matmul(isa, x, &self.weights, store, y);
        if let Some(bias) = &self.bias {
            add_bias(isa, bias, y);
        }
    }
}
