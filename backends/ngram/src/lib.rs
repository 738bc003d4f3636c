//! The n-gram backend of bheval: interpolated modified Kneser-Ney, order 1 to 5, exact.
//!
//! [`Ngram`] implements the contract of `bheval-abi`; [`BACKEND`] is its table. [`train`] estimates a model from sequences
//! of ids, [`model`] looks probabilities up, [`mod@file`] keeps them in one file, [`config`] beside it.
//!
//! Sources: Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section 3 and
//! equation 26; Heafield, Pouzyrevsky, Clark and Koehn, "Scalable modified Kneser-Ney language model estimation" (2013),
//! sections 2 and 3, whose notation the comments use.

pub mod config;
pub mod file;
pub mod model;
pub mod train;

use std::path::Path;

use bheval_abi::{
    Backend, Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status,
    logits_table,
};

use config::Config;
use model::{NgramModel, State};

/// The highest order that is supported.
pub const MAX_ORDER: u32 = 5;

/// The largest vocabulary that is supported: beyond it a tokenizer's file is damaged rather than large.
pub const MAX_VOCAB: u32 = 1 << 24;

/// The backend's table, for hosts that link it in.
pub static BACKEND: Backend = bheval_abi::backend::<Ngram>();

static LOGITS: LogitsTable = logits_table::<Ngram>();

/// Nodes of one call where memory sets no lower bound: more would not be faster, and less is lost when a run is killed.
const NODES: u64 = 1 << 16;

/// An n-gram model behind the contract.
#[derive(Debug)]
pub struct Ngram {
    info: Info,
    model: NgramModel,
    /// What follows each node of the forest at hand; kept for its allocation.
    states: Vec<State>,
}

impl Ngram {
    /// Puts a model behind the contract; a forest of [`Info::nodes`] nodes takes no more than `memory` bytes.
    #[must_use]
    pub fn new(model: NgramModel, memory: u64) -> Self {
        let info = Info {
            vocab: model.vocab(),
            context: 0,
            nodes: (memory / size_of::<State>() as u64).clamp(1, NODES) as u32,
            kind: Kind::CAUSAL,
            parameters: model.ngrams().iter().sum(),
            architecture: Self::NAME.to_owned(),
            dtype: "f32".to_owned(),
        };
        Self { info, model, states: Vec::new() }
    }

    /// Walks the forest from its roots; calls `each` with every node, its probability after the path above it (none for
    /// a root), and leaves in `states` what follows.
    fn walk(
        &mut self,
        forest: ForestView<'_>,
        mut each: impl FnMut(usize, Option<f64>),
    ) -> Result<(), Failure> {
        forest.check_tokens(self.model.vocab())?;
        self.states.clear();
        self.states.reserve(forest.len());
        for (i, &token) in forest.token.iter().enumerate() {
            let parent = forest.parent_of(i);
            let (p, state) = self.model.step(parent.map_or(State::EMPTY, |p| self.states[p]), token);
            self.states.push(state);
            each(i, parent.map(|_| p));
        }
        Ok(())
    }
}

impl LanguageModel for Ngram {
    const NAME: &'static str = "ngram";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = Some(&LOGITS);

    /// Opens a folder with `config.json` and [`config::MODEL_FILE`], or such a file itself.
    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(
                Status::UNSUPPORTED,
                "the ngram backend stores probabilities in f32 only; ask for f32",
            ));
        }
        Ok(Self::new(load(&options.path)?, options.memory))
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_causal()?;
        self.walk(forest, |i, p| {
            if let (true, Some(p)) = (forest.is_wanted(i), p) {
                log_prob[i] = p.ln() as f32;
            }
        })?;
        Ok(forest.len() as u64)
    }

    /// The rows are log-probabilities: their exponentials sum to 1.
    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        self.walk(forest, |_, _| ())?;
        let wanted = (0..forest.len()).filter(|&i| forest.is_wanted(i));
        for (i, row) in wanted.zip(out.chunks_exact_mut(self.info.vocab as usize)) {
            self.model.log_probs(self.states[i], row);
        }
        Ok(())
    }
}

fn load(path: &Path) -> Result<NgramModel, Failure> {
    if !path.is_dir() {
        return Ok(file::read(path)?.model);
    }
    let config = Config::read(path)?;
    let read = file::read(&path.join(config::MODEL_FILE))?;
    config.check(path, &read)?;
    Ok(read.model)
}
