//! What rows of a forest tell each other: attention, the short convolution, and the recurrence of gated linear attention,
//! which is HGRN2's mixer, as definition and as fast forms.

pub mod attention;
pub mod convolution;
pub mod forest;
pub mod gla;
