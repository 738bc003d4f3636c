//! A model in this process: the calls over the boundary, and what they return, unchecked.

use std::ffi::c_void;
use std::ptr::NonNull;

use bheval_abi::{
    Forest as RawForest, HIDDEN_EXTENSION, HeadValues, Hidden, HiddenTable, Kind, LOGITS_EXTENSION, Logits,
    LogitsTable, MASKED_EXTENSION, Masked as RawMasked, MaskedTable, Message, ModelInfo as RawInfo,
    OpenOptions, RawHead, RawModel, Scores, Status, Text,
};

use crate::model::{Opened, bad_answer, refused};
use crate::{Error, Forest, Library, MaskedBatch, ModelInfo, ModelOptions, Scored};

/// Values that a head may have: 64 GB of them are no head.
const LARGEST_HEAD: usize = 1 << 34;

/// An opened model of this process. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Local {
    raw: NonNull<RawModel>,
    library: Library,
    /// Set when the backend panicked: the contract then allows nothing but closing the model.
    panicked: bool,
}

// SAFETY: the contract allows calls from any thread, one at a time, which `&mut self` sees to.
unsafe impl Send for Local {}

impl Local {
    /// Opens a model, and asks what it is.
    pub(crate) fn open(library: &Library, options: &ModelOptions) -> Result<(Self, ModelInfo), Error> {
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
        let open = library.table().and_then(|table| table.open).ok_or_else(|| incomplete(library))?;
        call(library, "open the model", |message| {
            // SAFETY: valid pointers for the length of the call; the table was checked.
            unsafe { open(&raw const raw_options, &raw mut raw, message) }
        })?;
        let raw =
            NonNull::new(raw).ok_or_else(|| bad_answer(library, "it opened a model and returned null"))?;
        let model = Self { raw, library: library.clone(), panicked: false };
        let info = model.describe()?;
        Ok((model, info))
    }

    fn describe(&self) -> Result<ModelInfo, Error> {
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
        let describe = self.library.table().and_then(|table| table.describe);
        let describe = describe.ok_or_else(|| incomplete(&self.library))?;
        call(&self.library, "describe the model", |message| {
            // SAFETY: an opened model of this library, and valid pointers for the length of the call.
            unsafe { describe(self.raw.as_ptr(), &raw mut raw, message) }
        })?;
        // SAFETY: the texts live until the model is closed; they are copied at once.
        let texts = unsafe { raw.architecture.get().zip(raw.dtype.get()) };
        let (architecture, dtype) =
            texts.ok_or_else(|| bad_answer(&self.library, "its model's texts are not UTF-8"))?;
        let info = ModelInfo {
            vocab: raw.vocab,
            context: (raw.context != 0).then_some(raw.context),
            nodes: raw.nodes as usize,
            kind: raw.kind,
            parameters: raw.parameters,
            architecture: architecture.to_owned(),
            dtype: dtype.to_owned(),
        };
        info.check().map_err(|text| bad_answer(&self.library, &text))?;
        Ok(info)
    }

    /// The function of an optional ability, which `pick` reads from its table.
    fn ability<T, F>(&self, id: &str, pick: impl FnOnce(*const T) -> Option<F>) -> Option<F> {
        self.library.extension(id).map(<*const c_void>::cast::<T>).and_then(pick)
    }

    /// Makes a call on the model, unless an earlier one panicked.
    fn run(&mut self, action: &'static str, f: impl FnOnce(*mut Message) -> Status) -> Result<(), Error> {
        if self.panicked {
            let text = "it panicked in an earlier call on this model; open the model again".to_owned();
            return Err(refused(&self.library, action, Status::PANIC, text));
        }
        let result = call(&self.library, action, f);
        self.panicked = matches!(&result, Err(Error::Refused { status: Status::PANIC, .. }));
        result
    }
}

impl Opened for Local {
    fn score(&mut self, forest: &Forest) -> Result<Scored, Error> {
        let score = self.library.table().and_then(|table| table.score);
        let score = score.ok_or_else(|| incomplete(&self.library))?;
        let mut log_prob = vec![f32::NAN; forest.len()];
        let mut scores = room(&mut log_prob);
        let (model, raw) = (self.raw.as_ptr(), raw_forest(forest));
        self.run("score", |message| {
            // SAFETY: an opened model of this library; the arrays are as long as they say and outlive the call.
            unsafe { score(model, &raw const raw, &raw mut scores, message) }
        })?;
        let fed = scores.fed;
        Ok(Scored { log_prob, fed })
    }

    fn score_masked(&mut self, batch: &MaskedBatch) -> Result<Scored, Error> {
        let action = "score masked tokens";
        let function = self.ability(MASKED_EXTENSION, |table: *const MaskedTable| {
            // SAFETY: the id names the table's type; its size is read before its function.
            unsafe { ((*table).size >= size_of::<MaskedTable>()).then(|| (*table).score).flatten() }
        });
        let none = || refused(&self.library, action, Status::UNSUPPORTED, "it reads no masked models".into());
        let function = function.ok_or_else(none)?;
        let begin = batch.begin();
        let raw = RawMasked {
            size: size_of::<RawMasked>(),
            len: batch.token.len(),
            token: batch.token.as_ptr(),
            sequences: batch.end.len(),
            begin: begin.as_ptr(),
            queries: batch.target.len(),
            position: batch.position.as_ptr(),
            target: batch.target.as_ptr(),
        };
        let mut log_prob = vec![f32::NAN; batch.target.len()];
        let mut scores = room(&mut log_prob);
        let model = self.raw.as_ptr();
        self.run(action, |message| {
            // SAFETY: an opened model of this library; the arrays are as long as they say and outlive the call.
            unsafe { function(model, &raw const raw, &raw mut scores, message) }
        })?;
        let fed = scores.fed;
        Ok(Scored { log_prob, fed })
    }

