//! From typed keys to a plan: defaults, limits, and what a corpus decides.

use std::path::{Path, PathBuf};

use bheval_corpus::{Corpus, Split, Windows};
use bheval_data::digest::sha256_file;
use bheval_data::tokenizer::Tokenizer;

use super::keys::{Keep, Keys};
use super::layers::{Layers, Sources};
use super::model::{self, Vocabulary};
use super::{CheckpointPlan, DataPlan, EvaluatePlan, InitialWeights, OptimizerPlan, Plan, TrainPlan};
use crate::Error;
use crate::feed::windows_of_words;
use crate::schedule::{Schedule, Shape};

/// Tokens of a pass, where the plan names no micro-batch.
const TOKENS_OF_A_PASS: u64 = 4096;
/// Tokens of a step, at most.
const LARGEST_STEP: u64 = 1 << 28;
/// Tokens of a pass, at most: what the contract with backends allows.
const LARGEST_PASS: u64 = 1 << 24;
/// Windows of a run, at most.
const LONGEST_RUN: f64 = (1_u64 << 48) as f64;

/// A plan whose keys were read and checked, before its corpus is opened.
pub struct Draft {
    layers: Layers,
    keys: Keys,
}

impl Draft {
    /// Reads all sources of keys.
    ///
    /// # Errors
    /// Unknown keys, values of the wrong kind or out of range: each with its line and what is allowed.
    pub fn read(sources: &Sources) -> Result<Self, Error> {
        let layers = Layers::read(sources)?;
        let keys = layers.merged()?;
        let draft = Self { layers, keys };
        draft.check_model()?;
        Ok(draft)
    }

    /// Folder of the corpus.
    ///
    /// # Errors
    /// None is named.
    pub fn corpus(&self) -> Result<PathBuf, Error> {
        self.keys.data.corpus.as_ref().map(PathBuf::from).ok_or_else(|| {
            Error::plan(
                self.layers.place(&["data"]),
                "data.corpus is missing; name a folder that `bheval corpus build` made, here or with --corpus",
            )
        })
    }

    /// The plan over an opened corpus.
    ///
    /// # Errors
    /// Values out of range, or that do not fit the corpus.
    pub fn resolve(&self, corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Plan, Error> {
        let data = self.data(corpus)?;
        let train = self.train(corpus.train(), &data)?;
        let plan = Plan {
            preset: self.layers.preset.clone(),
            model: self.model(corpus, tokenizer, data.vocab_multiple)?,
            optimizer: self.optimizer()?,
            schedule: self.schedule(train.steps)?,
            checkpoint: self.checkpoint()?,
            evaluate: self.evaluate(corpus.dev())?,
            distill: self.distill()?,
            data,
            train,
        };
        Ok(plan)
    }

    fn wrong<T>(&self, section: &str, key: &str, reason: impl std::fmt::Display) -> Result<T, Error> {
        Err(Error::plan(self.layers.place(&[section, key]), format!("{section}.{key} {reason}")))
    }

    /// A whole number within limits.
    fn count(
        &self,
        (section, key): (&str, &str),
        given: Option<u64>,
        default: u64,
        to: u64,
    ) -> Result<u64, Error> {
        match given.unwrap_or(default) {
            n if (1..=to).contains(&n) => Ok(n),
            n => self.wrong(section, key, format!("is {n}, but must be from 1 to {to}")),
        }
    }

    /// As [`Draft::count`], where 0 stands for never.
    fn maybe(&self, place: (&str, &str), given: Option<u64>) -> Result<Option<u64>, Error> {
        match given {
            None | Some(0) => Ok(None),
            some => self.count(place, some, 1, 1 << 48).map(Some),
        }
    }

    /// A finite number within limits: `low` is excluded where it is said to be.
    fn number(
        &self,
        (section, key): (&str, &str),
        given: Option<f64>,
        default: f64,
        (low, high, what): (f64, f64, &str),
    ) -> Result<f64, Error> {
        let x = given.unwrap_or(default);
        let above = if what.starts_with("above") { x > low } else { x >= low };
        let below = if what.ends_with("below 1") { x < high } else { x <= high };
        if x.is_finite() && above && below {
            return Ok(x);
        }
        self.wrong(section, key, format!("is {x}, but must be {what}"))
    }

    fn check_model(&self) -> Result<(), Error> {
        model::check(&self.keys.model)
            .map_err(|(key, reason)| Error::plan(self.layers.place(&["model", &key]), reason))
    }

    fn model(
        &self,
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        multiple: u64,
    ) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
        let record = &corpus.record().tokenizer;
        let pad = tokenizer.special().pad.as_ref().map(|token| token.id);
        let vocabulary = Vocabulary {
            entries: record.vocab.into(),
            multiple,
            bos: record.bos,
            eos: Some(record.eos),
            pad,
        };
        model::config(&self.keys.model, vocabulary)
            .map_err(|(key, reason)| Error::plan(self.layers.place(&["model", &key]), reason))
    }

