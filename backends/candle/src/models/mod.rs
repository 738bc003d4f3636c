//! Models, one file each. HGRN2 has two: its definition on candle tensors, which training builds on, and the packed form
//! that scores forests.

pub mod bert;
pub mod gpt2;
pub mod gpt_neox;
pub mod hgrn2;
pub mod hgrn2_forest;
pub mod llama;
pub mod opt;
