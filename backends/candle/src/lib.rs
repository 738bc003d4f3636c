//! The native backend of bheval: HGRN2 on the CPU.
//!
//! [`Hgrn2`] implements the contract of `bheval-abi`; [`BACKEND`] is its table. [`models::hgrn2`] is the readable
//! definition on candle tensors, [`models::hgrn2_scorer`] the form that scores forests of prefixes with the arithmetic of
//! [`kernels`], whose results depend on a node's path alone, bit for bit.

pub mod config;
pub mod kernels;
pub mod models;
pub mod ops;
#[cfg(test)]
mod test_numbers;
pub mod weights;

use bheval_abi::{
    Backend, Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status,
    logits_table,
};
use candle_core::DType;

use kernels::Isa;
use models::hgrn2::Hgrn2Weights;
use models::hgrn2_scorer::Scorer;

/// The backend's table, for hosts that link it in.
pub static BACKEND: Backend = bheval_abi::backend::<Hgrn2>();

static LOGITS: LogitsTable = logits_table::<Hgrn2>();

/// HGRN2 behind the contract.
pub struct Hgrn2 {
    info: Info,
    scorer: Scorer,
}

impl LanguageModel for Hgrn2 {
    const NAME: &'static str = "hgrn2";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = Some(&LOGITS);

    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(
                Status::UNSUPPORTED,
                "the hgrn2 backend computes in f32 only; ask for f32, which also reads bf16 and f16 files",
            ));
        }
        let weights = Hgrn2Weights::load(&options.path, DType::F32)?;
        let scorer = Scorer::new(&weights, options.threads, Isa::best())?;
        let info = Info {
            vocab: weights.config.vocab as u32,
            context: 0,
            nodes: scorer.nodes(options.memory),
            kind: Kind::CAUSAL,
            parameters: weights.parameters,
            architecture: Self::NAME.to_owned(),
            dtype: "f32".to_owned(),
        };
        Ok(Self { info, scorer })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    /// A forest may have more than [`Info::nodes`] nodes; it then takes more memory than was planned for.
    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        self.scorer.score(forest, log_prob)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        self.scorer.logits(forest, out)
    }
}
