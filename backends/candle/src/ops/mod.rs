//! The recurrence of gated linear attention, which is HGRN2's mixer: its definition and its fast forms.

pub mod convolution;
pub mod forest;
pub mod gla;
