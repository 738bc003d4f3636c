//! What the tests share: the golden checkpoints, forests made of sentences, and models opened through the contract.
#![allow(dead_code)] // Each test binary uses a part.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bheval_abi::{Dtype, Failure, ForestView, Info, LanguageModel, MaskedView, NO_PARENT, Opening};
use bheval_candle::{Hgrn2, Lstm, Mamba, Transformers, Xlstm};
use candle_core::{Device, Tensor};
use serde_json::Value;

/// The golden checkpoints of HGRN2.
pub(crate) const HGRN2S: [&str; 2] = ["hgrn2", "hgrn2_conv"];
/// The golden checkpoints of all causal architectures.
pub(crate) const CAUSAL: [&str; 10] =
    ["hgrn2", "hgrn2_conv", "llama", "gpt2", "gpt_neox", "opt", "lstm", "mamba", "mamba2", "xlstm"];
/// The golden checkpoints of masked architectures.
pub(crate) const MASKED: [&str; 2] = ["bert", "roberta"];

/// A model of any family.
pub(crate) trait Model: Send {
    fn info(&self) -> &Info;
    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure>;
    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure>;
    fn masked(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure>;
}

impl<M: LanguageModel> Model for M {
    fn info(&self) -> &Info {
        LanguageModel::info(self)
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        LanguageModel::score(self, forest, log_prob)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        LanguageModel::logits(self, forest, out)
    }

    fn masked(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        LanguageModel::masked(self, batch, log_prob)
    }
}

pub(crate) type Opened = Box<dyn Model>;

fn boxed<M: LanguageModel>(options: &Opening) -> Result<Opened, Failure> {
    Ok(Box::new(M::open(options)?))
}

/// Opens a model with the family that its `config.json` asks for; HGRN2 where it asks for none of them.
pub(crate) fn try_open(options: &Opening) -> Result<Opened, Failure> {
    let folder =
        if options.path.is_file() { options.path.parent().unwrap_or(&options.path) } else { &options.path };
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&config.replace("Infinity", "null")).unwrap_or_default();
    match config["model_type"].as_str().unwrap_or_default() {
        "llama" | "gpt2" | "gpt_neox" | "opt" | "bert" | "roberta" => boxed::<Transformers>(options),
        "lstm_lm" => boxed::<Lstm>(options),
        "mamba" | "mamba2" => boxed::<Mamba>(options),
        "xlstm" => boxed::<Xlstm>(options),
        _ => boxed::<Hgrn2>(options),
    }
}

/// Folder of a golden checkpoint.
pub(crate) fn golden(model: &str) -> PathBuf {
    let root = std::env::var("BHEVAL_GOLDEN").expect("BHEVAL_GOLDEN names the folder of golden checkpoints");
    let folder = Path::new(&root).join(model);
    assert!(
        folder.join("golden.json").is_file(),
        "{} has no golden.json; set BHEVAL_GOLDEN",
        folder.display()
    );
    folder
}

/// One sentence and what the peer says of it.
pub(crate) struct Sentence {
    pub(crate) ids: Vec<u32>,
    pub(crate) log_probs: Vec<f64>,
    pub(crate) total: f64,
    pub(crate) total_f64: f64,
}

pub(crate) fn sentences(model: &str) -> Vec<Sentence> {
    let text = std::fs::read_to_string(golden(model).join("golden.json")).expect("golden.json");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let floats =
        |v: &Value| v.as_array().expect("an array").iter().filter_map(Value::as_f64).collect::<Vec<_>>();
    let sentence = |v: &Value| Sentence {
        ids: floats(&v["ids"]).into_iter().map(|x| x as u32).collect(),
        log_probs: floats(&v["logprobs"]),
        total: v["total"].as_f64().expect("a number"),
        total_f64: v["total_f64"].as_f64().expect("a number"),
    };
    value["sentences"].as_array().expect("an array").iter().map(sentence).collect()
}

pub(crate) fn golden_tensors(model: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(model).join("golden.safetensors"), &Device::Cpu)
        .expect("golden.safetensors")
}

/// A forest that owns its arrays.
#[derive(Default, Clone)]
pub(crate) struct OwnedForest {
    pub(crate) token: Vec<u32>,
    pub(crate) parent: Vec<u32>,
    pub(crate) wanted: Vec<u8>,
}

impl OwnedForest {
    pub(crate) fn view(&self) -> ForestView<'_> {
        ForestView::new(&self.token, &self.parent, &self.wanted).expect("well formed")
    }

    pub(crate) fn push(&mut self, token: u32, parent: u32, wanted: bool) -> u32 {
        self.token.push(token);
        self.parent.push(parent);
        self.wanted.push(u8::from(wanted));
        self.token.len() as u32 - 1
    }

    /// Adds a sentence as a chain of its own; all but the first token are wanted. Returns the nodes.
    pub(crate) fn chain(&mut self, ids: &[u32]) -> Vec<u32> {
        let mut above = NO_PARENT;
        let add = |&id: &u32| {
            above = self.push(id, above, above != NO_PARENT);
            above
        };
        ids.iter().map(add).collect()
    }
}

/// A forest in which sentences share their prefixes.
#[derive(Default)]
pub(crate) struct Trie {
    pub(crate) forest: OwnedForest,
    known: HashMap<(u32, u32), u32>,
}

impl Trie {
    pub(crate) fn add(&mut self, ids: &[u32]) -> Vec<u32> {
        let mut above = NO_PARENT;
        let mut nodes = vec![];
        for &id in ids {
            let next = self.known.get(&(above, id)).copied();
            let next = next.unwrap_or_else(|| self.forest.push(id, above, above != NO_PARENT));
            self.known.insert((above, id), next);
            nodes.push(next);
            above = next;
        }
        nodes
    }
}

pub(crate) fn options(path: &Path, threads: usize) -> Opening {
    Opening { path: path.to_owned(), threads, dtype: Dtype::F32, memory: 256 << 20 }
}

pub(crate) fn open(path: &Path, threads: usize) -> Opened {
    try_open(&options(path, threads)).unwrap_or_else(|failure| panic!("{}: {failure}", path.display()))
}

/// The essentials of the sentence that refuses a model.
pub(crate) fn refused(path: &Path, essentials: &[&str]) -> Failure {
    let failure = try_open(&options(path, 1)).err().expect("the model should be refused");
    for part in essentials {
        assert!(failure.text.contains(part), "{:?} does not say {part:?}", failure.text);
    }
    failure
}

/// `log_prob` of every node of a forest, NaN where none was wanted.
pub(crate) fn score(model: &mut Opened, forest: &OwnedForest) -> Vec<f32> {
    let mut log_prob = vec![f32::NAN; forest.token.len()];
    model.score(forest.view(), &mut log_prob).expect("scores");
    log_prob
}

/// `ln p` of every token of the vocabulary at every position of an unmasked sequence.
pub(crate) fn masked_rows(opened: &mut Opened, ids: &[u32]) -> Tensor {
    let vocab = opened.info().vocab;
    let asked = || (0..ids.len() as u32).flat_map(|at| (0..vocab).map(move |id| (at, id)));
    let (position, target): (Vec<u32>, Vec<u32>) = asked().unzip();
    let begin = [0, ids.len() as u32];
    let view = MaskedView::new(ids, &begin, &position, &target).expect("well formed");
    let mut log_prob = vec![f32::NAN; position.len()];
    opened.masked(view, &mut log_prob).expect("scores");
    Tensor::from_vec(log_prob, (ids.len(), vocab as usize), &Device::Cpu).expect("a tensor")
}

/// A source of numbers for shuffles and random forests: SplitMix64.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
