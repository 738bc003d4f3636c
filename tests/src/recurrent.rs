//! What the tests of recurrent models share: golden checkpoints, and logits through the backend contract.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bheval_abi::{ForestView, LanguageModel, NO_PARENT, Opening};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A folder of this repository with a tiny checkpoint and what peer software computed for it; `recurrent.py` beside it is
/// the recipe.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// One sequence of a fixture: ids, and logits row by row.
pub struct Expected {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `[T, V]`
    pub logits: Vec<f32>,
}

/// The sequences of a fixture.
///
/// # Panics
/// If its `golden.safetensors` is not as the recipe writes it.
#[must_use]
pub fn expected(folder: &Path) -> Vec<Expected> {
    let bytes = std::fs::read(folder.join("golden.safetensors")).expect("golden.safetensors is there");
    let tensors = SafeTensors::deserialize(&bytes).expect("golden.safetensors is understood");
    let words = |name: String| tensors.tensor(&name).ok().map(|t| t.data().to_vec());
    let sequence = |i: usize| {
        let (ids, logits) = (words(format!("ids.{i}"))?, words(format!("logits.{i}"))?);
        let ids = ids.as_chunks::<8>().0.iter().map(|&id| i64::from_le_bytes(id) as u32).collect();
        Some(Expected { ids, logits: floats(&logits) })
    };
    let found: Vec<_> = (0..).map_while(sequence).collect();
    assert!(!found.is_empty(), "{} holds no sequence", folder.display());
    found
}

/// Little-endian values.
#[must_use]
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// Opens a model with two threads.
///
/// # Panics
/// If the model is refused.
#[must_use]
pub fn open<M: LanguageModel>(path: &Path) -> M {
    M::open(&Opening { path: path.to_owned(), threads: 2, dtype: bheval_abi::Dtype::F32, memory: 1 << 28 })
        .expect("the model opens")
}

/// The logits after each token of a sequence, `[T, V]`.
///
/// # Panics
/// If the model refuses the sequence.
pub fn logits<M: LanguageModel>(model: &mut M, ids: &[u32]) -> Vec<f32> {
    let parent: Vec<u32> = (0..ids.len() as u32).map(|t| t.checked_sub(1).unwrap_or(NO_PARENT)).collect();
    let wanted = vec![1; ids.len()];
    let forest = ForestView::new(ids, &parent, &wanted).expect("a chain is well formed");
    let mut out = vec![f32::NAN; ids.len() * model.info().vocab as usize];
    model.logits(forest, &mut out).expect("the sequence has logits");
    out
}

/// The largest difference of two rows of values.
///
/// # Panics
/// If they differ in number.
#[must_use]
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |x, y| if y > x || y.is_nan() { y } else { x })
}

/// A made-up checkpoint: a configuration, and tensors of random numbers.
pub struct Checkpoint {
    /// `config.json`
    pub config: serde_json::Value,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
    numbers: u64,
}

impl Checkpoint {
    /// Without tensors yet. The seed decides what they will hold.
    #[must_use]
    pub fn new(config: serde_json::Value, seed: u64) -> Self {
        Self { config, tensors: vec![], numbers: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) }
    }

    /// A number between 0 and 1 (SplitMix64).
    fn unit(&mut self) -> f64 {
        self.numbers = self.numbers.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.numbers ^ (self.numbers >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Adds a tensor of even numbers around a centre.
    pub fn put(&mut self, name: &str, shape: &[usize], centre: f64, spread: f64) {
        let one = |s: &mut Self| (centre + (s.unit() - 0.5) * 2.0 * spread) as f32;
        let bytes = (0..shape.iter().product()).flat_map(|_| one(self).to_le_bytes()).collect();
        self.tensors.push((name.to_owned(), shape.to_vec(), bytes));
    }

    /// Adds a matrix whose products are about as large as what it is multiplied with.
    pub fn matrix(&mut self, name: &str, out: usize, inner: usize) {
        self.put(name, &[out, inner], 0.0, (3.0 / inner as f64).sqrt());
    }

    /// Writes the files of a model's folder.
    ///
    /// # Panics
    /// If they can't be written.
    pub fn write<'a>(&'a self, folder: &Path) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).expect("config.json is written");
        let view = |(name, shape, bytes): &'a (String, Vec<usize>, Vec<u8>)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the bytes fit the shape");
            (name.clone(), view)
        };
        let views: HashMap<_, _> = self.tensors.iter().map(view).collect();
        safetensors::serialize_to_file(&views, None, &folder.join("model.safetensors"))
            .expect("weights are written");
    }
}
