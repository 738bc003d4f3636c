//! What every reader and boundary must survive: one function a target, called with arbitrary bytes.
//!
//! A body panics when a promise is broken and on nothing else. The same bodies run coverage-guided under cargo-fuzz
//! (`tests/fuzz`) and by plain random mutation under stable (`tests/tests/fuzz_smoke.rs`).

mod archive;
mod drive;
mod forest;
mod jsonl;
mod lines;
mod manifest;
mod mutate;
mod records;
mod safetensors;
mod scratch;
mod tiny;
mod tokenizer;

pub use archive::archive;
pub use drive::{Budget, Driven, drive};
pub use forest::forest;
pub use jsonl::jsonl;
pub use lines::lines;
pub use manifest::manifest;
pub use records::records;
pub use safetensors::safetensors;
pub use tokenizer::tokenizer;
