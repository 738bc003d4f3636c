//! What rows of a forest tell each other: attention, the short convolution, and recurrences. Gated linear attention, which
//! is HGRN2's, is here as definition and as fast forms; the others' definitions are the references of `bheval-tests`.

pub mod attention;
pub mod convolution;
pub mod forest;
pub mod gla;
pub mod levels;
pub(crate) mod matrix_memory;
pub(crate) mod mlstm;
pub(crate) mod selective_scan;
pub(crate) mod slstm;
