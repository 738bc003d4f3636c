//! How a model's texts are cut: by its kind, the protocol and, for a masked model, the reading.

use bheval_data::encode::{Cut, Encoder, Query};
use bheval_data::masked::{MaskedCut, MaskedEncoder, Pll};
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::{Tokenizer, TokenizerError};
use bheval_host::{Kind, Model};

use crate::Error;

/// The encoder that a model needs.
#[derive(Clone, Debug)]
pub enum Cutter<'a> {
    /// Left to right.
    Causal(Encoder<'a>),
    /// Copies with hidden tokens.
    Masked(MaskedEncoder<'a>),
}

/// A text as it is cut for a model of either kind.
#[derive(Clone, Debug)]
pub enum AnyCut {
    /// Left to right.
    Causal(Cut),
    /// Copies with hidden tokens.
    Masked(MaskedCut),
}

impl<'a> Cutter<'a> {
    /// The encoder of a model under a protocol. `pll` is the reading that was asked for, if any.
    ///
    /// # Errors
    /// As [`reading`], and a tokenizer without a mask token, or with one that the model does not have.
    pub fn new(
        tokenizer: &'a Tokenizer,
        protocol: Protocol,
        pll: Option<Pll>,
        model: &Model,
    ) -> Result<Self, Error> {
        let Some(pll) = reading(model, protocol, pll)? else {
            return Ok(Cutter::Causal(Encoder::new(tokenizer, protocol)));
        };
        let encoder = MaskedEncoder::new(tokenizer, protocol, pll).map_err(Error::Tokenizer)?;
        let (id, vocab) = (encoder.mask().id, model.info().vocab);
        if id >= vocab {
            let item = format!("the mask token {:?}", encoder.mask().text);
            return Err(Error::OtherVocabulary { item, id, vocab });
        }
        Ok(Cutter::Masked(encoder))
    }

    /// The reading of a masked model.
    #[must_use]
    pub fn pll(&self) -> Option<Pll> {
        match self {
            Cutter::Causal(_) => None,
            Cutter::Masked(encoder) => Some(encoder.pll()),
        }
    }

    /// How a text is cut.
    ///
    /// # Errors
    /// A text that can't be.
    pub fn cut(&self, query: &Query) -> Result<AnyCut, TokenizerError> {
        Ok(match self {
            Cutter::Causal(encoder) => AnyCut::Causal(encoder.cut(query)?),
            Cutter::Masked(encoder) => AnyCut::Masked(encoder.cut(query)?),
        })
    }
}

impl AnyCut {
    /// The cut for a model that is read left to right.
    #[must_use]
    pub fn causal(&self) -> Option<&Cut> {
        match self {
            AnyCut::Causal(cut) => Some(cut),
            AnyCut::Masked(_) => None,
        }
    }

    /// The cut for a masked model.
    #[must_use]
    pub fn masked(&self) -> Option<&MaskedCut> {
        match self {
            AnyCut::Causal(_) => None,
            AnyCut::Masked(cut) => Some(cut),
        }
    }

    /// Token ids of the text, with what was put before it.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        match self {
            AnyCut::Causal(cut) => &cut.request.ids,
            AnyCut::Masked(cut) => &cut.request.ids,
        }
    }

    /// For each id the characters that it covers.
    #[must_use]
    pub fn offsets(&self) -> &[(usize, usize)] {
        match self {
            AnyCut::Causal(cut) => &cut.offsets,
            AnyCut::Masked(cut) => &cut.offsets,
        }
    }

    /// For each id whether its log-probability counts.
    #[must_use]
    pub fn scored(&self) -> Vec<bool> {
        match self {
            AnyCut::Causal(cut) => cut.request.scored.clone(),
            AnyCut::Masked(cut) => {
                let mut scored = vec![false; cut.request.ids.len()];
                cut.request.copies.iter().for_each(|copy| scored[copy.target as usize] = true);
                scored
            }
        }
    }

    /// Tokens of the text that can't be scored, because nothing stands before them.
    #[must_use]
    pub fn unscored(&self) -> usize {
        match self {
            AnyCut::Causal(cut) => cut.unscored,
            AnyCut::Masked(cut) => cut.unscored,
        }
    }

    /// Tokens that are fed to score it alone.
    #[must_use]
    pub fn load(&self) -> usize {
        match self {
            AnyCut::Causal(cut) => cut.request.ids.len(),
            AnyCut::Masked(cut) => cut.request.tokens(),
        }
    }
}

/// How a model is read under a protocol: `None` for left to right.
///
/// # Errors
/// A reading of masked models for a causal one, a protocol that does not read masked models (so), a backend that offers
/// no masked scores.
pub fn reading(model: &Model, protocol: Protocol, asked: Option<Pll>) -> Result<Option<Pll>, Error> {
    let architecture = || model.info().architecture.clone();
    match (model.info().kind == Kind::MASKED, asked) {
        (false, None) => Ok(None),
        (false, Some(pll)) => Err(Error::NotMasked { architecture: architecture(), pll }),
        (true, _) if !model.library().reads_masked() => Err(Error::NoMaskedScores {
            architecture: architecture(),
            backend: model.library().name().to_owned(),
        }),
        (true, asked) => Pll::under(protocol, asked)
            .map(Some)
            .map_err(|reason| Error::Reading { architecture: architecture(), reason }),
    }
}
