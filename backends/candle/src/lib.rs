//! The native backends of bheval, on the CPU: each one names a family of architectures.
//!
//! [`BACKENDS`] are their tables. A model is read with candle; what scores forests of prefixes, or masked sequences, is
//! the arithmetic of [`kernels`], whose results depend on a path, or a sequence, alone, bit for bit. [`scorer`] and
//! [`masked`] are what architectures share; each of them is one file in [`models`].

pub mod body;
pub mod config;
mod head;
pub mod keys;
pub mod layers;
mod loader;
pub mod masked;
pub mod models;
mod native;
pub mod ops;
mod recurrent;
pub mod scorer;
pub mod weights;

use std::path::{Path, PathBuf};

use bheval_abi::{Backend, Failure};
use candle_core::DType;

pub use bheval_kernels as kernels;
pub use head::Head;
use kernels::Isa;
use keys::Keys;
use masked::Masked;
use models::hgrn2::Hgrn2Weights;
use models::hgrn2_forest::Hgrn2Network;
pub use native::{Family, Loaded, Native, Scorer};
pub use recurrent::{LSTM, Lstm, LstmFamily, MAMBA, Mamba, MambaFamily, XLSTM, Xlstm, XlstmFamily};
use scorer::Causal;
use weights::Weights;

/// HGRN2 behind the contract.
pub type Hgrn2 = Native<Hgrn2Family>;

/// The table of `--backend hgrn2`, for hosts that link it in.
pub static HGRN2: Backend = bheval_abi::backend::<Hgrn2>();

/// Transformers behind the contract.
pub type Transformers = Native<TransformerFamily>;

/// The table of `--backend transformer`, for hosts that link it in.
pub static TRANSFORMER: Backend = bheval_abi::backend::<Transformers>();

/// The tables of all native backends, with the values of `model_type` that each opens.
pub static BACKENDS: [(&Backend, &[&str]); 5] = [
    (&HGRN2, Hgrn2Family::ARCHITECTURES),
    (&TRANSFORMER, TransformerFamily::ARCHITECTURES),
    (&LSTM, LstmFamily::ARCHITECTURES),
    (&MAMBA, MambaFamily::ARCHITECTURES),
    (&XLSTM, XlstmFamily::ARCHITECTURES),
];

/// HGRN2 (architectures.md 1).
pub struct Hgrn2Family;

impl Family for Hgrn2Family {
    const NAME: &'static str = "hgrn2";
    const ARCHITECTURES: &'static [&'static str] = &config::KNOWN;

    fn load(path: &Path, threads: usize) -> Result<Loaded, Failure> {
        let weights = Hgrn2Weights::load(path, DType::F32)?;
        let scorer = Causal::new(Hgrn2Network::new(&weights)?, threads, Isa::best())?;
        Ok(Loaded {
            architecture: Self::NAME.to_owned(),
            parameters: weights.parameters,
            scorer: Scorer::Causal(Box::new(scorer)),
        })
    }
}

/// Transformers: causal ones, and masked ones (architectures.md 2, 3 and 8).
pub struct TransformerFamily;

impl Family for TransformerFamily {
    const NAME: &'static str = "transformer";
    const ARCHITECTURES: &'static [&'static str] = &["llama", "gpt2", "gpt_neox", "opt", "bert", "roberta"];

    fn load(path: &Path, threads: usize) -> Result<Loaded, Failure> {
        let file = config_file(path);
        let keys = Keys::read(&file)?;
        let architecture = keys.model_type(Self::ARCHITECTURES)?.to_owned();
        let mut weights = Weights::open(path, DType::F32)?;
        let load = match architecture.as_str() {
            "llama" => models::llama::load,
            "gpt2" => models::gpt2::load,
            "gpt_neox" => models::gpt_neox::load,
            "opt" => models::opt::load,
            _ => models::bert::load,
        };
        let model = load(&keys, &mut weights)?;
        let scorer = if matches!(architecture.as_str(), "bert" | "roberta") {
            Scorer::Masked(Box::new(Masked::new(model, threads, Isa::best())?))
        } else {
            Scorer::Causal(Box::new(Causal::new(model, threads, Isa::best())?))
        };
        Ok(Loaded { architecture, parameters: weights.parameters(), scorer })
    }
}

/// The `config.json` of a model: in its folder, or beside its file.
fn config_file(path: &Path) -> PathBuf {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    folder.join("config.json")
}

/// The first `len` values of a buffer that grows as needed.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
