//! The families of recurrent models: LSTM, Mamba (1 and 2) and xLSTM (both designs).

use std::path::Path;

use bheval_abi::{Backend, Failure};

use crate::config_file;
use crate::kernels::Isa;
use crate::keys::Keys;
use crate::models::{lstm, mamba, mamba2, state_space, xlstm, xlstm_block};
use crate::native::{Family, Loaded, Native, Scorer};
use crate::scorer::{Causal, Network};

/// LSTM language models behind the contract.
pub type Lstm = Native<LstmFamily>;
/// Mamba and Mamba-2 behind the contract.
pub type Mamba = Native<MambaFamily>;
/// xLSTM behind the contract.
pub type Xlstm = Native<XlstmFamily>;

/// The table of `--backend lstm`.
pub static LSTM: Backend = bheval_abi::backend::<Lstm>();
/// The table of `--backend mamba`.
pub static MAMBA: Backend = bheval_abi::backend::<Mamba>();
/// The table of `--backend xlstm`.
pub static XLSTM: Backend = bheval_abi::backend::<Xlstm>();

fn loaded<N: Network + 'static>(
    architecture: &str,
    (network, parameters): (N, u64),
    threads: usize,
) -> Result<Loaded, Failure> {
    let scorer = Causal::new(network, threads, Isa::best())?;
    Ok(Loaded { architecture: architecture.to_owned(), parameters, scorer: Scorer::Causal(Box::new(scorer)) })
}

/// LSTM language models (architectures.md 4).
pub struct LstmFamily;

impl Family for LstmFamily {
    const NAME: &'static str = "lstm";
    const ARCHITECTURES: &'static [&'static str] = &lstm::KNOWN;

    fn load(path: &Path, threads: usize) -> Result<Loaded, Failure> {
        let file = config_file(path);
        let keys = Keys::read(&file)?;
        loaded(keys.model_type(Self::ARCHITECTURES)?, lstm::Lstm::load(path)?, threads)
    }
}

/// Mamba and Mamba-2 (architectures.md 5 and 6).
pub struct MambaFamily;

impl Family for MambaFamily {
    const NAME: &'static str = "mamba";
    const ARCHITECTURES: &'static [&'static str] = &["mamba", "mamba2"];

    fn load(path: &Path, threads: usize) -> Result<Loaded, Failure> {
        let file = config_file(path);
        match state_space::architecture(&Keys::read(&file)?)? {
            "mamba" => loaded("mamba", mamba::Mamba::load(path)?, threads),
            architecture => loaded(architecture, mamba2::Mamba2::load(path)?, threads),
        }
    }
}

/// xLSTM: the design of transformers, and that of its authors' package (architectures.md 7).
pub struct XlstmFamily;

impl Family for XlstmFamily {
    const NAME: &'static str = "xlstm";
    const ARCHITECTURES: &'static [&'static str] = &["xlstm"];

    fn load(path: &Path, threads: usize) -> Result<Loaded, Failure> {
        let file = config_file(path);
        let keys = Keys::read(&file)?;
        keys.model_type(Self::ARCHITECTURES)?;
        match xlstm_block::is_block_design(&keys) {
            true => loaded(Self::NAME, xlstm_block::XlstmBlock::load(path)?, threads),
            false => loaded(Self::NAME, xlstm::Xlstm::load(path)?, threads),
        }
    }
}
