//! Models, one file each. HGRN2 has two: its definition on candle tensors, which training builds on, and the packed form
//! that scores forests. The xLSTM package's design has one for each kind of block and one for its configuration.

pub mod bert;
pub mod gpt2;
pub mod gpt_neox;
pub mod hgrn2;
pub mod hgrn2_forest;
pub mod llama;
pub mod lstm;
pub mod mamba;
pub mod mamba2;
pub mod opt;
pub mod state_space;
pub mod xlstm;
pub mod xlstm_block;
pub mod xlstm_config;
mod xlstm_mlstm;
mod xlstm_slstm;