    fn data(&self, corpus: &Corpus) -> Result<DataPlan, Error> {
        let keys = &self.keys.data;
        let length = self.count(("data", "sequence_length"), keys.sequence_length, 512, 1 << 20)?;
        Ok(DataPlan {
            corpus: corpus.folder().to_owned(),
            corpus_sha256: corpus.sha256().to_owned(),
            sequence_length: length as usize,
            offset: keys.offset.unwrap_or_default(),
            vocab_multiple: self.count(("data", "vocab_multiple"), keys.vocab_multiple, 1, 1 << 16)?,
        })
    }

    fn optimizer(&self) -> Result<OptimizerPlan, Error> {
        let keys = &self.keys.optimizer;
        let number = |key, given, default, limits| self.number(("optimizer", key), given, default, limits);
        let share = (0.0, 1.0, "from 0 to below 1");
        let any = (0.0, f64::MAX, "a finite number from 0");
        let clip = number(
            "clip",
            keys.clip,
            1.0,
            (0.0, f64::MAX, "a finite number from 0, where 0 is no clipping"),
        )?;
        Ok(OptimizerPlan {
            learning_rate: number(
                "learning_rate",
                keys.learning_rate,
                1e-3,
                (0.0, 1e3, "above 0 and at most 1000"),
            )?,
            beta1: number("beta1", keys.beta1, 0.9, share)?,
            beta2: number("beta2", keys.beta2, 0.95, share)?,
            epsilon: number("epsilon", keys.epsilon, 1e-8, (0.0, 1.0, "above 0 and at most 1"))?,
            weight_decay: number("weight_decay", keys.weight_decay, 0.1, any)?,
            decay_all: keys.decay_all.unwrap_or(false),
            clip: (clip > 0.0).then_some(clip),
        })
    }

    fn schedule(&self, steps: u64) -> Result<Schedule, Error> {
        let keys = &self.keys.schedule;
        let share =
            |key, given, default| self.number(("schedule", key), given, default, (0.0, 1.0, "from 0 to 1"));
        let of_steps = |share: f64| ((share * steps as f64).round() as u64).min(steps);
        let warmup_steps = match keys.warmup_steps {
            Some(warmup) if warmup > steps => {
                let reason =
                    format!("is {warmup}, but the run has {steps} steps; give fewer, or warmup_share");
                return self.wrong("schedule", "warmup_steps", reason);
            }
            Some(warmup) => warmup,
            None => of_steps(share("warmup_share", keys.warmup_share, 0.02)?),
        };
        let shape = keys.shape.unwrap_or_default();
        let is_wsd = shape == Shape::Wsd;
        for (key, given) in [("decay_share", keys.decay_share.is_some()), ("decay", keys.decay.is_some())] {
            if given && !is_wsd {
                return self.wrong("schedule", key, "belongs to schedule.shape = \"wsd\"; leave it out");
            }
        }
        let decay_steps = if is_wsd {
            of_steps(share("decay_share", keys.decay_share, 0.2)?).min(steps - warmup_steps)
        } else {
            0
        };
        let floor = share("floor", keys.floor, 0.0)?;
        let decay = keys.decay.unwrap_or_default();
        Ok(Schedule { shape, warmup_steps, total_steps: steps, decay_steps, decay, floor })
    }

    fn train(&self, split: &Split, data: &DataPlan) -> Result<TrainPlan, Error> {
        let keys = &self.keys.train;
        let length = data.sequence_length as u64;
        let seed = keys.seed.unwrap_or(0);
        let windows = Windows::new(split.len(), data.sequence_length, seed, data.offset.into())?;
        let most = (LARGEST_STEP / length).max(1);
        let batch = self.count(("train", "batch"), keys.batch, 64, most)?;
        let passes = (TOKENS_OF_A_PASS / length).clamp(1, batch);
        let micro_batch =
            self.count(("train", "micro_batch"), keys.micro_batch, passes, (LARGEST_PASS / length).max(1))?;
        let windows = self.windows(split, &windows, batch)?;
        Ok(TrainPlan {
            batch,
            micro_batch: micro_batch.min(batch) as usize,
            windows,
            steps: windows.div_ceil(batch),
            seed,
            precision: keys.precision.unwrap_or_default(),
            threads: keys
                .threads
                .map(|t| self.count(("train", "threads"), Some(t.into()), 1, 4096))
                .transpose()?
                .map(|t| t as u32),
            initialise: keys.initialise.as_ref().map(|path| initial(Path::new(path))).transpose()?,
        })
    }

