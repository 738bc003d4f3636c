//! Recurrences: HGRN2's mixer as a definition and in its fast forms, and what other recurrent models carry along a walk.

pub mod convolution;
pub mod forest;
pub mod gla;
pub mod levels;
pub(crate) mod matrix_memory;
pub(crate) mod mlstm;
pub(crate) mod selective_scan;
pub(crate) mod slstm;
