//! From text to a model: a [`plan::Plan`], a [`learner::Learner`] that does the arithmetic, and the loop between them.
//!
//! The weights after any step are a function of the plan and the learner's arithmetic alone. Every random choice comes from the
//! plan's seed and the step's number, so a run that is killed and resumed ends with the same bits.

pub mod card;
pub mod checkpoint;
pub mod distill;
mod due;
mod error;
pub mod estimate;
pub mod export;
pub mod feed;
pub mod folder;
pub mod hosted;
pub mod learner;
pub mod observer;
mod patience;
pub mod plan;
pub mod schedule;
pub mod scores;
mod start;
pub mod steps;
mod teacher;
pub mod trainer;
mod watch;

pub use error::{Difference, Error, NotFinite};
pub use patience::{DevLoss, Patience};
pub use teacher::{ABSENT, Teacher, TeacherKind};
