//! Layers that architectures share, with the names under which files keep them.

pub mod linear;
pub mod mlp;
pub mod norm;
pub mod rope;
pub mod transformer;
