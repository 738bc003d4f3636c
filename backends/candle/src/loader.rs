//! From a model's files to plain `f32` rows and packed matrices.

use std::path::Path;

use bheval_abi::Failure;
use candle_core::{DType, Tensor};

use crate::kernels::gemm::Packed;
use crate::layers::linear::Linear;
use crate::weights::{Weights, floats};

/// Reads the tensors of one model.
pub(crate) struct Loader {
    weights: Weights,
}

impl Loader {
    /// Opens the files at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { weights: Weights::open(path, DType::F32)? })
    }

    /// The shape of a tensor, if the files have it.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(name)
    }

    /// The tensor of this name and shape.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Failure> {
        self.weights.tensor(name, shape)
    }

    /// The values of a tensor, row by row.
    pub(crate) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure> {
        floats(&self.weights.tensor(name, shape)?)
    }

    /// As [`Loader::values`] where the configuration says that the tensor is there.
    pub(crate) fn optional(
        &mut self,
        name: &str,
        shape: &[usize],
        wanted: bool,
    ) -> Result<Option<Vec<f32>>, Failure> {
        wanted.then(|| self.values(name, shape)).transpose()
    }

    /// `{name}.weight [outputs, inputs]`, with `{name}.bias` where there is one.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, Failure> {
        Linear::load(&mut self.weights, &[name.to_owned()], (outputs, inputs), bias)
    }

    /// Projections of one input, their outputs side by side.
    pub(crate) fn stacked(
        &mut self,
        names: &[String],
        inputs: usize,
        outputs: &[usize],
        bias: bool,
    ) -> Result<Linear, Failure> {
        Linear::load_parts(&mut self.weights, names, outputs, inputs, bias)
    }

    /// One projection cut into several by its outputs.
    pub(crate) fn split<const N: usize>(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: [usize; N],
        bias: bool,
    ) -> Result<[Linear; N], Failure> {
        let all = outputs.iter().sum();
        let weights = self.values(&format!("{name}.weight"), &[all, inputs])?;
        let biases = self.optional(&format!("{name}.bias"), &[all], bias)?;
        let mut first = 0;
        Ok(outputs.map(|outputs| {
            let rows = first..first + outputs;
            first = rows.end;
            Linear {
                weights: Packed::new(inputs, &[&weights[rows.start * inputs..rows.end * inputs]]),
                bias: biases.as_ref().map(|b| b[rows].to_vec()),
            }
        }))
    }

    /// The head's matrix of this name and shape, or the embedding again where `key` of the configuration ties them.
    pub(crate) fn head(
        &mut self,
        name: &str,
        shape: &[usize],
        embeddings: &Tensor,
        (tied, key): (bool, &str),
    ) -> Result<Vec<f32>, Failure> {
        let head = self.weights.tied(name, shape, tied, embeddings);
        let named = |f: Failure| Failure::new(f.status, f.text.replace("tie_word_embeddings", key));
        floats(&head.map_err(named)?)
    }

    /// Number of weights, a tied one counted once; refuses tensors that nothing asked for.
    pub(crate) fn finish(self) -> Result<u64, Failure> {
        self.weights.all_used(&[])?;
        Ok(self.weights.parameters())
    }
}
