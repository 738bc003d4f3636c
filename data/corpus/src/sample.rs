//! Which documents a domain gives: drawn without replacement until its words are reached.

use sha2::{Digest, Sha256};

use crate::mixture::Budget;
use crate::survey::{Content, Seen};

/// A number that decides where a document stands in a draw. It depends on the seed and the document's words alone, so neither
/// on files nor on their order.
pub(crate) fn draw(purpose: &str, seed: u64, content: &Content) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update(purpose);
    hasher.update([0]);
    hasher.update(seed.to_le_bytes());
    hasher.update(content);
    let digest: [u8; 32] = hasher.finalize().into();
    u128::from_be_bytes(*digest.first_chunk().expect("a digest is longer"))
}

/// Whether a document is in a share of all documents, by its words alone: not by a seed, so that corpora of several seeds have
/// the same held-out text.
pub(crate) fn is_in_share(share: f64, purpose: &str, content: &Content) -> bool {
    let place = (draw(purpose, 0, content) >> 64) as u64;
    (place as f64) < share * 2_f64.powi(64)
}

/// Picks documents of one domain, given by number; those picked are in the order of their numbers.
///
/// Documents are gone through in a random order. One that has more words than the budget has left is passed over, so that a
/// budget is never exceeded, and missed by less than the shortest document that was not taken.
pub(crate) fn pick(documents: &[Seen], of: &[usize], budget: Budget, seed: u64) -> Vec<usize> {
    let Budget::Words(mut left) = budget else { return of.to_vec() };
    let mut order: Vec<_> =
        of.iter().map(|number| (draw("sample", seed, &documents[*number].content), *number)).collect();
    order.sort_unstable();
    let mut picked: Vec<_> = order
        .into_iter()
        .map(|(_, number)| number)
        .filter(|number| {
            let words = u64::from(documents[*number].words);
            let fits = words <= left;
            left -= if fits { words } else { 0 };
            fits
        })
        .collect();
    picked.sort_unstable();
    picked
}
