//! What a run asks a model, whatever its kind.

use std::hash::Hash;

use bheval_data::encode::Request;
use bheval_data::masked::MaskedRequest;
use bheval_host::{Error, Model, Route};
use sha2::Sha256;

use crate::store::Record;

/// A text that is cut, and can be scored together with others of its kind. What it scores does not depend on them.
pub trait Ask: Clone + Ord + Hash + Send + Sync {
    /// Token ids as the text has them.
    fn ids(&self) -> &[u32];

    /// Tokens that it adds to a batch in which `before` stands before it, at most.
    fn load(&self, before: Option<&Self>) -> usize;

    /// Tokens that are run through the network for it alone.
    fn alone(&self) -> u64;

    /// Feeds what distinguishes it from others of its kind.
    fn digest(&self, hash: &mut Sha256);

    /// Scores a batch: a record for each request, and the tokens that were run through the network.
    ///
    /// # Errors
    /// What the backend refuses.
    fn score(model: &mut Model, batch: &[&Self], route: Route) -> Result<(Vec<Record>, u64), Error>;
}

/// The distinct requests of a run: of one kind, since a run has one model.
#[derive(Clone, Debug)]
pub enum Requests {
    /// For a model that is read left to right.
    Causal(Vec<Request>),
    /// For a masked model.
    Masked(Vec<MaskedRequest>),
}

impl Requests {
    /// Number of requests.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Requests::Causal(requests) => requests.len(),
            Requests::Masked(requests) => requests.len(),
        }
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The sum of f32 terms in f64 from left to right. The sum of so few terms is all but exact, so sentences with the same
/// terms in another order tie, as they should.
pub(crate) fn sum(terms: impl Iterator<Item = f32>) -> Record {
    let (mut total, mut tokens) = (0.0, 0);
    for term in terms {
        total += f64::from(term);
        tokens += 1;
    }
    Record { log_prob: total, tokens }
}
