//! The Rust side of a backend: implement [`LanguageModel`], then `bheval_abi::export!(YourModel)`.

use std::ffi::c_void;

use crate::growth::is_whole;
use crate::{
    Backend, Dtype, FEATURE_FOREST, Failure, Forest, ForestView, HIDDEN_EXTENSION, HeadValues, Hidden,
    HiddenTable, Kind, LOGITS_EXTENSION, Logits, LogitsTable, MAJOR, MASKED_EXTENSION, MINOR, Masked,
    MaskedTable, MaskedView, Message, ModelInfo, OpenOptions, RawHead, RawModel, Scores, Status, Text, guard,
};

/// What a model says of itself.
#[derive(Clone, Debug)]
pub struct Info {
    /// Number of tokens that have a probability.
    pub vocab: u32,
    /// Longest path in tokens, or 0 where there is no limit.
    pub context: u32,
    /// Nodes that one scoring call may have.
    pub nodes: u32,
    /// Causal or masked.
    pub kind: Kind,
    /// Number of parameters.
    pub parameters: u64,
    /// Architecture as `config.json` spells it.
    pub architecture: String,
    /// Number format in use.
    pub dtype: String,
}

/// The options of [`LanguageModel::open`], checked.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Folder or file of the model.
    pub path: std::path::PathBuf,
    /// Threads to use, at least 1.
    pub threads: usize,
    /// Wanted number format.
    pub dtype: Dtype,
    /// Bytes that scoring may take beside the weights.
    pub memory: u64,
}

/// A language model behind the contract, in safe Rust.
pub trait LanguageModel: Send + Sized + 'static {
    /// Name as a user types it after `--backend`.
    const NAME: &'static str;
    /// Version of the backend.
    const VERSION: &'static str;
    /// Whether [`LanguageModel::score`] takes any forest, or flat chains only.
    const FOREST: bool;
    /// The table of [`LOGITS_EXTENSION`], where the model offers logits: `Some(&logits_table::<Self>())`.
    const LOGITS: Option<&'static LogitsTable>;
    /// The table of [`HIDDEN_EXTENSION`], where the model offers what its head reads: `Some(&hidden_table::<Self>())`.
    const HIDDEN: Option<&'static HiddenTable> = None;
    /// The table of [`MASKED_EXTENSION`], where some of its models are masked: `Some(&masked_table::<Self>())`.
    const MASKED: Option<&'static MaskedTable> = None;

    /// Opens a model.
    ///
    /// # Errors
    /// What is missing or wrong, in which file, and what to try.
    fn open(options: &Opening) -> Result<Self, Failure>;

    /// What it is.
    fn info(&self) -> &Info;

    /// Writes `log_prob[i]` for every wanted node; returns how many nodes were run through the network.
    ///
    /// # Errors
    /// Tokens beyond the vocabulary, results that are not finite, and whatever else keeps a score from being right.
    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure>;

    /// Writes one row of logits for each wanted node: the distribution of the token that follows it.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] unless the model offers it.
    fn logits(&mut self, _forest: ForestView<'_>, _out: &mut [f32]) -> Result<(), Failure> {
        Err(Failure::new(Status::UNSUPPORTED, "this backend offers no logits"))
    }

    /// Values of a hidden state.
    ///
    /// # Errors
    /// As [`LanguageModel::head`].
    fn width(&self) -> Result<usize, Failure> {
        self.head().map(|head| head.width)
    }

    /// What turns its hidden states into logits.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where it is more than a product and a bias, or the model offers no hidden states.
    fn head(&self) -> Result<HeadValues, Failure> {
        Err(Failure::new(Status::UNSUPPORTED, "this backend offers no hidden states"))
    }

    /// Writes one hidden state for each wanted node: what the head reads to give the token that follows it.
    ///
    /// # Errors
    /// As [`LanguageModel::head`].
    fn hidden(&mut self, _forest: ForestView<'_>, _out: &mut [f32]) -> Result<(), Failure> {
        Err(Failure::new(Status::UNSUPPORTED, "this backend offers no hidden states"))
    }

    /// Writes `ln p(target | sequence)` for each question about a masked model's sequences; returns how many tokens
    /// were run through the network.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] unless the model is masked; else as [`LanguageModel::score`].
    fn masked(&mut self, _batch: MaskedView<'_>, _log_prob: &mut [f32]) -> Result<u64, Failure> {
        Err(Failure::new(Status::UNSUPPORTED, "this model is not a masked one"))
    }
}

/// The table of a model type.
#[must_use]
pub const fn backend<M: LanguageModel>() -> Backend {
    Backend {
        size: size_of::<Backend>(),
        major: MAJOR,
        minor: MINOR,
        features: if M::FOREST { FEATURE_FOREST } else { 0 },
        name: Text::new(M::NAME),
        version: Text::new(M::VERSION),
        open: Some(open::<M>),
        close: Some(close::<M>),
        describe: Some(describe::<M>),
        score: Some(score::<M>),
        extension: Some(extension::<M>),
    }
}

