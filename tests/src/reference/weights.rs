//! A model's folder: `config.json`, and `model.safetensors` or the shards that its index names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bheval_abi::{Failure, Status};
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

use super::layers::{LayerNorm, Linear, Rows};

/// The files of one model, read whole.
pub struct Folder {
    path: PathBuf,
    config: serde_json::Value,
    shards: Vec<Vec<u8>>,
}

impl Folder {
    /// Reads the folder of a model of this type.
    ///
    /// # Errors
    /// Files that are missing or damaged, and a model of another type.
    pub fn open(path: &Path, model_type: &str) -> Result<Self, Failure> {
        let read = |name: &str| {
            let file = path.join(name);
            std::fs::read(&file).map_err(|e| Failure::model(format!("can't read {}: {e}", file.display())))
        };
        let config: serde_json::Value = bheval_python_json::parse(&read("config.json")?)
            .map_err(|e| Failure::model(format!("{}/config.json: {e}", path.display())))?;
        if config["model_type"] != model_type {
            let text = format!("{} holds a model of type {}", path.display(), config["model_type"]);
            return Err(Failure::new(Status::UNSUPPORTED, text));
        }
        let shards = match std::fs::read(path.join("model.safetensors.index.json")) {
            Ok(index) => shard_names(&index)?.iter().map(|name| read(name)).collect::<Result<_, _>>()?,
            Err(_) => vec![read("model.safetensors")?],
        };
        Ok(Self { path: path.to_owned(), config, shards })
    }

    /// The settings that `T` names.
    pub(super) fn config<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        T::deserialize(&self.config)
            .map_err(|e| Failure::model(format!("{}/config.json: {e}", self.path.display())))
    }

    /// Refuses the model unless the setting has a value for which the definition holds.
    pub(super) fn insist(&self, setting: &str, holds: bool) -> Result<(), Failure> {
        if holds {
            return Ok(());
        }
        let text = format!("{}: no reference for {setting} {}", self.path.display(), self.config[setting]);
        Err(Failure::new(Status::UNSUPPORTED, text))
    }

    /// Number of values in the file; a tied weight is stored once.
    pub(super) fn parameters(&self) -> Result<u64, Failure> {
        let size = |file: &SafeTensors<'_>| -> u64 {
            file.iter().map(|(_, tensor)| tensor.shape().iter().product::<usize>() as u64).sum()
        };
        Ok(self.files()?.iter().map(size).sum())
    }

    /// The vector of this name and length.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Vec<f64>, Failure> {
        self.values(name, &[len])
    }

    /// The rows of the matrix of this name.
    pub(super) fn rows(&self, name: &str, rows: usize, columns: usize) -> Result<Rows, Failure> {
        Ok(self.values(name, &[rows, columns])?.chunks_exact(columns).map(<[f64]>::to_vec).collect())
    }

    /// A projection stored `[out, in]`, as torch's `Linear` keeps it, with `{name}.bias` where `bias` is set.
    pub(super) fn linear(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, Failure> {
        let weight = self.rows(&format!("{name}.weight"), outputs, inputs)?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), outputs)?) } else { None };
        Ok(Linear::from_outputs(&weight, bias))
    }

    /// A projection stored `[in, out]` with a bias, as GPT-2's `Conv1D` keeps it.
    pub(super) fn conv1d(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, Failure> {
        let weight = self.rows(&format!("{name}.weight"), inputs, outputs)?;
        Ok(Linear::new(weight, Some(self.vector(&format!("{name}.bias"), outputs)?)))
    }

    /// A layer norm with `{name}.weight` and `{name}.bias`.
    pub(super) fn layer_norm(&self, name: &str, width: usize, epsilon: f64) -> Result<LayerNorm, Failure> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        Ok(LayerNorm { weight, bias: self.vector(&format!("{name}.bias"), width)?, epsilon })
    }

    /// A stack of matrices, one after the other.
    pub(super) fn blocks(
        &self,
        name: &str,
        blocks: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Rows>, Failure> {
        let values = self.values(name, &[blocks, rows, columns])?;
        let block = |values: &[f64]| values.chunks_exact(columns).map(<[f64]>::to_vec).collect();
        Ok(values.chunks_exact(rows * columns).map(block).collect())
    }

    /// The vector of this name where the setting asks for it.
    pub(super) fn optional(&self, name: &str, len: usize, wanted: bool) -> Result<Option<Vec<f64>>, Failure> {
        wanted.then(|| self.vector(name, len)).transpose()
    }

    fn files(&self) -> Result<Vec<SafeTensors<'_>>, Failure> {
        let broken = |e| Failure::model(format!("weights in {}: {e}", self.path.display()));
        self.shards.iter().map(|bytes| SafeTensors::deserialize(bytes).map_err(broken)).collect()
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, Failure> {
        let wrong = |what: String| Failure::model(format!("{}: tensor {name} {what}", self.path.display()));
        let files = self.files()?;
        let tensor = files.iter().find_map(|file| file.tensor(name).ok());
        let tensor = tensor.ok_or_else(|| wrong("is missing".to_owned()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(wrong(format!("is {:?} {:?}, not F32 {shape:?}", tensor.dtype(), tensor.shape())));
        }
        let (words, _) = tensor.data().as_chunks();
        Ok(words.iter().map(|&word| f64::from(f32::from_le_bytes(word))).collect())
    }
}

/// The files of the tensors, each once.
fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, Failure> {
    let broken = || Failure::model("the index of the weights has no `weight_map`");
    let index: serde_json::Value = serde_json::from_slice(index).map_err(|_| broken())?;
    let map = index["weight_map"].as_object().ok_or_else(broken)?;
    Ok(map.values().filter_map(|shard| shard.as_str().map(str::to_owned)).collect())
}
