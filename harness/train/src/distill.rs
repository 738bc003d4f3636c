//! Students learn from teachers: which loss, whose word, and where it is kept.
//!
//! ```text
//! loss = alpha · CE + (1 - alpha) · T² · KL(softmax(teacher / T) || softmax(student / T))
//! ```
//!
//! is the recipe of BabyLlama (Timiryasov and Tastet 2023), with `alpha_of = "ce"`; with `alpha_of = "kl"`, `alpha` weighs
//! KL and `1 - alpha` CE, as in the paper (paper.md 7). A [`DistillPlan`] says it all; a [`Distiller`] hands the teachers' word
//! to the loop, made on the fly or read from a [`cache`].

pub mod cache;
mod disk;
mod error;
mod live;
mod mix;
mod plan;
mod records;
mod teaching;
mod vocabulary;

use std::path::PathBuf;

use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Model, TeacherKind};

pub use cache::{Cache, Event, Key};
pub use error::{Error, size};
pub use plan::{AlphaOf, Average, CacheKind, DistillPlan, Reduction, Stored};

use crate::Teacher;
use live::Live;
use records::Records;

/// A teacher's files, found but not opened.
#[derive(Clone, Debug)]
pub struct TeacherFiles {
    /// Folder or file of the model.
    pub path: PathBuf,
    /// SHA-256 over the files that decide its scores.
    pub sha256: String,
    /// Name of the backend that opens it, and its number format.
    pub backend: String,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// What the teachers are to speak of.
#[derive(Clone, Copy, Debug)]
pub struct Lectern<'a> {
    /// The tokenizer of the student's text.
    pub tokenizer: &'a Tokenizer,
    /// Rows of the student's embedding.
    pub vocab: usize,
    /// Inputs of a window.
    pub steps: usize,
}

/// Some windows whose teachers' word is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The first token of each window in the training text.
    pub starts: &'a [u64],
    /// Inputs `[windows, steps]`.
    pub tokens: &'a [u32],
    /// Targets of the whole step that are not ignored.
    pub targets_of_step: u64,
    /// Windows of the whole step.
    pub windows_of_step: u64,
}

/// Teachers at work.
#[derive(Debug)]
pub struct Distiller {
    plan: DistillPlan,
    source: Source,
    records: Records,
}

#[derive(Debug)]
enum Source {
    Live(Live),
    Cached(Cache),
}

impl Distiller {
    /// Teachers that are asked for every micro-batch. Those whose backend gives hidden states give these, and the learner
    /// makes logits of them; else they give logits.
    ///
    /// # Errors
    /// Teachers that do not fit the student: another tokenizer, a context shorter than a window, a masked model.
    pub fn live(
        plan: DistillPlan,
        files: &[TeacherFiles],
        models: Vec<Model>,
        lectern: Lectern<'_>,
    ) -> Result<Self, Error> {
        vocabulary::check(files, lectern.tokenizer)?;
        let live = Live::new(&plan, files, models, lectern)?;
        Ok(Self { plan, source: Source::Live(live), records: Records::default() })
    }

    /// Teachers whose word was kept in a cache.
    #[must_use]
    pub fn cached(plan: DistillPlan, cache: Cache) -> Self {
        Self { plan, source: Source::Cached(cache), records: Records::default() }
    }

    /// What is left of the loss to the cross-entropy.
    #[must_use]
    pub fn left_to_targets(&self) -> f64 {
        self.plan.shares().0
    }

    /// What the teachers say of some windows.
    ///
    /// # Errors
    /// A backend that fails, a damaged cache, and windows that the cache does not have.
    pub fn teach(&mut self, asked: &Asked<'_>) -> Result<Teacher<'_>, Error> {
        match &mut self.source {
            Source::Live(live) => live.ask(asked.tokens, &mut self.records)?,
            Source::Cached(cache) => cache.read(asked.starts, &mut self.records)?,
        }
        let weight = self.plan.row_weight(asked.targets_of_step, asked.windows_of_step) as f32;
        let head = match &self.source {
            Source::Live(live) => live.head(),
            Source::Cached(cache) => cache.head(),
        };
        Ok(Teacher {
            kind: self.records.kind(head),
            temperature: self.plan.temperature as f32,
            weight,
            every_position: self.plan.reduction == Reduction::Batchmean,
        })
    }
}

/// The head of teachers whose hidden states are given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    /// Columns.
    pub(crate) width: usize,
    /// `[vocab, width]`
    pub(crate) weight: Vec<f32>,
    /// `[vocab]`
    pub(crate) bias: Option<Vec<f32>>,
}

impl Head {
    pub(crate) fn kind<'a>(&'a self, hidden: &'a [f32]) -> TeacherKind<'a> {
        TeacherKind::Hidden { width: self.width, hidden, head: &self.weight, bias: self.bias.as_deref() }
    }
}
