//! From text to a model.

pub mod export;
mod teacher;

pub use teacher::{ABSENT, Teacher, TeacherKind};
