//! How an architecture is put together: one file each.

mod gpt2;
mod gpt_neox;
mod hgrn2;
mod llama;
mod lstm;
mod mamba;
mod mamba2;
mod opt;
mod recipe;
mod state_space;
mod transformer;
mod xlstm;
mod xlstm_block;

use std::path::Path;

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::state_space::{architecture as original_architecture, is_original};
use bheval_candle::weights::Weights;

use crate::loss::Head;
use crate::parameters::Parameters;
use crate::tape::{Tape, Value};

/// An architecture with its sizes; its tensors are [`Parameters`] that were declared when it was built.
pub trait Network: Send + Sync {
    /// The hidden states that the head reads, `[rows, width]`: everything of the model but the head.
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value;

    /// What turns hidden states into logits.
    fn head(&self) -> Head;

    /// Longest sequence, or 0 where there is no limit.
    fn context(&self) -> usize;

    /// Floating-point operations of one token's forward pass in a sequence of `steps` tokens, a fused multiply-add
    /// counted as two, the head included (architectures.md 1.10).
    fn forward_flops(&self, steps: usize) -> f64;

    /// Refuses stored weights that training can't go on from, where more is to say than that a tensor is missing.
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    fn refuse_stored(&self, _weights: &Weights) -> Result<(), Failure> {
        Ok(())
    }
}

/// A network, and the tensors that it declared.
pub struct Model {
    /// The network.
    pub network: Box<dyn Network>,
    /// Its tensors, not yet filled.
    pub parameters: Parameters,
    /// Architecture as `config.json` spells it.
    pub architecture: String,
}

/// Declares a model's tensors and gives the network over them.
type Build = fn(&Keys<'_>, &mut Parameters) -> Result<Box<dyn Network>, Failure>;

/// The values of `model_type` that can be trained.
const BUILDERS: [(&str, Build); 10] = [
    ("gpt2", gpt2::build),
    ("gpt_neox", gpt_neox::build),
    ("hgrn2", hgrn2::build),
    ("llama", llama::build),
    ("lstm", lstm::build),
    ("lstm_lm", lstm::build),
    ("mamba", mamba::build),
    ("mamba2", mamba2::build),
    ("opt", opt::build),
    ("xlstm", xlstm::build),
];

/// The values of `model_type` that can be trained.
pub const ARCHITECTURES: [&str; BUILDERS.len()] = {
    let mut names = [""; BUILDERS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = BUILDERS[i].0;
        i += 1;
    }
    names
};

/// Reads `config.json` in the folder `path` and declares the model that it describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub fn build(path: &Path) -> Result<Model, Failure> {
    let file = path.join("config.json");
    let keys = Keys::read(&file)?;
    // Mamba's own package names no `model_type`.
    let architecture = match is_original(&keys) {
        true => original_architecture(&keys)?,
        false => keys.model_type(&ARCHITECTURES)?,
    }
    .to_owned();
    let mut parameters = Parameters::default();
    let build = BUILDERS.iter().find(|(name, _)| *name == architecture).map(|(_, build)| build);
    let build = build.ok_or_else(|| keys.unsupported("this architecture can't be trained"))?;
    let network = build(&keys, &mut parameters)?;
    Ok(Model { network, parameters, architecture })
}
