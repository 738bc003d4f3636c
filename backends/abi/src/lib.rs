//! The contract between bheval and a backend: plain C tables and nothing else.
//!
//! A backend is a library that exports one data symbol, [`SYMBOL`], holding a [`Backend`] table. The table is led by
//! its size and its version, so that a host can refuse it before it calls anything. The unit of scoring is a
//! [`Forest`] of token prefixes: ids cross this boundary, text does not.
//!
//! Rules that hold everywhere, unless a function says otherwise:
//!
//! * **Ownership.** Whoever allocates frees. Every pointer that is passed in stays the caller's and is valid only
//!   during the call. Text handed out by a backend lives as long as what it describes (the library, or the model).
//! * **Threads.** Functions of the table may be called from any thread. For one model there is one call at a time;
//!   different models may be called at the same time.
//! * **Failure.** Every function that can fail returns a [`Status`] and writes a sentence into the caller's
//!   [`Message`]. No panic or exception leaves a backend; in Rust [`guard`] sees to that.
//! * **Growth.** A struct is led by its size in bytes as the side that filled it knew it. A reader reads no field that
//!   lies beyond that size. Fields are only ever appended, with a new minor version; anything else is a new major one.
//!   [`Text`] alone has no size: it is a plain pair and will not change within a major version.
#![allow(unsafe_code)] // This crate is the boundary; each block states what it relies on.

mod export;
mod failure;
mod forest;
mod growth;
mod hidden;
mod logits;
mod masked;
mod table;
mod text;
mod train;
mod trainable;

pub use export::{Info, LanguageModel, Opening, backend, hidden_table, logits_table, masked_table};
pub use failure::{Failure, Message, Status, guard};
pub use forest::{Forest, ForestView, NO_PARENT, Scores};
pub use hidden::{HIDDEN_EXTENSION, HeadValues, Hidden, HiddenTable, RawHead};
pub use logits::{LOGITS_EXTENSION, Logits, LogitsTable};
pub use masked::{MASKED_EXTENSION, Masked, MaskedTable, MaskedView};
pub use table::{
    Backend, Dtype, FEATURE_FOREST, Kind, MAJOR, MINOR, ModelInfo, OpenOptions, RawModel, SYMBOL,
};
pub use text::Text;
pub use train::{
    Kept, RawTeacher, RawTrainer, TRAIN_EXTENSION, Teacher, TeacherKind, TrainBatch, TrainInfo, TrainOptions,
    TrainRates, TrainSums, TrainTable, TrainTensor, TrainView,
};
pub use trainable::{Found, Start, TensorInfo, Trainable, TrainerInfo, backend_that_trains, train_table};

/// Compiles the how-to's example.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/write-a-backend.md")]
struct HowTo;
