//! What will be trained, on what and how: one TOML file over a preset over defaults, resolved against a corpus.

mod identity;
mod keys;
mod layers;
mod model;
mod preset;
mod resolve;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::learner::{LearnerInfo, Precision, Rates};
use crate::schedule::Schedule;

pub use identity::Identity;
pub use keys::{All, Grid, Keep, Offset};
pub use layers::Sources;
pub use preset::{PRESETS, Preset, find as find_preset};
pub use resolve::Draft;

/// A plan in which nothing is open.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The preset that it is based on.
    pub preset: Option<String>,
    /// `config.json` of the model.
    pub model: Map<String, Value>,
    /// What is read.
    pub data: DataPlan,
    /// AdamW.
    pub optimizer: OptimizerPlan,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// How much, in what portions.
    pub train: TrainPlan,
    /// When checkpoints are written.
    pub checkpoint: CheckpointPlan,
    /// How the model is judged on the way.
    pub evaluate: EvaluatePlan,
    /// `[distill]` as it was typed; its own module reads it.
    pub distill: Option<Map<String, Value>>,
}

/// What is read, and how it is cut.
#[derive(Clone, Debug, Serialize)]
pub struct DataPlan {
    /// Folder of the corpus.
    pub corpus: PathBuf,
    /// SHA-256 of its record, which names those of all its files.
    pub corpus_sha256: String,
    /// Inputs of a window.
    pub sequence_length: usize,
    /// Where the windows of an epoch begin.
    pub offset: Offset,
    /// What the vocabulary is padded to a multiple of.
    pub vocab_multiple: u64,
}

/// AdamW.
#[derive(Clone, Debug, Serialize)]
pub struct OptimizerPlan {
    /// The schedule's peak.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether it applies to norms, biases and the like too.
    pub decay_all: bool,
    /// Largest norm of the gradient, or none.
    pub clip: Option<f64>,
}

/// How much, in what portions.
#[derive(Clone, Debug, Serialize)]
pub struct TrainPlan {
    /// Windows of a step.
    pub batch: u64,
    /// Windows of a pass.
    pub micro_batch: usize,
    /// Windows in all; the last step may have fewer than a batch.
    pub windows: u64,
    /// Steps in all.
    pub steps: u64,
    /// What random choices are drawn from: the start, the order of windows, dropout.
    pub seed: u64,
    /// Number format of large products.
    pub precision: Precision,
    /// Threads, where the plan says.
    #[serde(skip)]
    pub threads: Option<u32>,
    /// Weights to start from.
    pub initialise: Option<InitialWeights>,
}

/// Weights to start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InitialWeights {
    /// Their file.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
}

/// When checkpoints are written, and which stay.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointPlan {
    /// After every so many steps.
    pub every_steps: Option<u64>,
    /// When another so many words have been seen.
    pub every_words: Option<u64>,
    /// At fixed numbers of words.
    pub grid: Grid,
    /// How many of those every so many steps stay; those by words all stay, and so does the best.
    pub keep: Keep,
}

/// How the model is judged on the way.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluatePlan {
    /// Dev loss after every so many steps, besides the last.
    pub every_steps: Option<u64>,
    /// At most so many tokens of the dev text.
    pub tokens: Option<u64>,
    /// Evaluations without improvement after which training stops.
    pub patience: Option<u64>,
    /// What counts as one, in nats per token.
    pub min_improvement: f64,
    /// Tasks that are run at each checkpoint.
    pub tasks: Option<String>,
    /// Items of each subset of them.
    pub limit: Option<u64>,
}

impl Plan {
    /// How the update of a step, from 1, is done.
    #[must_use]
    pub fn rates(&self, step: u64) -> Rates {
        let OptimizerPlan { learning_rate, beta1, beta2, epsilon, weight_decay, decay_all, clip } =
            self.optimizer;
        let learning_rate = learning_rate * self.schedule.factor(step);
        Rates { learning_rate, beta1, beta2, epsilon, weight_decay, decay_all, clip, step }
    }

    /// Holds a learner against the plan.
    ///
    /// # Errors
    /// Windows that are longer than it takes, or a vocabulary of another size.
    pub fn check(&self, learner: &LearnerInfo) -> Result<(), Error> {
        let (length, context) = (self.data.sequence_length, learner.context);
        if context > 0 && length > context {
            let reason = format!(
                "data.sequence_length is {length}, but this model takes {context} tokens; shorten the windows, or raise the \
                 model's context"
            );
            return Err(Error::plan("the plan", reason));
        }
        if learner.vocab as u64 != self.vocab() {
            let reason =
                format!("model.vocab_size is {}, but the model has {} rows", self.vocab(), learner.vocab);
            return Err(Error::plan("the plan", reason));
        }
        Ok(())
    }

    /// Rows of the embedding.
    #[must_use]
    pub fn vocab(&self) -> u64 {
        self.model.get("vocab_size").and_then(Value::as_u64).unwrap_or_default()
    }
}
