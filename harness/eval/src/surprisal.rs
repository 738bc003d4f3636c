//! Per-token surprisal of any text: what psycholinguists want a model for.

use bheval_data::encode::{Cut, Encoder, Query};
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Forest, Model, Route};

use crate::Error;
use crate::batch::{halving, insert};
use crate::questions::check;

/// How a sentence becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As a protocol cuts it.
    Protocol(Protocol),
    /// Exactly as the tokenizer encodes it.
    AsEncoded,
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
    /// `ln p(token | all before it)` in nats, or `None` where it is not scored.
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
pub fn cut(name: &str, text: &str, tokenizer: &Tokenizer, mode: Mode, model: &Model) -> Result<Cut, Error> {
    let cut = match mode {
        Mode::AsEncoded => Encoder::as_encoded(tokenizer, text),
        Mode::Protocol(protocol) => Encoder::new(tokenizer, protocol).cut(&Query::sentence(text)),
    };
    let cut = cut.map_err(|source| Error::Uncut { item: name.to_owned(), source })?;
    check(name, &cut.request, model.info())?;
    Ok(cut)
}

/// Scores sentences that were cut, in one forest where it goes as a whole. The inner errors concern one sentence.
///
/// # Errors
/// What ends the run: a fault of the backend, not of a sentence.
pub fn score(
    model: &mut Model,
    tokenizer: &Tokenizer,
    cuts: &[Cut],
) -> Result<Vec<Result<SentenceScore, bheval_host::Error>>, Error> {
    Ok(halving(cuts, &mut |part| score_part(model, tokenizer, part))?)
}

fn score_part(
    model: &mut Model,
    tokenizer: &Tokenizer,
    cuts: &[Cut],
) -> Result<Vec<SentenceScore>, bheval_host::Error> {
    let mut forest = Forest::new();
    let library = model.library();
    let paths: Vec<_> = cuts.iter().map(|c| insert(&mut forest, library, &c.request)).collect();
    let scored = model.score(&forest, Route::Forest)?;
    Ok(cuts.iter().zip(&paths).map(|(cut, path)| sentence(tokenizer, cut, path, &scored.log_prob)).collect())
}

fn sentence(tokenizer: &Tokenizer, cut: &Cut, path: &[u32], log_prob: &[f32]) -> SentenceScore {
    let token = |i: usize| TokenScore {
        id: cut.request.ids[i],
        piece: tokenizer.piece(cut.request.ids[i]).unwrap_or_default(),
        offsets: cut.offsets[i],
        log_prob: cut.request.scored[i].then(|| log_prob[path[i] as usize]),
    };
    SentenceScore { tokens: (0..path.len()).map(token).collect() }
}
