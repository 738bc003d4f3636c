//! From a model's files to plain `f32` rows and packed matrices.

use std::path::{Path, PathBuf};

use bheval_abi::Failure;
use candle_core::DType;

use crate::head::Head;
use crate::kernels::gemm::Packed;
use crate::linear::Linear;
use crate::weights::{Weights, floats};

/// `config.json` of the model at `path`: a folder, or a safetensors file beside it.
pub(crate) fn config_of(path: &Path) -> PathBuf {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    folder.join("config.json")
}

/// Reads the tensors of one model.
pub(crate) struct Loader {
    weights: Weights,
    config: PathBuf,
}

impl Loader {
    /// Opens the files at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { weights: Weights::open(path, DType::F32)?, config: config_of(path) })
    }

    /// Whether the files have this tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.shape(name).is_some()
    }

    /// The shape of a tensor, if the files have it.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(name)
    }

    /// The values of a tensor of this shape, row by row.
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
        self.stacked(&[name], inputs, &[outputs], bias)
    }

    /// Projections of one input, their outputs side by side.
    pub(crate) fn stacked(
        &mut self,
        names: &[&str],
        inputs: usize,
        outputs: &[usize],
        bias: bool,
    ) -> Result<Linear, Failure> {
        let (mut weights, mut biases) = (vec![], vec![]);
        for (name, &outputs) in names.iter().zip(outputs) {
            weights.push(self.values(&format!("{name}.weight"), &[outputs, inputs])?);
            if bias {
                biases.extend(self.values(&format!("{name}.bias"), &[outputs])?);
            }
        }
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        Ok(Linear { weights: Packed::new(inputs, &weights), bias: bias.then_some(biases) })
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

    /// The head `lm_head.weight`, or the embedding again where `key` of the configuration ties them.
    pub(crate) fn head(&mut self, embeddings: &[f32], width: usize, tied: bool, key: &str) -> Result<Head, Failure> {
        let (name, shape) = ("lm_head.weight", [embeddings.len() / width, width]);
        if !tied {
            return Ok(Head::new(width, &self.values(name, &shape)?));
        }
        if self.has(name) && floats(&self.weights.duplicate(name, &shape)?)? != embeddings {
            return Err(Failure::model(format!(
                "{}: `{key}` is true (or absent, which means true), but `{name}` differs from the embedding; set it to \
                 false if the head was trained separately",
                self.config.display()
            )));
        }
        Ok(Head::new(width, embeddings))
    }

    /// Number of weights, a tied one counted once; refuses tensors of the model that nothing asked for. Their names begin
    /// with one of `prefixes`.
    pub(crate) fn finish(self, prefixes: &[&str]) -> Result<u64, Failure> {
        self.weights.unused_beside(prefixes)?;
        Ok(self.weights.parameters())
    }
}
