//! A projection with or without a bias.

use crate::kernels::Isa;
use crate::kernels::activation::add_bias;
use crate::kernels::gemm::{Packed, Store, matmul};

/// `y = x · Wᵀ + b`
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weights: Packed,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Writes the products of some rows.
    pub(crate) fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        self.store(isa, x, Store::Set, y);
    }

    /// Adds the products of some rows: the end of a residual branch.
    pub(crate) fn add(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        self.store(isa, x, Store::Add, y);
    }

    fn store(&self, isa: Isa, x: &[f32], store: Store, y: &mut [f32]) {
        matmul(isa, x, &self.weights, store, y);
        if let Some(bias) = &self.bias {
            add_bias(isa, bias, y);
        }
    }

    /// Values of a row of products.
    pub(crate) fn outputs(&self) -> usize {
        self.weights.columns()
    }

    /// Values of a row that it takes.
    pub(crate) fn inputs(&self) -> usize {
        self.weights.inner()
    }
}
