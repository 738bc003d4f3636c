//! The tensors of a saved model: one safetensors file, or shards with an index.
//!
//! Every tensor is asked for by name and expected shape and must be finite; whatever is wrong is an error that names the
//! file and the tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use bheval_abi::{Failure, Status};
use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: &str = "adapter_config.json";

/// A model's opened files.
pub struct Weights {
    shards: Vec<(PathBuf, MmapedSafetensors)>,
    /// Shard of each tensor.
    place: BTreeMap<String, usize>,
    used: BTreeSet<String>,
    dtype: DType,
    parameters: u64,
}

impl Weights {
    /// Opens the safetensors file at `path`, or those of the folder `path`. Tensors are brought to `dtype`, f32 or f64.
    ///
    /// # Errors
    /// Files that are missing, damaged, of another format, or that disagree with their index.
    pub fn open(path: &Path, dtype: DType) -> Result<Self, Failure> {
        let mut weights =
            Self { shards: vec![], place: BTreeMap::new(), used: BTreeSet::new(), dtype, parameters: 0 };
        let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
        if folder.join(ADAPTER).exists() {
            return Err(Failure::new(
                Status::UNSUPPORTED,
                format!(
                    "{}: the weights beside it are the base of an adapter, not the fine-tuned model; merge them in Python \
                     (`model.merge_and_unload()`, then `save_pretrained`) into a folder of their own",
                    folder.join(ADAPTER).display()
                ),
            ));
        }
        if path.is_file() {
            weights.add_shard(path.to_owned(), None)?;
        } else if path.join(SINGLE).exists() {
            weights.add_shard(path.join(SINGLE), None)?;
        } else if path.join(INDEX).exists() {
            weights.add_index(path)?;
        } else {
            return Err(nothing_to_open(path));
        }
        Ok(weights)
    }

    fn add_index(&mut self, folder: &Path) -> Result<(), Failure> {
        let file = folder.join(INDEX);
        let wrong = |what: String| Failure::model(format!("{}: {what}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|e| wrong(e.to_string()))?;
        let index: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}; copy the file again")))?;
        let map = index["weight_map"].as_object().ok_or_else(|| wrong("`weight_map` is missing".into()))?;
        let mut shards = BTreeMap::<&str, BTreeSet<&str>>::new();
        for (name, shard) in map {
            let shard =
                shard.as_str().ok_or_else(|| wrong(format!("the shard of `{name}` is not a name")))?;
            shards.entry(shard).or_default().insert(name);
        }
        for (shard, names) in shards {
            // Another ending would keep the shard out of what a run's key covers.
            if !is_plain_file_name(shard) || !shard.ends_with(".safetensors") {
                return Err(wrong(format!(
                    "shard {shard:?} is not a plain file name that ends in .safetensors; shards must lie beside their index"
                )));
            }
            self.add_shard(folder.join(shard), Some(&names))?;
        }
        Ok(())
    }

    /// Opens a file and notes its tensors: all of them, or those that the index promises.
    fn add_shard(&mut self, file: PathBuf, promised: Option<&BTreeSet<&str>>) -> Result<(), Failure> {
        let opened = map(&file)?;
        let present: BTreeSet<String> = opened.tensors().into_iter().map(|(name, _)| name).collect();
        for &name in promised.into_iter().flatten() {
            if !present.contains(name) {
                return Err(Failure::model(format!(
                    "{}: the index promises tensor `{name}` here, but it is not; copy index and shards again",
                    file.display()
                )));
            }
        }
        let wanted = present.into_iter().filter(|n| promised.is_none_or(|p| p.contains(n.as_str())));
        let shard = self.shards.len();
        self.place.extend(wanted.map(|name| (name, shard)));
        self.shards.push((file, opened));
        Ok(())
    }

    /// The shape of a tensor, if the model has it.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (_, shard) = &self.shards[*self.place.get(name)?];
        shard.get(name).ok().map(|view| view.shape().to_vec())
    }

