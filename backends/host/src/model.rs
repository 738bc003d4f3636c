//! An opened model: safe scoring.

use std::path::PathBuf;
use std::ptr::NonNull;

use bheval_abi::{
    Dtype, Forest as RawForest, ForestView, Kind, LOGITS_EXTENSION, Logits, LogitsTable, Message,
    ModelInfo as RawInfo, OpenOptions, RawModel, Scores, Status, Text,
};

use crate::flat::flatten;
use crate::{Error, Forest, Library};

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
    /// Nodes that were run through the network.
    pub fed: u64,
}

/// An opened model. Closed when dropped.
#[derive(Debug)]
pub struct Model {
    raw: NonNull<RawModel>,
    library: Library,
    info: ModelInfo,
    /// Set when the backend panicked: the contract then allows nothing but closing the model.
    panicked: bool,
}

// SAFETY: the contract allows calls from any thread, one at a time, which `&mut self` sees to.
unsafe impl Send for Model {}

impl Model {
    /// Opens a model.
    ///
    /// # Errors
    /// What the backend refuses, in its words, or an answer that makes no sense.
    pub fn open(library: &Library, options: &ModelOptions) -> Result<Self, Error> {
        let path = options.path.to_str().ok_or_else(|| {
            refused(library, "open the model", Status::BAD_INPUT, "its path is not UTF-8".into())
        })?;
        let raw_options = OpenOptions {
            size: size_of::<OpenOptions<'_>>(),
            path: Text::new(path),
            threads: options.threads.max(1),
            dtype: options.dtype,
            memory: options.memory,
        };
        let mut raw = std::ptr::null_mut();
        let open = library.table().open.ok_or_else(|| incomplete(library))?;
        call(library, "open the model", |message| {
            // SAFETY: valid pointers for the length of the call; the table was checked.
            unsafe { open(&raw const raw_options, &raw mut raw, message) }
        })?;
        let raw =
            NonNull::new(raw).ok_or_else(|| bad_answer(library, "it opened a model and returned null"))?;
        let mut model = Self { raw, library: library.clone(), info: no_info(), panicked: false };
        model.info = model.describe()?;
        Ok(model)
    }

