//! The backend's functions, called as a C host would call them. The safe host refuses values that can't be right before
//! anybody sees them; here they are the evidence.
#![allow(unsafe_code)] // Calls over the boundary; each block states what it relies on.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use bheval_abi::{
    Backend, Dtype, Forest, Kind, LOGITS_EXTENSION, Logits, LogitsTable, MASKED_EXTENSION, Masked,
    MaskedTable, Message, ModelInfo, OpenOptions, RawModel, Scores, Status, Text,
};
use bheval_host::Library;

use crate::trees::Trees;
use crate::verdict::Refusal;

/// What log-probabilities are before a call: a NaN that no arithmetic makes.
pub(crate) const UNTOUCHED: f32 = f32::from_bits(0x7fc0_bee5);

/// The table of a library that was opened in this process, as all of `verify`'s are.
pub(crate) fn table(library: &Library) -> &Backend {
    library.table().expect("verify never isolates: its libraries are in this process")
}

/// Answer of a call: its status, its sentence, and what is wrong with the sentence itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) sentence: String,
    pub(crate) fault: Option<String>,
}

impl Answer {
    /// Success, or the refusal of a call that was right.
    pub(crate) fn granted(self, action: &'static str) -> Result<(), Refusal> {
        match self.status {
            Status::OK => Ok(()),
            status => Err(Refusal { action, status, sentence: self.sentence }),
        }
    }
}

/// Makes a call with room for a sentence of `capacity` bytes.
pub(crate) fn said_in(capacity: usize, call: impl FnOnce(*mut Message) -> Status) -> Answer {
    const GUARD: [u8; 64] = [0xa5; 64];
    let mut buffer = vec![0_u8; capacity];
    buffer.extend(GUARD);
    let mut message = Message { size: size_of::<Message>(), ptr: buffer.as_mut_ptr(), capacity, len: 0 };
    let status = call(&raw mut message);
    let len = message.len;
    let mut fault = None;
    if len > capacity || buffer[capacity..] != GUARD {
        fault = Some(format!("its sentence of {len} bytes overran the {capacity} bytes it was given"));
    }
    let text = &buffer[..len.min(capacity)];
    if std::str::from_utf8(text).is_err() {
        fault = fault.or(Some("its sentence is not UTF-8".to_owned()));
    }
    Answer { status, sentence: String::from_utf8_lossy(text).into_owned(), fault }
}

/// Makes a call with plenty of room for its sentence.
pub(crate) fn said(call: impl FnOnce(*mut Message) -> Status) -> Answer {
    said_in(4096, call)
}

/// What a model says of itself, as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) vocab: u32,
    pub(crate) context: u32,
    pub(crate) nodes: u32,
    pub(crate) kind: Kind,
    pub(crate) parameters: u64,
    /// `None` where the bytes are not UTF-8.
    pub(crate) architecture: Option<String>,
    pub(crate) dtype: Option<String>,
}

/// The answer to a scoring call that went well.
#[derive(Clone, Debug)]
pub(crate) struct Scored {
    pub(crate) log_prob: Vec<f32>,
    pub(crate) fed: u64,
}

/// An opened model, or null for calls that have none. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) library: Library,
    pub(crate) raw: *mut RawModel,
    pub(crate) info: Info,
}

// SAFETY: the contract allows calls from any thread, one at a time, which `&mut self` sees to.
unsafe impl Send for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        close(table(&self.library), self.raw);
    }
}

/// Calls `close`; null is allowed.
fn close(table: &Backend, raw: *mut RawModel) {
    let close = table.close.expect("the host checked that it is there");
    // SAFETY: opened by this library and closed once, or null.
    unsafe { close(raw) }
}

/// Closes no model, which is allowed.
pub(crate) fn close_null(library: &Library) {
    close(table(library), null_mut());
}

/// The options of a right call.
pub(crate) fn options(path: &str, threads: u32, dtype: Dtype, memory: u64) -> OpenOptions<'_> {
    OpenOptions { size: size_of::<OpenOptions<'_>>(), path: Text::new(path), threads, dtype, memory }
}

impl Opened {
    /// Opens a model and reads its description.
    pub(crate) fn open(library: &Library, options: &OpenOptions<'_>) -> Result<Self, Refusal> {
        let mut raw = null_mut();
        // SAFETY: valid pointers for the length of the call.
        unsafe { call_open(library, options, &raw mut raw) }.granted("open")?;
        if raw.is_null() {
            let sentence = "it said ok and left the model null".to_owned();
            return Err(Refusal { action: "open", status: Status::INTERNAL, sentence });
        }
        let mut opened = Self { library: library.clone(), raw, info: no_info() };
        opened.info = opened.describe()?;
        Ok(opened)
    }

    /// Asks the model what it is.
    pub(crate) fn describe(&mut self) -> Result<Info, Refusal> {
        let mut raw = blank_info();
        // SAFETY: an opened model, and a struct that outlives the call.
        unsafe { call_describe(self, &raw mut raw) }.granted("describe")?;
        // SAFETY: the texts live until the model is closed; they are copied at once.
        let (architecture, dtype) = unsafe { (raw.architecture.get(), raw.dtype.get()) };
        Ok(Info {
            vocab: raw.vocab,
            context: raw.context,
            nodes: raw.nodes,
            kind: raw.kind,
            parameters: raw.parameters,
            architecture: architecture.map(str::to_owned),
            dtype: dtype.map(str::to_owned),
        })
    }

    /// Scores a forest as it is.
    pub(crate) fn score(&mut self, trees: &Trees) -> Result<Scored, Refusal> {
        let mut log_prob = vec![UNTOUCHED; trees.len()];
        let (answer, fed) = self.score_into(trees, &mut log_prob);
        answer.granted("score")?;
        Ok(Scored { log_prob, fed })
    }

