//! Naive reference models, written down in f64, one token's row at a time: transformers, causal and masked, and recurrent
//! models. They are the definition that fast backends are compared with, so they favour the obvious over the quick.
//!
//! They take flat chains only, which makes them the test subjects of the flat adapter too.

mod bert;
mod chain;
pub mod distillation;
mod gpt2;
mod gpt_neox;
mod layers;
mod llama;
mod lstm;
mod mamba;
mod mamba2;
mod masked;
mod mlstm;
mod opt;
mod recurrent;
mod weights;
mod xlstm;
mod xlstm_block;

use bheval_abi::{
    Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status, logits_table,
};
use rayon::ThreadPool;
use rayon::prelude::*;

pub use bert::{Bert, Roberta};
use chain::Chain;
pub use gpt_neox::GptNeox;
pub use gpt2::Gpt2;
pub use layers::{Linear, Rows};
pub use llama::Llama;
pub use lstm::Lstm;
pub use mamba::Mamba;
pub use mamba2::Mamba2;
pub use masked::MaskedReference;
pub use opt::Opt;
pub use weights::Folder;
pub use xlstm::Xlstm;
pub use xlstm_block::XlstmBlock;

/// One network: what differs between the reference models.
pub trait Architecture: Send + Sync + Sized + 'static {
    /// `model_type` in `config.json`; the backend's name is this after `reference-`.
    const MODEL_TYPE: &'static str;
    /// Name of the backend.
    const NAME: &'static str;

    /// Reads configuration and weights.
    ///
    /// # Errors
    /// What is missing, or a setting that this definition does not cover.
    fn load(folder: &Folder) -> Result<Self, Failure>;

    /// Longest path in tokens; a recurrent model has no limit.
    fn context(&self) -> usize {
        usize::MAX
    }

    /// States as the head takes them, one row a token. Tokens and length are in range.
    fn states(&self, tokens: &[u32]) -> Rows;

    /// As [`Architecture::states`], where the tokens from `padding` on are padding on the right. Attention leaves it out, as
    /// the mask of transformers says; a recurrence knows no mask here and reads it as any token.
    fn states_padded(&self, tokens: &[u32], _padding: usize) -> Rows {
        self.states(tokens)
    }

    /// From a state to the logits of the token that follows, or of the token itself where the model is a masked one.
    fn head(&self) -> &Linear;

    /// The logits of a state: what the head gives, unless something bounds them.
    fn logits(&self, state: &[f64]) -> Vec<f64> {
        self.head().apply(state)
    }
}

/// An [`Architecture`] behind the backend contract.
pub struct Reference<A> {
    architecture: A,
    info: Info,
    pool: ThreadPool,
}

/// No memory is planned for: rows die with their chain, so any number of nodes will do.
const NODES: u32 = 1 << 20;

impl<A: Architecture> LanguageModel for Reference<A> {
    const NAME: &'static str = A::NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = Some(&logits_table::<Self>());

    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(Status::UNSUPPORTED, "a reference model computes in f64; ask for f32"));
        }
        let folder = Folder::open(&options.path, A::MODEL_TYPE)?;
        let architecture = A::load(&folder)?;
        let info = Info {
            vocab: architecture.head().outputs() as u32,
            context: u32::try_from(architecture.context()).unwrap_or(0),
            nodes: NODES,
            kind: Kind::CAUSAL,
            parameters: folder.parameters()?,
            architecture: A::MODEL_TYPE.to_owned(),
            dtype: "f64".to_owned(),
        };
        Ok(Self { architecture, info, pool: pool(options.threads)? })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_causal()?;
        let scored = self.per_chain(forest, |chain| self.scores(chain))?;
        for (node, value) in scored.into_iter().flatten() {
            log_prob[node] = value;
        }
        Ok(forest.len() as u64)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let rows = self.per_chain(forest, |chain| self.wanted_logits(chain))?;
        let rows = rows.into_iter().flatten();
        for (room, row) in out.chunks_exact_mut(self.info.vocab as usize).zip(rows) {
            for (out, logit) in room.iter_mut().zip(row) {
                *out = logit as f32;
            }
        }
        Ok(())
    }
}

impl<A: Architecture> Reference<A> {
    /// Runs `work` on every chain, and gives the results in the order of the chains.
    fn per_chain<T: Send>(
        &self,
        forest: ForestView<'_>,
        work: impl Fn(&Chain<'_>) -> Result<T, Failure> + Send + Sync,
    ) -> Result<Vec<T>, Failure> {
        forest.check_tokens(self.info.vocab)?;
        let chains = chain::chains(forest, self.architecture.context())?;
        self.pool.install(|| chains.par_iter().map(work).collect())
    }

    /// The wanted nodes of a chain and their log-probabilities.
    fn scores(&self, chain: &Chain<'_>) -> Result<Vec<(usize, f32)>, Failure> {
        let states = self.architecture.states(chain.tokens);
        // The row before a token predicts it; a wanted root was refused.
        chain
            .wanted()
            .map(|t| {
                let logits = self.architecture.logits(&states[t - 1]);
                Ok((chain.first + t, log_prob(&logits, chain.tokens[t])?))
            })
            .collect()
    }

    /// The logits after each wanted node of a chain.
    fn wanted_logits(&self, chain: &Chain<'_>) -> Result<Rows, Failure> {
        let states = self.architecture.states(chain.tokens);
        let row = |t: usize| self.architecture.logits(&states[t]).into_iter().map(finite).collect();
        chain.wanted().map(row).collect()
    }
}

fn pool(threads: usize) -> Result<ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Failure::new(Status::EXHAUSTED, format!("can't start threads: {e}")))
}

fn log_prob(logits: &[f64], token: u32) -> Result<f32, Failure> {
    Ok(finite(logits[token as usize] - layers::log_sum_exp(logits))? as f32)
}

fn finite(value: f64) -> Result<f64, Failure> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(Failure::new(Status::NOT_FINITE, format!("the model's result is {value}")))
}
