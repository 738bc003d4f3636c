//! The safe side of the backend contract: find, check and open a backend, and ask it for scores.
//!
//! Nothing is called before its version was read and found fit. A library that was loaded stays mapped until the
//! process ends: its threads may outlive its models, and unloading code under a running thread is undefined.
#![allow(unsafe_code)] // Calls over the boundary; each block states what it relies on.

mod elf;
mod error;
mod flat;
mod forest;
mod library;
mod local;
mod masked;
mod model;
mod search;
mod trainer;
mod worker;

pub use bheval_abi::{
    Backend, Dtype, FEATURE_FOREST, Found, HeadValues, Kept, Kind, Status, Teacher, TeacherKind, TensorInfo,
    TrainRates, TrainView, TrainerInfo,
};
pub use error::Error;
pub use forest::Forest;
pub use library::{Library, Origin, Source};
pub use masked::MaskedBatch;
pub use model::{Model, ModelInfo, ModelOptions, Route, Scored};
pub use search::{file_name, plugin_folders, plugins_in};
pub use trainer::{Trainer, TrainerOptions};
pub use worker::{Launch, serve};
