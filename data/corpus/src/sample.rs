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

#[cfg(test)]
mod tests {
    use super::*;

    fn document(number: u8, words: u32) -> Seen {
        Seen { content: [number; 16], words, domain: 0, source: 0 }
    }

    /// One of four alike by 4,000 seeds: 1,000 expected each, standard deviation 27.
    #[test]
    fn alike_documents_are_drawn_equally_often() {
        let documents: Vec<_> = (0..4).map(|number| document(number, 3)).collect();
        let mut counts = [0; 4];
        for seed in 0..4000 {
            let picked = pick(&documents, &[0, 1, 2, 3], Budget::Words(5), seed);
            assert_eq!(picked.len(), 1);
            counts[picked[0]] += 1;
        }
        assert!(counts.iter().all(|n| (860..=1140).contains(n)), "{counts:?}");
    }

    #[test]
    fn what_does_not_fit_is_passed_over() {
        let documents = [document(0, 50), document(1, 7), document(2, 2), document(3, 1)];
        for seed in 0..50 {
            assert_eq!(pick(&documents, &[0, 1, 2, 3], Budget::Words(10), seed), [1, 2, 3]);
            assert_eq!(pick(&documents, &[0, 2], Budget::All, seed), [0, 2]);
        }
    }

    /// A tenth of 20,000 contents: 2,000, standard deviation 42.
    #[test]
    fn a_share_is_that_share() {
        let is_in =
            |purpose: &str| (0..20_000_u128).filter(|i| is_in_share(0.1, purpose, &i.to_le_bytes())).count();
        assert!((1790..=2210).contains(&is_in("dev")), "{}", is_in("dev"));
        assert_ne!(is_in("dev"), is_in("tokenizer"));
        assert!((0..100_u128).all(|i| !is_in_share(0.0, "dev", &i.to_le_bytes())));
    }
}
