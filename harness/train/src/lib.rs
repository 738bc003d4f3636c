//! From text to a model.

pub mod distill;
pub mod export;
mod teacher;

pub use teacher::{ABSENT, Teacher, TeacherKind};
