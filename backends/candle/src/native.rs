//! The contract's side of the native backends: one [`Native`] for every family of architectures.

use std::path::Path;

use bheval_abi::{
    Dtype, Failure, ForestView, HeadValues, HiddenTable, Info, Kind, LanguageModel, LogitsTable, MaskedTable,
    MaskedView, Opening, Status, hidden_table, logits_table, masked_table,
};

use crate::masked::MaskedScorer;
use crate::scorer::CausalScorer;

/// A model that a family opened.
pub struct Loaded {
    /// Architecture as `config.json` spells it.
    pub architecture: String,
    /// Number of weights, a tied one counted once.
    pub parameters: u64,
    /// What scores.
    pub scorer: Scorer,
}

/// What scores.
pub enum Scorer {
    /// From left to right.
    Causal(Box<dyn CausalScorer>),
    /// From both sides.
    Masked(Box<dyn MaskedScorer>),
}

/// Architectures that a user names together after `--backend`.
pub trait Family: Send + 'static {
    /// Name as a user types it.
    const NAME: &'static str;
    /// The values of `model_type` that it opens.
    const ARCHITECTURES: &'static [&'static str];

    /// Opens the model in the folder `path`, or the safetensors file `path` with `config.json` beside it, as f32.
    ///
    /// # Errors
    /// What is missing or wrong, in which file, and what to try.
    fn load(path: &Path, threads: usize) -> Result<Loaded, Failure>;
}

/// A family behind the contract.
pub struct Native<F: Family> {
    info: Info,
    scorer: Scorer,
    family: std::marker::PhantomData<F>,
}

impl<F: Family> Native<F> {
    const LOGITS_TABLE: &'static LogitsTable = &logits_table::<Self>();
    const HIDDEN_TABLE: &'static HiddenTable = &hidden_table::<Self>();
    const MASKED_TABLE: &'static MaskedTable = &masked_table::<Self>();
}

impl<F: Family> LanguageModel for Native<F> {
    const NAME: &'static str = F::NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = Some(Self::LOGITS_TABLE);
    const HIDDEN: Option<&'static HiddenTable> = Some(Self::HIDDEN_TABLE);
    const MASKED: Option<&'static MaskedTable> = Some(Self::MASKED_TABLE);

    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(
                Status::UNSUPPORTED,
                format!(
                    "the {} backend computes in f32 only; ask for f32, which also reads bf16 and f16 files",
                    F::NAME
                ),
            ));
        }
        let Loaded { architecture, parameters, scorer } = F::load(&options.path, options.threads)?;
        let (vocab, context, nodes, kind) = match &scorer {
            Scorer::Causal(s) => (s.vocab(), s.context(), s.nodes(options.memory), Kind::CAUSAL),
            Scorer::Masked(s) => (s.vocab(), s.context(), s.nodes(options.memory), Kind::MASKED),
        };
        let dtype = "f32".to_owned();
        let info = Info { vocab, context, nodes, kind, parameters, architecture, dtype };
        Ok(Self { info, scorer, family: std::marker::PhantomData })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    /// A forest may have more than [`Info::nodes`] nodes; it then takes more memory than was planned for.
    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        match &mut self.scorer {
            Scorer::Causal(scorer) => scorer.score(forest, log_prob),
            Scorer::Masked(_) => Err(self.not_causal()),
        }
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        match &mut self.scorer {
            Scorer::Causal(scorer) => scorer.logits(forest, out),
            Scorer::Masked(_) => Err(self.not_causal()),
        }
    }

    fn width(&self) -> Result<usize, Failure> {
        match &self.scorer {
            Scorer::Causal(scorer) => Ok(scorer.head().weights.inner()),
            Scorer::Masked(_) => Err(self.not_causal()),
        }
    }

    fn head(&self) -> Result<HeadValues, Failure> {
        match &self.scorer {
            Scorer::Causal(scorer) => scorer.head().values(),
            Scorer::Masked(_) => Err(self.not_causal()),
        }
    }

    fn hidden(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        match &mut self.scorer {
            Scorer::Causal(scorer) => scorer.hidden(forest, out),
            Scorer::Masked(_) => Err(self.not_causal()),
        }
    }

    fn masked(&mut self, batch: MaskedView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        match &mut self.scorer {
            Scorer::Masked(scorer) => scorer.score(batch, log_prob),
            Scorer::Causal(_) => Err(Failure::new(
                Status::UNSUPPORTED,
                format!("{} is causal: it can't be read as a masked model", self.info.architecture),
            )),
        }
    }
}

impl<F: Family> Native<F> {
    fn not_causal(&self) -> Failure {
        let text =
            format!("{} is a masked model: it gives no probability of a next token", self.info.architecture);
        Failure::new(Status::UNSUPPORTED, text)
    }
}
