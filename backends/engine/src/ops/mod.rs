//! One file an operation: its forward pass, what it keeps, and its way back.

pub mod activation;
pub mod add;
pub mod attention;
pub mod block_diagonal;
pub(crate) mod blocks;
pub mod convolution;
pub mod dropout;
pub mod embedding;
pub mod gated_norm;
pub mod gla;
pub mod head_norm;
pub mod joined;
pub mod layer_norm;
pub mod linear;
pub mod lower_bounds;
pub mod lstm;
pub mod mlstm;
pub mod output_gate;
pub mod rms_norm;
pub mod rotary;
pub mod rows;
pub mod selection;
pub mod selective_scan;
pub mod slstm;
pub mod ssd;
