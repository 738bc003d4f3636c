//! One file an operation: its forward pass, what it keeps, and its way back.

pub mod activation;
pub mod add;
pub mod attention;
pub mod block_diagonal;
pub(crate) mod columns;
pub mod convolution;
pub mod dropout;
pub mod embedding;
pub mod gla;
pub mod head_norm;
pub mod layer_norm;
pub mod linear;
pub mod lstm;
pub mod mlstm;
pub mod output_gate;
pub mod rms_norm;
pub mod rows;
pub mod selective_scan;
pub mod selection;
pub mod slstm;
pub mod ssd;