/// The logits table of a model type.
#[must_use]
pub const fn logits_table<M: LanguageModel>() -> LogitsTable {
    LogitsTable { size: size_of::<LogitsTable>(), logits: Some(logits::<M>) }
}

/// The hidden states' table of a model type.
#[must_use]
pub const fn hidden_table<M: LanguageModel>() -> HiddenTable {
    HiddenTable { size: size_of::<HiddenTable>(), head: Some(head::<M>), hidden: Some(hidden::<M>) }
}

/// The masked table of a model type.
#[must_use]
pub const fn masked_table<M: LanguageModel>() -> MaskedTable {
    MaskedTable { size: size_of::<MaskedTable>(), score: Some(masked::<M>) }
}

/// Exports a backend under [`crate::SYMBOL`]. Use it once, in the crate that builds as `cdylib`.
#[macro_export]
macro_rules! export {
    ($model:ty) => {
        /// The table that bheval looks up.
        #[allow(unsafe_code, non_upper_case_globals)]
        // SAFETY: the one symbol of this name in the library, as the contract asks.
        #[unsafe(no_mangle)]
        pub static bheval_backend: $crate::Backend = $crate::backend::<$model>();
    };
}

/// What `RawModel` points to.
struct Opened<M> {
    model: M,
    /// Set when an entry panicked: the model may then only be closed.
    broken: bool,
}

unsafe extern "C" fn open<M: LanguageModel>(
    options: *const OpenOptions<'_>,
    model: *mut *mut RawModel,
    message: *mut Message,
) -> Status {
    // SAFETY: the host passes valid or null pointers, as the contract asks.
    unsafe {
        guard(message, || {
            if options.is_null() || model.is_null() {
                return Err(Failure::input("no options were given, or no room for the model"));
            }
            if !is_whole(options) {
                return Err(Failure::input("the options are smaller than this version knows"));
            }
            let options = &*options;
            let path = options.path.get().ok_or_else(|| Failure::input("the model's path is not UTF-8"))?;
            let opening = Opening {
                path: path.into(),
                threads: (options.threads as usize).max(1),
                dtype: options.dtype,
                memory: options.memory,
            };
            let opened = Box::new(Opened { model: M::open(&opening)?, broken: false });
            *model = Box::into_raw(opened).cast();
            Ok(())
        })
    }
}

unsafe extern "C" fn close<M: LanguageModel>(model: *mut RawModel) {
    if model.is_null() {
        return;
    }
    // SAFETY: the host hands back, once, what `open::<M>` gave it.
    unsafe {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(model.cast::<Opened<M>>()));
            Ok(())
        });
    }
}

unsafe extern "C" fn describe<M: LanguageModel>(
    model: *mut RawModel,
    info: *mut ModelInfo<'_>,
    message: *mut Message,
) -> Status {
    // SAFETY: the host passes an opened model of this backend and a valid or null `info`.
    unsafe {
        run::<M>(model, message, |model| {
            if info.is_null() {
                return Err(Failure::input("no info was given"));
            }
            if !is_whole(info) {
                return Err(Failure::input("the info is smaller than this version knows"));
            }
            let known = model.info();
            // The texts live in the model; the borrow on the C side ends with `close`, as the contract says.
            let filled = ModelInfo {
                size: (&raw const (*info).size).read(),
                vocab: known.vocab,
                context: known.context,
                nodes: known.nodes,
                kind: known.kind,
                parameters: known.parameters,
                architecture: Text::new(&known.architecture),
                dtype: Text::new(&known.dtype),
            };
            std::ptr::copy_nonoverlapping(
                (&raw const filled).cast::<u8>(),
                info.cast::<u8>(),
                size_of_val(&filled),
            );
            Ok(())
        })
    }
}

unsafe extern "C" fn score<M: LanguageModel>(
    model: *mut RawModel,
    forest: *const Forest,
    scores: *mut Scores,
    message: *mut Message,
) -> Status {
    // SAFETY: the host passes an opened model of this backend and valid or null structs with the arrays they name.
    unsafe {
        run::<M>(model, message, |model| {
            let view = ForestView::from_raw(forest)?;
            if scores.is_null() || !is_whole(scores) {
                return Err(Failure::input("there is no room for scores, or less than this version knows"));
            }
            let out = &mut *scores;
            if out.len != view.len() {
                return Err(Failure::input("the scores are not as long as the forest"));
            }
            out.fed = model.score(view, floats(out.log_prob, out.len)?)?;
            Ok(())
        })
    }
}