    /// Windows that the run sees.
    fn windows(&self, split: &Split, windows: &Windows, batch: u64) -> Result<u64, Error> {
        let keys = &self.keys.train;
        if keys.steps.is_some() {
            let steps = self.count(("train", "steps"), keys.steps, 1, (LONGEST_RUN as u64) / batch)?;
            return Ok(steps * batch);
        }
        if keys.words.is_some() {
            let words = self.count(("train", "words"), keys.words, 1, 1 << 48)?;
            return windows_of_words(split, windows, words).map_or_else(
                || self.wrong("train", "words", "can't be reached with windows of this length on this corpus; give fewer words, or longer windows"),
                Ok,
            );
        }
        let epochs =
            self.number(("train", "epochs"), keys.epochs, 1.0, (0.0, 1e9, "above 0 and at most 1e9"))?;
        let total = (epochs * windows.per_epoch() as f64).ceil();
        if total <= LONGEST_RUN {
            return Ok(total as u64);
        }
        self.wrong("train", "epochs", format!("is {epochs}, which is more than a run can have; give fewer"))
    }

    fn checkpoint(&self) -> Result<CheckpointPlan, Error> {
        let keys = &self.keys.checkpoint;
        if keys.keep == Some(Keep::Newest(0)) {
            return self.wrong("checkpoint", "keep", "is 0, but must be \"all\" or a number from 1");
        }
        Ok(CheckpointPlan {
            every_steps: self.maybe(("checkpoint", "every_steps"), keys.every_steps.or(Some(500)))?,
            every_words: self.maybe(("checkpoint", "every_words"), keys.every_words)?,
            grid: keys.grid.unwrap_or_default(),
            keep: keys.keep.unwrap_or(Keep::Newest(2)),
        })
    }

    fn evaluate(&self, dev: Option<&Split>) -> Result<EvaluatePlan, Error> {
        let keys = &self.keys.evaluate;
        let every_steps = self.maybe(("evaluate", "every_steps"), keys.every_steps)?;
        let patience = self.maybe(("evaluate", "patience"), keys.patience)?;
        let has_dev = dev.is_some_and(|dev| dev.len() > 1);
        if every_steps.is_some() && !has_dev && self.layers.is_own(&["evaluate", "every_steps"]) {
            let reason = "asks for the dev loss, but the corpus has no dev text; build it with one, or leave the key out";
            return self.wrong("evaluate", "every_steps", reason);
        }
        if patience.is_some() && (every_steps.is_none() || !has_dev) {
            let reason =
                "needs evaluate.every_steps and a corpus with dev text: early stopping goes by the dev loss";
            return self.wrong("evaluate", "patience", reason);
        }
        let any = (0.0, f64::MAX, "a finite number from 0");
        Ok(EvaluatePlan {
            every_steps: every_steps.filter(|_| has_dev),
            tokens: self.maybe(("evaluate", "tokens"), keys.tokens)?,
            patience,
            min_improvement: self.number(("evaluate", "min_improvement"), keys.min_improvement, 0.0, any)?,
            tasks: keys.tasks.clone().filter(|tasks| !tasks.trim().is_empty()),
            limit: self.maybe(("evaluate", "limit"), keys.limit)?,
        })
    }

    fn distill(&self) -> Result<Option<serde_json::Map<String, serde_json::Value>>, Error> {
        let Some(table) = &self.keys.distill else { return Ok(None) };
        let wrong = |reason| Error::plan(self.layers.place(&["distill"]), format!("distill.{reason}"));
        model::object(table).map(Some).map_err(wrong)
    }

    /// Where `[distill]`, or a key of it, was typed: for the module that reads it.
    #[must_use]
    pub fn place(&self, path: &[&str]) -> String {
        self.layers.place(path)
    }
}

/// The weights file of a model's folder, or a file itself.
fn initial(path: &Path) -> Result<InitialWeights, Error> {
    let path = if path.is_dir() { path.join(crate::checkpoint::WEIGHTS) } else { path.to_owned() };
    Ok(InitialWeights { sha256: sha256_file(&path)?, path })
}