    fn describe(&mut self) -> Result<ModelInfo, Error> {
        let mut raw = RawInfo {
            size: size_of::<RawInfo<'_>>(),
            vocab: 0,
            context: 0,
            nodes: 0,
            kind: Kind(0),
            parameters: 0,
            architecture: Text::new(""),
            dtype: Text::new(""),
        };
        let describe = self.library.table().describe.ok_or_else(|| incomplete(&self.library))?;
        call(&self.library, "describe the model", |message| {
            // SAFETY: an opened model of this library, and valid pointers for the length of the call.
            unsafe { describe(self.raw.as_ptr(), &raw mut raw, message) }
        })?;
        // SAFETY: the texts live until the model is closed; they are copied at once.
        let texts = unsafe { raw.architecture.get().zip(raw.dtype.get()) };
        let (architecture, dtype) =
            texts.ok_or_else(|| bad_answer(&self.library, "its model's texts are not UTF-8"))?;
        if raw.vocab == 0 || raw.nodes == 0 {
            return Err(bad_answer(&self.library, "its model has no vocabulary, or takes no nodes"));
        }
        if raw.kind != Kind::CAUSAL && raw.kind != Kind::MASKED {
            return Err(bad_answer(
                &self.library,
                &format!("its model is of the unknown kind {}", raw.kind.0),
            ));
        }
        Ok(ModelInfo {
            vocab: raw.vocab,
            context: (raw.context != 0).then_some(raw.context),
            nodes: raw.nodes as usize,
            kind: raw.kind,
            parameters: raw.parameters,
            architecture: architecture.to_owned(),
            dtype: dtype.to_owned(),
        })
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

    /// Log-probabilities of the wanted nodes.
    ///
    /// # Errors
    /// What the backend refuses, and any value that is not finite or above 0: a score is right or there is none.
    pub fn score(&mut self, forest: &Forest, route: Route) -> Result<Scored, Error> {
        let scored = match route {
            Route::Forest if self.library.takes_forests() => self.score_once(forest)?,
            Route::Forest | Route::Flat => self.score_flat(forest)?,
        };
        self.check(forest, &scored)?;
        Ok(scored)
    }

    fn score_flat(&mut self, forest: &Forest) -> Result<Scored, Error> {
        // A backend checks what it is given, but this forest is walked before a backend sees it.
        ForestView::new(&forest.token, &forest.parent, &forest.wanted)
            .map_err(|failure| refused(&self.library, "score", failure.status, failure.text))?;
        let mut all = Scored { log_prob: vec![f32::NAN; forest.len()], fed: 0 };
        for flat in flatten(forest, self.info.nodes) {
            let part = self.score_once(&flat.chains)?;
            for (&value, origin) in part.log_prob.iter().zip(&flat.origin) {
                if let Some(node) = origin {
                    all.log_prob[*node as usize] = value;
                }
            }
            all.fed += part.fed;
        }
        Ok(all)
    }

    fn score_once(&mut self, forest: &Forest) -> Result<Scored, Error> {
        let mut log_prob = vec![f32::NAN; forest.len()];
        let mut scores = Scores {
            size: size_of::<Scores>(),
            log_prob: log_prob.as_mut_ptr(),
            len: log_prob.len(),
            fed: 0,
        };
        let score = self.library.table().score.ok_or_else(|| incomplete(&self.library))?;
        let (model, raw) = (self.raw.as_ptr(), raw_forest(forest));
        self.run("score", |message| {
            // SAFETY: an opened model of this library; the arrays are as long as they say and outlive the call.
            unsafe { score(model, &raw const raw, &raw mut scores, message) }
        })?;
        let fed = scores.fed;
        Ok(Scored { log_prob, fed })
    }

    pub(crate) fn raw(&self) -> *mut RawModel {
        self.raw.as_ptr()
    }

    /// Makes a call on the model, unless an earlier one panicked.
    pub(crate) fn run(
        &mut self,
        action: &'static str,
        f: impl FnOnce(*mut Message) -> Status,
    ) -> Result<(), Error> {
        if self.panicked {
            let text = "it panicked in an earlier call on this model; open the model again".to_owned();
            return Err(refused(&self.library, action, Status::PANIC, text));
        }
        let result = call(&self.library, action, f);
        self.panicked = matches!(&result, Err(Error::Refused { status: Status::PANIC, .. }));
        result
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

    /// Rows of logits, one of `vocab` for each wanted node, in the order of the nodes: what may follow the node.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the backend has no such ability, what it refuses, and NaN.
    pub fn logits(&mut self, forest: &Forest) -> Result<Vec<f32>, Error> {
        let action = "give logits";
        let none = || refused(&self.library, action, Status::UNSUPPORTED, "it does not offer them".into());
        let table = self.library.extension(LOGITS_EXTENSION).ok_or_else(none)?.cast::<LogitsTable>();
        // SAFETY: the id names the table's type; its size is read before its function.
        let function =
            unsafe { ((*table).size >= size_of::<LogitsTable>()).then(|| (*table).logits).flatten() };
        let function = function.ok_or_else(none)?;
        let mut data = vec![f32::NAN; forest.wanted().count() * self.info.vocab as usize];
        let mut out = Logits { size: size_of::<Logits>(), data: data.as_mut_ptr(), len: data.len() };
        let (model, raw) = (self.raw.as_ptr(), raw_forest(forest));
        self.run(action, |message| {
            // SAFETY: as in `score_once`.
            unsafe { function(model, &raw const raw, &raw mut out, message) }
        })?;
        match data.iter().position(|x| x.is_nan()) {
            None => Ok(data),
            Some(at) => Err(bad_answer(&self.library, &format!("logit {at} is NaN"))),
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if let Some(close) = self.library.table().close {
            // SAFETY: opened by this library and closed once.
            unsafe { close(self.raw.as_ptr()) }
        }
    }
}

/// Whether a value can be a log-probability: finite, and at most a rounding error above 0.
pub(crate) fn is_log_prob(value: f32) -> bool {
    value.is_finite() && value <= ABOVE_ZERO
}

fn raw_forest(forest: &Forest) -> RawForest {
    RawForest {
        size: size_of::<RawForest>(),
        len: forest.len(),
        token: forest.token.as_ptr(),
        parent: forest.parent.as_ptr(),
        wanted: forest.wanted.as_ptr(),
    }
}

fn no_info() -> ModelInfo {
    ModelInfo {
        vocab: 0,
        context: None,
        nodes: 0,
        kind: Kind(0),
        parameters: 0,
        architecture: String::new(),
        dtype: String::new(),
    }
}

/// Makes a call, and turns a status and its message into an error.
fn call(
    library: &Library,
    action: &'static str,
    f: impl FnOnce(*mut Message) -> Status,
) -> Result<(), Error> {
    let mut buffer = [0_u8; 4096];
    let mut message = Message::over(&mut buffer);
    let status = f(&raw mut message);
    if status == Status::OK {
        return Ok(());
    }
    let len = message.len.min(buffer.len());
    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let text = if text.is_empty() { format!("it gave no reason (status {})", status.0) } else { text };
    Err(refused(library, action, status, text))
}

pub(crate) fn refused(library: &Library, action: &'static str, status: Status, text: String) -> Error {
    Error::Refused { backend: library.name().to_owned(), action, status, text }
}

pub(crate) fn bad_answer(library: &Library, text: &str) -> Error {
    Error::BadAnswer { backend: library.name().to_owned(), text: text.to_owned() }
}

fn incomplete(library: &Library) -> Error {
    bad_answer(library, "a function of its table is missing")
}
