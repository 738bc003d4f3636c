//! Requests of masked models: a batch is all their copies with hidden tokens. Copies that are alike, as those of a minimal
//! pair in which the differing word is hidden, are read once.

use std::collections::HashMap;

use bheval_data::masked::MaskedRequest;
use bheval_host::{Error, MaskedBatch, Model, Route, Status};
use sha2::{Digest, Sha256};

use crate::ask::{Ask, sum};
use crate::store::Record;

impl Ask for MaskedRequest {
    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn load(&self, _before: Option<&Self>) -> usize {
        self.tokens()
    }

    fn alone(&self) -> u64 {
        self.tokens() as u64
    }

    fn digest(&self, hash: &mut Sha256) {
        hash.update(self.mask.to_le_bytes());
        hash.update((self.ids.len() as u64).to_le_bytes());
        self.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        for copy in &self.copies {
            [copy.target, copy.end, copy.read].iter().for_each(|index| hash.update(index.to_le_bytes()));
        }
    }

    fn score(model: &mut Model, batch: &[&Self], _route: Route) -> Result<(Vec<Record>, u64), Error> {
        let (terms, fed) = log_probs(model, batch)?;
        Ok((terms.into_iter().map(|terms| sum(terms.into_iter())).collect(), fed))
    }
}

/// The log-probability of each copy's hidden target, request by request, and the tokens that were run.
///
/// # Errors
/// What the backend refuses.
pub(crate) fn log_probs(model: &mut Model, batch: &[&MaskedRequest]) -> Result<(Vec<Vec<f32>>, u64), Error> {
    let (sequences, places) = gather(batch);
    let nodes = model.info().nodes;
    let (mut values, mut fed) = (Vec::with_capacity(sequences.len()), 0);
    for chunk in chunks(&sequences, nodes) {
        fed += score(model, chunk, &mut values)?;
    }
    let of = |places: Vec<Place>| places.into_iter().map(|p| values[p.sequence][p.question]).collect();
    Ok((places.into_iter().map(of).collect(), fed))
}

/// A sequence with hidden tokens and what is asked about it.
struct Sequence {
    ids: Vec<u32>,
    /// Where it is read, and the token asked for.
    questions: Vec<(usize, u32)>,
}

/// Where the answer for a copy is found.
struct Place {
    sequence: usize,
    question: usize,
}

/// The distinct sequences of a batch, and for each request the places of its copies.
fn gather(batch: &[&MaskedRequest]) -> (Vec<Sequence>, Vec<Vec<Place>>) {
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut place = |request: &MaskedRequest, copy| {
        let ids = request.hidden(copy);
        let question = (copy.read as usize, request.ids[copy.target as usize]);
        let sequence = *known.entry(ids).or_insert_with_key(|ids| {
            sequences.push(Sequence { ids: ids.clone(), questions: Vec::new() });
            sequences.len() - 1
        });
        let asked = &mut sequences[sequence].questions;
        let at = asked.iter().position(|&q| q == question).unwrap_or_else(|| {
            asked.push(question);
            asked.len() - 1
        });
        Place { sequence, question: at }
    };
    let places = batch.iter().map(|r| r.copies.iter().map(|&copy| place(r, copy)).collect()).collect();
    (sequences, places)
}

/// Neighbouring sequences that have at most `nodes` tokens together; a longer one stands alone.
fn chunks(sequences: &[Sequence], nodes: usize) -> Vec<&[Sequence]> {
    let (mut chunks, mut first, mut load) = (Vec::new(), 0, 0);
    for (at, sequence) in sequences.iter().enumerate() {
        if at > first && load + sequence.ids.len() > nodes {
            chunks.push(&sequences[first..at]);
            (first, load) = (at, 0);
        }
        load += sequence.ids.len();
    }
    if first < sequences.len() {
        chunks.push(&sequences[first..]);
    }
    chunks
}

/// Scores sequences, in halves where they are too many for the backend, and appends one list of values for each.
fn score(model: &mut Model, sequences: &[Sequence], values: &mut Vec<Vec<f32>>) -> Result<u64, Error> {
    let mut batch = MaskedBatch::new();
    for sequence in sequences {
        batch.push(&sequence.ids, &sequence.questions);
    }
    let scored = match model.score_masked(&batch) {
        Err(Error::Refused { status: Status::EXHAUSTED, .. }) if sequences.len() > 1 => {
            let (left, right) = sequences.split_at(sequences.len() / 2);
            return Ok(score(model, left, values)? + score(model, right, values)?);
        }
        scored => scored?,
    };
    let mut rest = scored.log_prob.as_slice();
    for sequence in sequences {
        let (own, others) = rest.split_at(sequence.questions.len());
        values.push(own.to_vec());
        rest = others;
    }
    Ok(scored.fed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bheval_data::masked::MaskedCopy;

    /// Each token but the first and last hidden alone.
    fn request(ids: &[u32]) -> MaskedRequest {
        let copy = |t: usize| MaskedCopy { target: t as u32, end: t as u32 + 1, read: t as u32 };
        MaskedRequest { ids: ids.to_vec(), mask: 4, copies: (1..ids.len() - 1).map(copy).collect() }
    }

    #[test]
    fn a_pair_that_differs_in_one_word_shares_the_copy_in_which_it_is_hidden() {
        let (good, bad) = (request(&[2, 10, 11, 12, 3]), request(&[2, 10, 13, 12, 3]));
        let (sequences, places) = gather(&[&good, &bad]);
        assert_eq!(sequences.len(), 5);
        assert_eq!(sequences[1].ids, [2, 10, 4, 12, 3]);
        assert_eq!(sequences[1].questions, [(2, 11), (2, 13)]);
        let of_bad: Vec<_> = places[1].iter().map(|p| (p.sequence, p.question)).collect();
        assert_eq!(of_bad, [(3, 0), (1, 1), (4, 0)]);
    }

    #[test]
    fn chunks_keep_to_their_size_but_never_cut_a_sequence() {
        let (sequences, _) = gather(&[&request(&[2, 10, 11, 12, 13, 3])]);
        let sizes = |nodes: usize| chunks(&sequences, nodes).iter().map(|c| c.len()).collect::<Vec<_>>();
        assert_eq!(sizes(100), [4]);
        assert_eq!(sizes(18), [3, 1]);
        assert_eq!(sizes(1), [1, 1, 1, 1]);
        assert!(chunks(&[], 10).is_empty());
    }
}