unsafe extern "C" fn logits<M: LanguageModel>(
    model: *mut RawModel,
    forest: *const Forest,
    out: *mut Logits,
    message: *mut Message,
) -> Status {
    // SAFETY: as for `score`.
    unsafe {
        run::<M>(model, message, |model| {
            let view = ForestView::from_raw(forest)?;
            if out.is_null() || !is_whole(out) {
                return Err(Failure::input("there is no room for logits, or less than this version knows"));
            }
            let out = &mut *out;
            let rows = view.wanted.iter().filter(|&&w| w != 0).count();
            if Some(out.len) != rows.checked_mul(model.info().vocab as usize) {
                return Err(Failure::input("the room for logits is not wanted nodes times vocabulary"));
            }
            model.logits(view, floats(out.data, out.len)?)
        })
    }
}

unsafe extern "C" fn head<M: LanguageModel>(
    model: *mut RawModel,
    out: *mut RawHead,
    message: *mut Message,
) -> Status {
    // SAFETY: as for `score`; the head's pointers are null or have room for its values.
    unsafe { run::<M>(model, message, |model| model.head()?.write(out)) }
}

unsafe extern "C" fn hidden<M: LanguageModel>(
    model: *mut RawModel,
    forest: *const Forest,
    out: *mut Hidden,
    message: *mut Message,
) -> Status {
    // SAFETY: as for `score`.
    unsafe {
        run::<M>(model, message, |model| {
            let view = ForestView::from_raw(forest)?;
            if out.is_null() || !is_whole(out) {
                return Err(Failure::input("there is no room for states, or less than this version knows"));
            }
            let out = &mut *out;
            let rows = view.wanted.iter().filter(|&&w| w != 0).count();
            if Some(out.len) != rows.checked_mul(model.width()?) {
                return Err(Failure::input("the room for states is not wanted nodes times their width"));
            }
            model.hidden(view, floats(out.data, out.len)?)
        })
    }
}

unsafe extern "C" fn masked<M: LanguageModel>(
    model: *mut RawModel,
    batch: *const Masked,
    scores: *mut Scores,
    message: *mut Message,
) -> Status {
    // SAFETY: as for `score`.
    unsafe {
        run::<M>(model, message, |model| {
            let view = MaskedView::from_raw(batch)?;
            if scores.is_null() || !is_whole(scores) {
                return Err(Failure::input("there is no room for scores, or less than this version knows"));
            }
            let out = &mut *scores;
            if out.len != view.position.len() {
                return Err(Failure::input("the scores are not as many as the questions"));
            }
            out.fed = model.masked(view, floats(out.log_prob, out.len)?)?;
            Ok(())
        })
    }
}

pub(crate) unsafe extern "C" fn extension<M: LanguageModel>(id: Text<'_>) -> *const c_void {
    // SAFETY: the host passes readable text.
    match unsafe { id.get() } {
        Some(LOGITS_EXTENSION) => table_or_null(M::LOGITS),
        Some(HIDDEN_EXTENSION) => table_or_null(M::HIDDEN),
        Some(MASKED_EXTENSION) => table_or_null(M::MASKED),
        _ => std::ptr::null(),
    }
}

pub(crate) fn table_or_null<T>(table: Option<&'static T>) -> *const c_void {
    table.map_or(std::ptr::null(), |table| (&raw const *table).cast())
}

/// Runs a call on a model under the guard; a panic leaves the model unusable.
///
/// # Safety
/// `model` is null or came from `open::<M>`, with no other call on it; `message` is as [`guard`] asks.
unsafe fn run<M: LanguageModel>(
    model: *mut RawModel,
    message: *mut Message,
    call: impl FnOnce(&mut M) -> Result<(), Failure>,
) -> Status {
    // SAFETY: passed on from the caller.
    unsafe {
        guard(message, || {
            let opened = opened::<M>(model)?;
            opened.broken = true;
            let result = call(&mut opened.model);
            opened.broken = false;
            result
        })
    }
}

/// # Safety
/// `model` is null or came from `open::<M>`, with no other call on it.
unsafe fn opened<'a, M>(model: *mut RawModel) -> Result<&'a mut Opened<M>, Failure> {
    // SAFETY: the caller vouches for the pointer; null is handled.
    let opened =
        unsafe { model.cast::<Opened<M>>().as_mut() }.ok_or_else(|| Failure::input("no model was given"))?;
    if opened.broken {
        return Err(Failure::new(
            Status::PANIC,
            "this model panicked in an earlier call; close it and open it again",
        ));
    }
    Ok(opened)
}

/// # Safety
/// `ptr` is null or points to `len` floats that nothing else uses.
pub(crate) unsafe fn floats<'a>(ptr: *mut f32, len: usize) -> Result<&'a mut [f32], Failure> {
    if len == 0 {
        return Ok(&mut []);
    }
    if ptr.is_null() {
        return Err(Failure::input("the room for results is null"));
    }
    // SAFETY: not null, and the caller vouches for `len` elements.
    Ok(unsafe { std::slice::from_raw_parts_mut(ptr, len) })
}