    fn head(&mut self, vocab: usize) -> Result<HeadValues, Error> {
        let action = "give its head";
        let (function, _) = self.hidden_functions(action)?;
        let null = std::ptr::null_mut();
        let mut raw = RawHead { size: size_of::<RawHead>(), width: 0, has_bias: 0, weight: null, bias: null };
        let model = self.raw.as_ptr();
        // SAFETY: an opened model of this library; without room it writes the sizes alone.
        self.run(action, |message| unsafe { function(model, &raw mut raw, message) })?;
        let (width, has_bias) = (raw.width as usize, raw.has_bias != 0);
        let size = vocab.checked_mul(width).filter(|&size| width > 0 && size <= LARGEST_HEAD);
        let size =
            size.ok_or_else(|| bad_answer(&self.library, &format!("a head of {vocab} x {width} values")))?;
        let (mut weight, mut bias) = (vec![f32::NAN; size], vec![f32::NAN; if has_bias { vocab } else { 0 }]);
        raw.weight = weight.as_mut_ptr();
        raw.bias = if has_bias { bias.as_mut_ptr() } else { null };
        // SAFETY: as before, and there is room for what the sizes say.
        self.run(action, |message| unsafe { function(model, &raw mut raw, message) })?;
        if (raw.width as usize, raw.has_bias != 0) != (width, has_bias) {
            return Err(bad_answer(&self.library, "a head of other sizes than a moment ago"));
        }
        Ok(HeadValues { width, weight, bias: has_bias.then_some(bias) })
    }

    fn hidden(&mut self, forest: &Forest, len: usize) -> Result<Vec<f32>, Error> {
        let action = "give hidden states";
        let (_, function) = self.hidden_functions(action)?;
        let mut data = vec![f32::NAN; len];
        let mut out = Hidden { size: size_of::<Hidden>(), data: data.as_mut_ptr(), len: data.len() };
        let (model, raw) = (self.raw.as_ptr(), raw_forest(forest));
        self.run(action, |message| {
            // SAFETY: as in `score`.
            unsafe { function(model, &raw const raw, &raw mut out, message) }
        })?;
        Ok(data)
    }

    fn logits(&mut self, forest: &Forest, len: usize) -> Result<Vec<f32>, Error> {
        let action = "give logits";
        let function = self.ability(LOGITS_EXTENSION, |table: *const LogitsTable| {
            // SAFETY: the id names the table's type; its size is read before its function.
            unsafe { ((*table).size >= size_of::<LogitsTable>()).then(|| (*table).logits).flatten() }
        });
        let none = || refused(&self.library, action, Status::UNSUPPORTED, "it does not offer them".into());
        let function = function.ok_or_else(none)?;
        let mut data = vec![f32::NAN; len];
        let mut out = Logits { size: size_of::<Logits>(), data: data.as_mut_ptr(), len: data.len() };
        let (model, raw) = (self.raw.as_ptr(), raw_forest(forest));
        self.run(action, |message| {
            // SAFETY: as in `score`.
            unsafe { function(model, &raw const raw, &raw mut out, message) }
        })?;
        Ok(data)
    }
}

/// The functions of the hidden states' table.
type HiddenFunctions = (
    unsafe extern "C" fn(*mut RawModel, *mut RawHead, *mut Message) -> Status,
    unsafe extern "C" fn(*mut RawModel, *const RawForest, *mut Hidden, *mut Message) -> Status,
);

impl Local {
    fn hidden_functions(&self, action: &'static str) -> Result<HiddenFunctions, Error> {
        let functions = self.ability(HIDDEN_EXTENSION, |table: *const HiddenTable| {
            // SAFETY: the id names the table's type; its size is read before its functions.
            unsafe {
                ((*table).size >= size_of::<HiddenTable>())
                    .then(|| (*table).head.zip((*table).hidden))
                    .flatten()
            }
        });
        functions.ok_or_else(|| {
            refused(&self.library, action, Status::UNSUPPORTED, "it does not offer them".into())
        })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(close) = self.library.table().and_then(|table| table.close) {
            // SAFETY: opened by this library and closed once.
            unsafe { close(self.raw.as_ptr()) }
        }
    }
}

/// Room for scores, which must outlive the call it is given to.
fn room(log_prob: &mut [f32]) -> Scores {
    Scores { size: size_of::<Scores>(), log_prob: log_prob.as_mut_ptr(), len: log_prob.len(), fed: 0 }
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

/// Makes a call, and turns a status and its message into an error.
pub(crate) fn call(
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

fn incomplete(library: &Library) -> Error {
    bad_answer(library, "a function of its table is missing")
}
