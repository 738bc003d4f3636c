//! Per-token surprisal of any text: what psycholinguists want a model for.

use bheval_data::encode::{Cut, Encoder, Query};
use bheval_data::masked::{MaskedCut, Pll};
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Forest, Model, Route};

use crate::batch::halving;
use crate::masked::log_probs;
use crate::questions::check;
use crate::{AnyCut, Cutter, Error};

/// How a sentence becomes ids.
#[derive(Clone, Debug)]
pub enum Mode<'a> {
    /// As a protocol cuts it.
    Protocol(Cutter<'a>),
    /// Exactly as the tokenizer encodes it.
    AsEncoded(&'a Tokenizer),
}

impl<'a> Mode<'a> {
    /// As `protocol` cuts it for the model. `pll` is the reading of a masked model, where not the protocol's own.
    ///
    /// # Errors
    /// As [`Cutter::new`].
    pub fn protocol(
        tokenizer: &'a Tokenizer,
        protocol: Protocol,
        pll: Option<Pll>,
        model: &Model,
    ) -> Result<Self, Error> {
        Ok(Mode::Protocol(Cutter::new(tokenizer, protocol, pll, model)?))
    }

    /// Exactly as the tokenizer encodes it. That is what the default protocol does for a masked model.
    ///
    /// # Errors
    /// As [`Cutter::new`].
    pub fn as_encoded(tokenizer: &'a Tokenizer, pll: Option<Pll>, model: &Model) -> Result<Self, Error> {
        Ok(match Cutter::new(tokenizer, Protocol::Bheval, pll, model)? {
            Cutter::Causal(_) => Mode::AsEncoded(tokenizer),
            masked @ Cutter::Masked(_) => Mode::Protocol(masked),
        })
    }

    /// The reading of a masked model.
    #[must_use]
    pub fn pll(&self) -> Option<Pll> {
        match self {
            Mode::Protocol(cutter) => cutter.pll(),
            Mode::AsEncoded(_) => None,
        }
    }
}

/// A token with what it cost to read.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// Token id.
    pub id: u32,
    /// The piece as the vocabulary spells it.
    pub piece: String,
    /// Characters of the sentence that it covers, end exclusive; equal for a token that was put there.
    pub offsets: (usize, usize),
    /// `ln p(token | all before it)` in nats, for a masked model `ln p(token | all that its reading shows)`, or `None`
    /// where it is not scored.
    pub log_prob: Option<f32>,
}

impl TokenScore {
    /// Surprisal in bits, `-log₂ p`.
    #[must_use]
    pub fn surprisal_bits(&self) -> Option<f64> {
        self.log_prob.map(|l| -f64::from(l) / std::f64::consts::LN_2)
    }
}

/// A sentence with the scores of its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceScore {
    /// Its tokens, those put in front included.
    pub tokens: Vec<TokenScore>,
}

impl SentenceScore {
    /// Sum of the scored tokens' log-probabilities, in nats.
    #[must_use]
    pub fn log_prob(&self) -> f64 {
        self.tokens.iter().filter_map(|t| t.log_prob).map(f64::from).sum()
    }

    /// Number of scored tokens.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.tokens.iter().filter(|t| t.log_prob.is_some()).count()
    }
}

/// Cuts one sentence and checks that the model can take it. `name` tells the user which one it is.
///
/// # Errors
/// A text without tokens, ids that the model does not have, a text longer than the model's context.
pub fn cut(name: &str, text: &str, mode: &Mode<'_>, model: &Model) -> Result<AnyCut, Error> {
    let cut = match mode {
        Mode::AsEncoded(tokenizer) => Encoder::as_encoded(tokenizer, text).map(AnyCut::Causal),
        Mode::Protocol(cutter) => cutter.cut(&Query::sentence(text)),
    };
    let cut = cut.map_err(|source| Error::Uncut { item: name.to_owned(), source })?;
    check(name, cut.ids(), model.info())?;
    Ok(cut)
}

/// Scores sentences that were cut for one model, in one batch where it goes as a whole. The inner errors concern one
/// sentence.
///
/// # Errors
/// What ends the run: a fault of the backend, not of a sentence.
pub fn score(
    model: &mut Model,
    tokenizer: &Tokenizer,
    cuts: &[AnyCut],
) -> Result<Vec<Result<SentenceScore, bheval_host::Error>>, Error> {
    let scored = halving(cuts, &mut |part| score_part(model, part))?;
    let sentences = cuts.iter().zip(scored);
    Ok(sentences.map(|(cut, values)| values.map(|values| sentence(tokenizer, cut, &values))).collect())
}

/// For each token of each sentence its log-probability, where it is scored.
fn score_part(model: &mut Model, cuts: &[AnyCut]) -> Result<Vec<Vec<Option<f32>>>, bheval_host::Error> {
    let causal: Vec<&Cut> = cuts.iter().filter_map(AnyCut::causal).collect();
    if causal.is_empty() {
        let masked: Vec<&MaskedCut> = cuts.iter().filter_map(AnyCut::masked).collect();
        return score_masked(model, &masked);
    }
    score_causal(model, &causal)
}

fn score_causal(model: &mut Model, cuts: &[&Cut]) -> Result<Vec<Vec<Option<f32>>>, bheval_host::Error> {
    let mut forest = Forest::new();
    let paths: Vec<_> = cuts.iter().map(|c| forest.insert(&c.request.ids, &c.request.scored)).collect();
    let scored = model.score(&forest, Route::Forest)?;
    let values = |(cut, path): (&&Cut, &Vec<u32>)| {
        let tokens = path.iter().zip(&cut.request.scored);
        tokens.map(|(&node, &counts)| counts.then(|| scored.log_prob[node as usize])).collect()
    };
    Ok(cuts.iter().zip(&paths).map(values).collect())
}

fn score_masked(model: &mut Model, cuts: &[&MaskedCut]) -> Result<Vec<Vec<Option<f32>>>, bheval_host::Error> {
    let requests: Vec<_> = cuts.iter().map(|cut| &cut.request).collect();
    let (terms, _) = log_probs(model, &requests)?;
    let values = |(cut, terms): (&&MaskedCut, Vec<f32>)| {
        let mut values = vec![None; cut.request.ids.len()];
        for (copy, term) in cut.request.copies.iter().zip(terms) {
            values[copy.target as usize] = Some(term);
        }
        values
    };
    Ok(cuts.iter().zip(terms).map(values).collect())
}

fn sentence(tokenizer: &Tokenizer, cut: &AnyCut, values: &[Option<f32>]) -> SentenceScore {
    let token = |((&id, &offsets), &log_prob): ((&u32, &(usize, usize)), &Option<f32>)| TokenScore {
        id,
        piece: tokenizer.piece(id).unwrap_or_default(),
        offsets,
        log_prob,
    };
    SentenceScore { tokens: cut.ids().iter().zip(cut.offsets()).zip(values).map(token).collect() }
}
