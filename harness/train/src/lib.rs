//! From text to a model: a [`plan::Plan`], a [`learner::Learner`] that does the arithmetic, and the loop between them.
//!
//! The weights after any step are a function of the plan and the learner's arithmetic alone. Every random choice comes from the
//! plan's seed and the step's number, so a run that is killed and resumed ends with the same bits.

pub mod checkpoint;
mod due;
mod error;
pub mod estimate;
pub mod feed;
pub mod folder;
mod initialise;
pub mod learner;
mod patience;
pub mod plan;
pub mod schedule;
mod steps;
pub mod trainer;
mod watch;

pub use error::{Difference, Error, NotFinite};