    /// Scores a forest, and hands out the answer whatever it is.
    pub(crate) fn score_into(&mut self, trees: &Trees, log_prob: &mut [f32]) -> (Answer, u64) {
        assert_eq!(trees.len(), log_prob.len(), "room for each node");
        let forest = trees.raw();
        let mut scores = raw_scores(log_prob);
        // SAFETY: an opened model; the arrays are as long as they say and outlive the call.
        let answer = said(|m| unsafe { call_score(self.raw, &self.library, &forest, &mut scores, m) });
        (answer, scores.fed)
    }

    /// Rows of logits for the wanted nodes, or `None` where the backend offers none.
    pub(crate) fn logits(&mut self, trees: &Trees) -> Option<Result<Vec<f32>, Refusal>> {
        let table = extension(&self.library, LOGITS_EXTENSION)?.cast::<LogitsTable>();
        // SAFETY: the id names the table's type; its size is read before its function.
        let function =
            unsafe { ((*table).size >= size_of::<LogitsTable>()).then(|| (*table).logits).flatten() }?;
        let rows = trees.wanted.iter().filter(|&&w| w != 0).count();
        let mut data = vec![UNTOUCHED; rows * self.info.vocab as usize];
        let mut out = Logits { size: size_of::<Logits>(), data: data.as_mut_ptr(), len: data.len() };
        let forest = trees.raw();
        // SAFETY: as in `score_into`.
        let answer = said(|m| unsafe { function(self.raw, &raw const forest, &raw mut out, m) });
        Some(answer.granted("logits").map(|()| data))
    }

    /// Scores a batch of a masked model; `None` where the backend has no such function.
    pub(crate) fn masked_into(&mut self, batch: &Masked, log_prob: &mut [f32]) -> Option<(Answer, u64)> {
        let function = masked_function(&self.library)?;
        let mut scores = raw_scores(log_prob);
        // SAFETY: an opened model; the caller's arrays are as long as they say, or the batch is refused by its lengths.
        let answer = said(|m| unsafe { function(self.raw, batch, &raw mut scores, m) });
        Some((answer, scores.fed))
    }
}

/// Room for log-probabilities as the contract's struct.
pub(crate) fn raw_scores(log_prob: &mut [f32]) -> Scores {
    Scores { size: size_of::<Scores>(), log_prob: log_prob.as_mut_ptr(), len: log_prob.len(), fed: 0 }
}

/// The signature of masked scoring.
pub(crate) type MaskedScore =
    unsafe extern "C" fn(*mut RawModel, *const Masked, *mut Scores, *mut Message) -> Status;

/// The function that scores masked models, where there is one.
pub(crate) fn masked_function(library: &Library) -> Option<MaskedScore> {
    let table = extension(library, MASKED_EXTENSION)?.cast::<MaskedTable>();
    // SAFETY: the id names the table's type; its size is read before its function.
    unsafe { ((*table).size >= size_of::<MaskedTable>()).then(|| (*table).score).flatten() }
}

/// The table of an optional ability.
pub(crate) fn extension(library: &Library, id: &str) -> Option<*const c_void> {
    let find = table(library).extension?;
    // SAFETY: a function of a checked table, with readable text.
    let table = unsafe { find(Text::new(id)) };
    (!table.is_null()).then_some(table)
}

/// The table of an id that is no text.
pub(crate) fn extension_of_noise(library: &Library) -> Vec<*const c_void> {
    let Some(find) = table(library).extension else { return Vec::new() };
    let bytes = [0xff_u8, 0xfe];
    let noise = Text { ptr: bytes.as_ptr(), len: 2, ..Text::new("") };
    let empty = Text { ptr: null(), len: 0, ..Text::new("") };
    // SAFETY: readable bytes, or none.
    unsafe { vec![find(noise), find(empty)] }
}

/// # Safety
/// The pointers are null, or valid for what the sizes in their structs promise.
pub(crate) unsafe fn call_open(
    library: &Library,
    options: *const OpenOptions<'_>,
    model: *mut *mut RawModel,
) -> Answer {
    let open = table(library).open.expect("the host checked that it is there");
    // SAFETY: passed on from the caller.
    said(|message| unsafe { open(options, model, message) })
}

/// # Safety
/// `info` is null, or valid for what its size promises.
pub(crate) unsafe fn call_describe(opened: &Opened, info: *mut ModelInfo<'_>) -> Answer {
    let describe = table(&opened.library).describe.expect("the host checked that it is there");
    // SAFETY: passed on from the caller.
    said(|message| unsafe { describe(opened.raw, info, message) })
}

/// # Safety
/// `model` is null or an opened model of `library`; the other pointers are null, or valid for what sizes and lengths in
/// their structs promise, unless those alone are a reason to refuse.
pub(crate) unsafe fn call_score(
    model: *mut RawModel,
    library: &Library,
    forest: *const Forest,
    scores: *mut Scores,
    message: *mut Message,
) -> Status {
    let score = table(library).score.expect("the host checked that it is there");
    // SAFETY: passed on from the caller.
    unsafe { score(model, forest, scores, message) }
}

/// A struct for `describe` to fill.
pub(crate) fn blank_info() -> ModelInfo<'static> {
    ModelInfo {
        size: size_of::<ModelInfo<'_>>(),
        vocab: 0,
        context: 0,
        nodes: 0,
        kind: Kind(0),
        parameters: 0,
        architecture: Text::new(""),
        dtype: Text::new(""),
    }
}

fn no_info() -> Info {
    let (architecture, dtype) = (None, None);
    Info { vocab: 0, context: 0, nodes: 0, kind: Kind(0), parameters: 0, architecture, dtype }
}
