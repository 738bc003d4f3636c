//! The native backends of bheval, on the CPU: each one names a family of architectures.
//!
//! [`BACKENDS`] are their tables. A model is read with candle; what scores forests of prefixes, or masked sequences, is
//! the arithmetic of [`kernels`], whose results depend on a path, or a sequence, alone, bit for bit. [`scorer`] and
//! [`masked`] are what architectures share; each of them is one file in [`models`].

pub mod config;
mod head;
pub mod kernels;
mod keys;
mod linear;
mod loader;
pub mod masked;
pub mod models;
mod native;
pub mod ops;
mod recurrent;
pub mod scorer;
#[cfg(test)]
mod test_numbers;
pub mod weights;

use std::path::Path;

use bheval_abi::{Backend, Failure};
use candle_core::DType;

pub use head::Head;
use kernels::Isa;
use models::hgrn2::Hgrn2Weights;
use models::hgrn2_forest::Hgrn2Network;
pub use native::{Family, Loaded, Native, Scorer};
pub use recurrent::{LSTM, Lstm, LstmFamily, MAMBA, Mamba, MambaFamily, XLSTM, Xlstm, XlstmFamily};
use scorer::Causal;

/// HGRN2 behind the contract.
pub type Hgrn2 = Native<Hgrn2Family>;

/// The table of `--backend hgrn2`, for hosts that link it in.
pub static HGRN2: Backend = bheval_abi::backend::<Hgrn2>();

/// The tables of all native backends.
pub static BACKENDS: [&Backend; 4] = [&HGRN2, &LSTM, &MAMBA, &XLSTM];

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

/// The first `len` values of a buffer that grows as needed.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
