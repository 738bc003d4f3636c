//! Models, one file each; HGRN2 has a second file, which holds the packed form that scores forests.

pub mod hgrn2;
pub mod hgrn2_forest;
pub mod lstm;
pub mod mamba;
pub mod mamba2;
pub(crate) mod state_space;
pub mod xlstm;
pub mod xlstm_block;
mod xlstm_config;
mod xlstm_mlstm;
mod xlstm_slstm;
