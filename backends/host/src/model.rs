//! An opened model: safe scoring.

use std::fmt;
use std::path::PathBuf;

use bheval_abi::{Dtype, ForestView, HeadValues, Kind, Status};

use crate::flat::flatten;
use crate::local::Local;
use crate::worker::Remote;
use crate::{Error, Forest, Library, MaskedBatch};

/// Rounding may lift the logarithm of a probability near 1 a little above 0, but no further than this.
const ABOVE_ZERO: f32 = 1e-4;

/// How to open a model.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Folder with `config.json` and weights, or a file.
    pub path: PathBuf,
    /// Threads to use, at least 1. Scores do not depend on it.
    pub threads: u32,
    /// Number format of weights and products.
    pub dtype: Dtype,
    /// Bytes that scoring may take beside the weights.
    pub memory: u64,
}

/// What a backend says of an opened model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Number of tokens that have a probability.
    pub vocab: u32,
    /// Longest path in tokens, or `None` where the architecture sets no limit.
    pub context: Option<u32>,
    /// Nodes that one scoring call should have at most.
    pub nodes: usize,
    /// Causal or masked.
    pub kind: Kind,
    /// Number of parameters, a tied one counted once.
    pub parameters: u64,
    /// Architecture as `config.json` spells it.
    pub architecture: String,
    /// Number format in use.
    pub dtype: String,
}

impl ModelInfo {
    /// Refuses what no model can be.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.vocab == 0 || self.nodes == 0 {
            return Err("its model has no vocabulary, or takes no nodes".to_owned());
        }
        if self.kind != Kind::CAUSAL && self.kind != Kind::MASKED {
            return Err(format!("its model is of the unknown kind {}", self.kind.0));
        }
        Ok(())
    }
}

/// How a forest reaches the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// As it is, where the backend takes forests; else flat.
    Forest,
    /// As flat chains, each token fed anew in every sequence: the slow twin.
    Flat,
}

/// The answer to a scoring call.
#[derive(Clone, Debug)]
pub struct Scored {
    /// `ln p(token | path above)` in nats for wanted nodes, NaN elsewhere; as long as the forest.
    pub log_prob: Vec<f32>,
    /// Nodes that were run through the network: at most those of the calls that were made.
    pub fed: u64,
}

/// An opened model, in this process or in a worker's.
pub(crate) trait Opened: fmt::Debug + Send {
    /// Scores a forest that the backend takes as it is. Nothing is checked yet.
    fn score(&mut self, forest: &Forest) -> Result<Scored, Error>;

    /// Scores masked tokens. Nothing is checked yet.
    fn score_masked(&mut self, batch: &MaskedBatch) -> Result<Scored, Error>;

    /// `len` logits. Nothing is checked yet.
    fn logits(&mut self, forest: &Forest, len: usize) -> Result<Vec<f32>, Error>;

    /// What turns hidden states into `vocab` logits. Nothing is checked yet.
    fn head(&mut self, vocab: usize) -> Result<HeadValues, Error>;

    /// `len` values of hidden states. Nothing is checked yet.
    fn hidden(&mut self, forest: &Forest, len: usize) -> Result<Vec<f32>, Error>;

    /// How often its process died.
    fn crashes(&self) -> u64 {
        0
    }

    /// How often it was opened again in another process.
    fn reopened(&self) -> u64 {
        0
    }

    /// Notes that the backend is known to work with this model.
    fn trust(&mut self) {}
}

/// An opened model. Closed when dropped.
#[derive(Debug)]
pub struct Model {
    opened: Box<dyn Opened>,
    library: Library,
    info: ModelInfo,
}

impl Model {
    /// Opens a model.
    ///
    /// # Errors
    /// What the backend refuses, in its words, or an answer that makes no sense.
    pub fn open(library: &Library, options: &ModelOptions) -> Result<Self, Error> {
        let (opened, info): (Box<dyn Opened>, ModelInfo) = if library.is_isolated() {
            let (remote, info) = Remote::open(library, options)?;
            (Box::new(remote), info)
        } else {
            let (local, info) = Local::open(library, options)?;
            (Box::new(local), info)
        };
        Ok(Self { opened, library: library.clone(), info })
    }

