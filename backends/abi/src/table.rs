//! The backend's table and the plain structs it speaks in.

use std::ffi::c_void;

use crate::{Forest, Message, Scores, Status, Text};

/// Name of the data symbol that a backend exports: a `const` [`Backend`].
pub const SYMBOL: &str = "bheval_backend";
/// Major version of the contract. Host and backend must agree.
pub const MAJOR: u32 = 1;
/// Minor version of the contract. A host reads what both sides know.
pub const MINOR: u32 = 0;

/// Feature bit: any forest is evaluated natively, each node once. Without it the host sends flat chains only, one for each
/// sequence that is asked for: sequences that begin alike are not merged, so each value comes from its own chain.
pub const FEATURE_FOREST: u64 = 1;

/// Number format of weights and products. Sums and log-probabilities are f32 or better in each of them.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dtype(pub u32);

impl Dtype {
    /// 32-bit floating point, whatever the file stores.
    pub const F32: Dtype = Dtype(1);
    /// Brain floating point for weights and products.
    pub const BF16: Dtype = Dtype(2);
}

/// What a model's scores mean.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind(pub u32);

impl Kind {
    /// Left to right: `log p(token | what stands before it)`.
    pub const CAUSAL: Kind = Kind(1);
    /// A masked model, read by pseudo-log-likelihood.
    pub const MASKED: Kind = Kind(2);
}

/// An opened model; only its backend knows what is inside.
#[repr(C)]
#[derive(Debug)]
pub struct RawModel {
    private: [u8; 0],
}

/// How to open a model.
#[repr(C)]
#[derive(Debug)]
pub struct OpenOptions<'a> {
    /// `sizeof(OpenOptions)` as the caller knows it.
    pub size: usize,
    /// Folder with `config.json` and weights, or a file, in UTF-8.
    pub path: Text<'a>,
    /// Threads to use, at least 1. Scores must not depend on it.
    pub threads: u32,
    /// Wanted number format.
    pub dtype: Dtype,
    /// Bytes that scoring may take beside the weights. A bound to plan by, not a hard limit.
    pub memory: u64,
}

/// What a backend says of an opened model. Its texts live until the model is closed.
#[repr(C)]
#[derive(Debug)]
pub struct ModelInfo<'a> {
    /// `sizeof(ModelInfo)`: set by the caller before the call.
    pub size: usize,
    /// Number of tokens that have a probability; ids are below it.
    pub vocab: u32,
    /// Longest path, in tokens, or 0 where the architecture sets no limit.
    pub context: u32,
    /// Nodes that one scoring call may have under the memory given, at least 1.
    pub nodes: u32,
    /// Causal or masked.
    pub kind: Kind,
    /// Number of parameters, a tied one counted once.
    pub parameters: u64,
    /// Architecture as `config.json` spells it: `hgrn2`.
    pub architecture: Text<'a>,
    /// Number format in use: `f32`.
    pub dtype: Text<'a>,
}

/// What a backend exports under [`SYMBOL`]. Lives as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct Backend {
    /// `sizeof(Backend)` as the backend knows it.
    pub size: usize,
    /// Major version of the contract the backend was built for.
    pub major: u32,
    /// Minor version of the contract the backend was built for.
    pub minor: u32,
    /// Feature bits: [`FEATURE_FOREST`] or none.
    pub features: u64,
    /// Name as a user types it after `--backend`.
    pub name: Text<'static>,
    /// Version of the backend; part of every result's key.
    pub version: Text<'static>,
    /// Opens a model and stores it in `model`. On failure `*model` is left alone.
    /// The caller closes what it opened. [any thread, several at a time]
    pub open: Option<
        unsafe extern "C" fn(
            options: *const OpenOptions<'_>,
            model: *mut *mut RawModel,
            message: *mut Message,
        ) -> Status,
    >,
    /// Frees a model. It must not be used again; null is allowed. [any thread; no other call on this model]
    pub close: Option<unsafe extern "C" fn(model: *mut RawModel)>,
    /// Fills `info`. Its texts live until `close`. [any thread; one call at a time per model]
    pub describe: Option<
        unsafe extern "C" fn(model: *mut RawModel, info: *mut ModelInfo<'_>, message: *mut Message) -> Status,
    >,
    /// Scores the wanted nodes of a forest. The answer for a node depends on its path alone: not on other nodes, their
    /// order, earlier calls or threads, bit for bit. Without [`FEATURE_FOREST`] it may also depend on the tokens that
    /// follow in its chain, whose number decides how a library rounds. [any thread; one call at a time per model]
    pub score: Option<
        unsafe extern "C" fn(
            model: *mut RawModel,
            forest: *const Forest,
            scores: *mut Scores,
            message: *mut Message,
        ) -> Status,
    >,
    /// The table of an optional ability by its id, or null. The table lives as long as the library; its type is the
    /// one that the id names, for example `bheval.logits.1`. [any thread, several at a time]
    pub extension: Option<unsafe extern "C" fn(id: Text<'_>) -> *const c_void>,
}
