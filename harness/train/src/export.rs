//! A checkpoint as a folder that any Hugging Face user can load.

mod error;
mod tensors;

pub use error::Error;
pub use tensors::{Named, StoredAs, bf16, write_safetensors};