    /// The tensor of this name and shape. It counts towards [`Weights::parameters`].
    ///
    /// # Errors
    /// [`Status::BAD_MODEL`] if it is missing, has another shape, or holds NaN or infinity.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Failure> {
        let tensor = self.read(name, shape)?;
        self.parameters += tensor.elem_count() as u64;
        Ok(tensor)
    }

    /// As [`Weights::tensor`], but not counted: a second copy of a tied weight.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn duplicate(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Failure> {
        self.read(name, shape)
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Failure> {
        let place = self.place.get(name).copied().ok_or_else(|| self.missing(name))?;
        let (file, shard) = &self.shards[place];
        let wrong = |what: String| Failure::model(format!("{}: tensor `{name}` {what}", file.display()));
        let view = shard.get(name).map_err(|e| wrong(format!("can't be read: {e}")))?;
        if view.shape() != shape {
            return Err(wrong(format!(
                "has shape {:?}, but {shape:?} was expected; config.json and weights may belong to different models",
                view.shape()
            )));
        }
        if ![Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64].contains(&view.dtype()) {
            return Err(wrong(format!(
                "is stored as {:?}; f32, f16, bf16 and f64 can be read",
                view.dtype()
            )));
        }
        let tensor = view
            .load(&Device::Cpu)
            .and_then(|t| t.to_dtype(self.dtype))
            .map_err(|e| wrong(format!("can't be read: {e}")))?;
        let broken = not_finite(&tensor).map_err(|e| wrong(format!("can't be read: {e}")))?;
        if broken > 0 {
            return Err(wrong(format!(
                "holds {broken} values of {} that are NaN or infinite; the training run diverged or the file is damaged",
                tensor.elem_count()
            )));
        }
        self.used.insert(name.to_owned());
        Ok(tensor)
    }

    /// An embedding that may be tied to the head: some tools keep a shared matrix under the head's name alone.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn embedding(
        &mut self,
        name: &str,
        head: &str,
        shape: &[usize],
        tied: bool,
    ) -> Result<Tensor, Failure> {
        let alone = tied && self.shape(name).is_none() && self.shape(head).is_some();
        self.tensor(if alone { head } else { name }, shape)
    }

    /// A matrix that may be tied to `original`: where `tied`, `original` itself, and the file may hold an equal copy of it
    /// under `name`; else the tensor of this name and shape.
    ///
    /// # Errors
    /// As [`Weights::tensor`], and a copy that differs from what it is said to be tied to.
    pub fn tied(
        &mut self,
        name: &str,
        shape: &[usize],
        tied: bool,
        original: &Tensor,
    ) -> Result<Tensor, Failure> {
        if !tied {
            return self.tensor(name, shape);
        }
        if self.shape(name).is_some() && differ(&self.duplicate(name, shape)?, original)? {
            let files: Vec<_> = self.shards.iter().map(|(file, _)| file.display().to_string()).collect();
            return Err(Failure::model(format!(
                "{}: `tie_word_embeddings` is true, but `{name}` differs from the embedding; set it to false in \
                 config.json if the head was trained separately",
                files.join(", ")
            )));
        }
        Ok(original.clone())
    }

    fn missing(&self, name: &str) -> Failure {
        let nearest = self.place.keys().min_by_key(|known| edit_distance(name, known));
        let hint =
            nearest.map_or("the file has no tensor at all".into(), |n| format!("the nearest is `{n}`"));
        let files: Vec<_> = self.shards.iter().map(|(file, _)| file.display().to_string()).collect();
        Failure::model(format!(
            "{}: tensor `{name}` is missing; {hint}. Was it saved from the causal language model class?",
            files.join(", ")
        ))
    }

    /// Number of weights read, a tied one counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Refuses tensors that nothing asked for, but for those whose name contains one of `harmless`.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] with the first one: leaving it out could change results.
    pub fn all_used(&self, harmless: &[&str]) -> Result<(), Failure> {
        let open =
            |name: &&String| !self.used.contains(*name) && !harmless.iter().any(|part| name.contains(part));
        match self.place.keys().find(open) {
            None => Ok(()),
            Some(name) => Err(self.no_place(name)),
        }
    }

    fn no_place(&self, name: &str) -> Failure {
        Failure::new(
            Status::UNSUPPORTED,
            format!(
                "{}: tensor `{name}` belongs to the model but has no place in the architecture that config.json \
                 describes; leaving it out would change scores. Check config.json",
                self.shards[self.place[name]].0.display()
            ),
        )
    }

    /// Names of the tensors that nothing asked for.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] if one of them belongs to the language model: leaving it out would change results.
    pub fn unused(&self) -> Result<Vec<String>, Failure> {
        let unused: Vec<_> = self.place.keys().filter(|n| !self.used.contains(*n)).cloned().collect();
        match unused.iter().find(|n| n.starts_with("model.") || n.starts_with("lm_head.")) {
            None => Ok(unused),
            Some(name) => Err(self.no_place(name)),
        }
    }
}

/// Whether a value differs in two tensors of one shape.
pub(crate) fn differ(a: &Tensor, b: &Tensor) -> Result<bool, Failure> {
    let count = || a.ne(b)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>();
    Ok(count().map_err(internal)? > 0.0)
}

/// A tensor's values, row by row.
pub fn floats(tensor: &Tensor) -> Result<Vec<f32>, Failure> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(internal)
}

/// A failure of candle where shapes were checked before.
pub(crate) fn internal(error: candle_core::Error) -> Failure {
    Failure::new(Status::INTERNAL, format!("candle: {error}"))
}

#[allow(unsafe_code)]
fn map(file: &Path) -> Result<MmapedSafetensors, Failure> {
    // SAFETY: the mapping is read-only and dropped with `Weights`, right after loading. A file that another process cuts
    // short meanwhile would end this one with a signal; no tool writes a saved model in place.
    unsafe { MmapedSafetensors::new(file) }.map_err(|e| {
        Failure::model(format!(
            "{}: not a whole safetensors file ({e}); copy or download it again and compare its size",
            file.display()
        ))
    })
}

fn nothing_to_open(path: &Path) -> Failure {
    let here = path.display();
    if path.join("pytorch_model.bin").exists() || path.join("pytorch_model.bin.index.json").exists() {
        return Failure::new(
            Status::UNSUPPORTED,
            format!(
                "{here}: only pytorch_model.bin is there, a pickle, which is not read; load it in Python and save it \
                 again with `model.save_pretrained(folder, safe_serialization=True)` to get safetensors"
            ),
        );
    }
    Failure::model(format!(
        "{here}: neither {SINGLE} nor {INDEX} is there; is this the folder of a saved model?"
    ))
}

fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':'])
}

fn not_finite(tensor: &Tensor) -> candle_core::Result<usize> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F64 => flat.to_vec1::<f64>()?.iter().filter(|x| !x.is_finite()).count(),
        _ => flat.to_vec1::<f32>()?.iter().filter(|x| !x.is_finite()).count(),
    })
}

/// Levenshtein's distance, for naming the nearest tensor.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        assert_eq!((edit_distance("kitten", "sitting"), edit_distance("", "abc")), (3, 3));
        assert_eq!(edit_distance("q_proj", "q_proj"), 0);
    }

    #[test]
    fn only_plain_file_names_pass() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for bad in ["../x", "..", "/etc/passwd", "a/b", "", ".", "./x", "c:\\x", "a\\b"] {
            assert!(!is_plain_file_name(bad), "{bad}");
        }
    }
}