    /// What the backend says of the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The backend that the model belongs to.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// How often the worker process of an isolated backend died in a call on this model; 0 without one.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.opened.crashes()
    }

    /// How often the model of an isolated backend was opened again in a new worker. Its files were read again then, and may
    /// be others than before; 0 without a worker.
    #[must_use]
    pub fn reopened(&self) -> u64 {
        self.opened.reopened()
    }

    /// Notes that this backend has scored with this model before. The worker of an isolated one may then die more often
    /// in a row before [`Error::is_crash`] says that asking again makes no sense.
    pub fn trust(&mut self) {
        self.opened.trust();
    }

    /// Log-probabilities of the wanted nodes.
    ///
    /// # Errors
    /// What the backend refuses, any value that is not finite or above 0 (a score is right or there is none), and more
    /// nodes run than there are.
    pub fn score(&mut self, forest: &Forest, route: Route) -> Result<Scored, Error> {
        let scored = match route {
            Route::Forest if self.library.takes_forests() => self.ask(forest)?,
            Route::Forest | Route::Flat => self.score_flat(forest)?,
        };
        self.check(forest, &scored)?;
        Ok(scored)
    }

    /// Asks the backend, and counts what it says that it ran: no node is run twice in a call.
    fn ask(&mut self, forest: &Forest) -> Result<Scored, Error> {
        let scored = self.opened.score(forest)?;
        self.check_fed(scored.fed, forest.len(), "nodes")?;
        Ok(scored)
    }

    fn check_fed(&self, fed: u64, sent: usize, what: &str) -> Result<(), Error> {
        if fed > sent as u64 {
            return Err(bad_answer(&self.library, &format!("`fed` is {fed} after a call of {sent} {what}")));
        }
        Ok(())
    }

    fn score_flat(&mut self, forest: &Forest) -> Result<Scored, Error> {
        // A backend checks what it is given, but this forest is walked before a backend sees it.
        ForestView::new(&forest.token, &forest.parent, &forest.wanted)
            .map_err(|failure| refused(&self.library, "score", failure.status, failure.text))?;
        let mut all = Scored { log_prob: vec![f32::NAN; forest.len()], fed: 0 };
        for flat in flatten(forest, self.info.nodes) {
            let part = self.ask(&flat.chains)?;
            for (&value, origin) in part.log_prob.iter().zip(&flat.origin) {
                if let Some(node) = origin {
                    all.log_prob[*node as usize] = value;
                }
            }
            all.fed += part.fed;
        }
        Ok(all)
    }

    fn check(&self, forest: &Forest, scored: &Scored) -> Result<(), Error> {
        let wrong = |&i: &usize| !is_log_prob(scored.log_prob[i]);
        match forest.wanted().find(wrong) {
            None => Ok(()),
            Some(i) => Err(bad_answer(
                &self.library,
                &format!("log-probability {} for token {} at node {i}", scored.log_prob[i], forest.token[i]),
            )),
        }
    }

    /// `ln p(target | sequence)` in nats, one for each question, in their order.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the backend reads no masked models, what it refuses, any value that is not finite or
    /// above 0, and more tokens run than there are.
    pub fn score_masked(&mut self, batch: &MaskedBatch) -> Result<Scored, Error> {
        let scored = self.opened.score_masked(batch)?;
        self.check_fed(scored.fed, batch.tokens(), "tokens")?;
        match scored.log_prob.iter().position(|&value| !is_log_prob(value)) {
            None => Ok(scored),
            Some(q) => Err(bad_answer(
                &self.library,
                &format!(
                    "log-probability {} for token {}, question {q}",
                    scored.log_prob[q], batch.target[q]
                ),
            )),
        }
    }

    /// Rows of logits, one of `vocab` for each wanted node, in the order of the nodes: what may follow the node.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the backend has no such ability, what it refuses, and NaN.
    pub fn logits(&mut self, forest: &Forest) -> Result<Vec<f32>, Error> {
        let data = self.opened.logits(forest, forest.wanted().count() * self.info.vocab as usize)?;
        match data.iter().position(|x| x.is_nan()) {
            None => Ok(data),
            Some(at) => Err(bad_answer(&self.library, &format!("logit {at} is NaN"))),
        }
    }

    /// What turns the hidden states of [`Model::hidden`] into logits: `hidden · weightᵀ + bias`.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the backend offers no hidden states or something bounds the logits, and values that are
    /// not finite.
    pub fn head(&mut self) -> Result<HeadValues, Error> {
        let head = self.opened.head(self.info.vocab as usize)?;
        finite(&self.library, "value of its head", Some(&head.weight))?;
        finite(&self.library, "value of its head's bias", head.bias.as_deref())?;
        Ok(head)
    }

    /// Hidden states, one of `width` (that of [`Model::head`]) for each wanted node, in the order of the nodes: what the head
    /// reads to give what may follow the node.
    ///
    /// # Errors
    /// As [`Model::head`].
    pub fn hidden(&mut self, forest: &Forest, width: usize) -> Result<Vec<f32>, Error> {
        let data = self.opened.hidden(forest, forest.wanted().count() * width)?;
        finite(&self.library, "value of a hidden state", Some(&data))?;
        Ok(data)
    }
}

/// Refuses values that are not finite.
fn finite(library: &Library, what: &str, values: Option<&[f32]>) -> Result<(), Error> {
    let values = values.unwrap_or_default();
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(bad_answer(library, &format!("{what} {at} is {}", values[at]))),
    }
}

/// Whether a value can be a log-probability: finite, and at most a rounding error above 0.
fn is_log_prob(value: f32) -> bool {
    value.is_finite() && value <= ABOVE_ZERO
}

pub(crate) fn refused(library: &Library, action: &'static str, status: Status, text: String) -> Error {
    Error::Refused { backend: library.name().to_owned(), action, status, text }
}

pub(crate) fn bad_answer(library: &Library, text: &str) -> Error {
    Error::BadAnswer { backend: library.name().to_owned(), text: text.to_owned() }
}
