//! The keys of a plan's file, as they are typed. Every one of them may be left out.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use crate::learner::Precision;
use crate::schedule::{Decay, Shape};

/// A file, a preset, or one `--set`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) preset: Option<String>,
    #[serde(default)]
    pub(super) model: toml::Table,
    #[serde(default)]
    pub(super) data: Data,
    #[serde(default)]
    pub(super) optimizer: Optimizer,
    #[serde(default)]
    pub(super) schedule: Schedule,
    #[serde(default)]
    pub(super) train: Train,
    #[serde(default)]
    pub(super) checkpoint: Checkpoint,
    #[serde(default)]
    pub(super) evaluate: Evaluate,
    pub(super) distill: Option<toml::Table>,
}

/// What is read, and how it is cut.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    pub(super) corpus: Option<String>,
    pub(super) sequence_length: Option<u64>,
    pub(super) offset: Option<Offset>,
    pub(super) vocab_multiple: Option<u64>,
}

/// Where the windows of an epoch begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offset {
    /// At multiples of the length: the same windows in every epoch, in another order.
    #[default]
    None,
    /// Shifted by one random offset an epoch.
    Epoch,
    /// Each window shifted by a random offset of its own, as BabyLlama's trainer does.
    Window,
}

impl From<Offset> for bheval_corpus::Offset {
    fn from(offset: Offset) -> Self {
        match offset {
            Offset::None => Self::Fixed,
            Offset::Epoch => Self::PerEpoch,
            Offset::Window => Self::PerWindow,
        }
    }
}

/// AdamW.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Optimizer {
    pub(super) learning_rate: Option<f64>,
    pub(super) beta1: Option<f64>,
    pub(super) beta2: Option<f64>,
    pub(super) epsilon: Option<f64>,
    pub(super) weight_decay: Option<f64>,
    pub(super) decay_all: Option<bool>,
    pub(super) clip: Option<f64>,
}

/// The learning rate over time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedule {
    pub(super) shape: Option<Shape>,
    pub(super) warmup_steps: Option<u64>,
    pub(super) warmup_share: Option<f64>,
    pub(super) decay_share: Option<f64>,
    pub(super) decay: Option<Decay>,
    pub(super) floor: Option<f64>,
}

/// How much, in what portions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Train {
    pub(super) batch: Option<u64>,
    pub(super) micro_batch: Option<u64>,
    pub(super) steps: Option<u64>,
    pub(super) epochs: Option<f64>,
    pub(super) words: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) precision: Option<Precision>,
    pub(super) threads: Option<u32>,
    pub(super) initialise: Option<String>,
}

/// When checkpoints are written, and which stay.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) every_steps: Option<u64>,
    pub(super) every_words: Option<u64>,
    pub(super) grid: Option<Grid>,
    pub(super) keep: Option<Keep>,
}

/// Checkpoints at fixed numbers of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grid {
    /// None.
    #[default]
    None,
    /// Every 1M words up to 10M, every 10M up to 100M, every 100M up to 1,000M (BabyLM 2025).
    Babylm,
}

/// How many of the checkpoints that are written every so many steps stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Keep {
    /// The newest so many.
    Newest(u64),
    /// All of them.
    All(All),
}

/// The word `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// All of them.
    All,
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Keep;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\" or a number from 1")
            }
            fn visit_i64<E: Error>(self, n: i64) -> Result<Keep, E> {
                u64::try_from(n)
                    .map_err(|_| E::custom("`keep` is a number from 1, or \"all\""))
                    .map(Keep::Newest)
            }
            fn visit_u64<E: Error>(self, n: u64) -> Result<Keep, E> {
                Ok(Keep::Newest(n))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Keep, E> {
                match text {
                    "all" => Ok(Keep::All(All::All)),
                    other => {
                        Err(E::custom(format!("`keep` is \"{other}\"; it may be \"all\" or a number from 1")))
                    }
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// How the model is judged on the way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evaluate {
    pub(super) every_steps: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) patience: Option<u64>,
    pub(super) min_improvement: Option<f64>,
    pub(super) tasks: Option<String>,
    pub(super) limit: Option<u64>,
}
