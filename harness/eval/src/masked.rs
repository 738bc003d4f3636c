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
    let mut terms: Vec<Vec<f32>> = batch.iter().map(|r| Vec::with_capacity(r.copies.len())).collect();
    let nodes = model.info().nodes;
    let fed = in_chunks(batch, nodes, |chunk| {
        let mut values = Vec::with_capacity(chunk.sequences.len());
        let fed = score(model, &chunk.sequences, &mut values)?;
        for Place { request, sequence, question } in chunk.places {
            terms[request].push(values[sequence][question]);
        }
        Ok(fed)
    })?;
    Ok((terms, fed))
}

/// A sequence with hidden tokens and what is asked about it.
struct Sequence {
    ids: Vec<u32>,
    /// Where it is read, and the token asked for.
    questions: Vec<(usize, u32)>,
}

/// Where the answer for a request's next copy is found.
struct Place {
    request: usize,
    sequence: usize,
    question: usize,
}

/// Distinct sequences that go to the backend together, and the places of the copies that they stand for, in their order.
#[derive(Default)]
struct Chunk {
    sequences: Vec<Sequence>,
    known: HashMap<Vec<u32>, usize>,
    places: Vec<Place>,
    tokens: usize,
}

impl Chunk {
    /// Whether a sequence has its place among at most `nodes` tokens. One that is longer stands alone.
    fn takes(&self, ids: &[u32], nodes: usize) -> bool {
        self.sequences.is_empty() || self.known.contains_key(ids) || self.tokens + ids.len() <= nodes
    }

    fn add(&mut self, request: usize, ids: Vec<u32>, question: (usize, u32)) {
        let sequence = *self.known.entry(ids).or_insert_with_key(|ids| {
            self.tokens += ids.len();
            self.sequences.push(Sequence { ids: ids.clone(), questions: Vec::new() });
            self.sequences.len() - 1
        });
        let asked = &mut self.sequences[sequence].questions;
        let at = asked.iter().position(|&q| q == question).unwrap_or_else(|| {
            asked.push(question);
            asked.len() - 1
        });
        self.places.push(Place { request, sequence, question: at });
    }
}

/// Hands a batch's copies to `score` chunk by chunk; returns the sum of what it returns. No more than one chunk is held:
/// all copies of a text of n tokens have n squared.
fn in_chunks(
    batch: &[&MaskedRequest],
    nodes: usize,
    mut score: impl FnMut(Chunk) -> Result<u64, Error>,
) -> Result<u64, Error> {
    let (mut chunk, mut fed) = (Chunk::default(), 0);
    for (index, request) in batch.iter().enumerate() {
        for &copy in &request.copies {
            let ids = request.hidden(copy);
            if !chunk.takes(&ids, nodes) {
                fed += score(std::mem::take(&mut chunk))?;
            }
            chunk.add(index, ids, (copy.read as usize, request.ids[copy.target as usize]));
        }
    }
    if !chunk.sequences.is_empty() {
        fed += score(chunk)?;
    }
    Ok(fed)
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

    fn chunks(batch: &[&MaskedRequest], nodes: usize) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let keep = |chunk| {
            chunks.push(chunk);
            Ok(1)
        };
        let sum = in_chunks(batch, nodes, keep).expect("nothing fails");
        assert_eq!(sum, chunks.len() as u64);
        chunks
    }

    #[test]
    fn a_pair_that_differs_in_one_word_shares_the_copy_in_which_it_is_hidden() {
        let (good, bad) = (request(&[2, 10, 11, 12, 3]), request(&[2, 10, 13, 12, 3]));
        let chunks = chunks(&[&good, &bad], 1000);
        let [Chunk { sequences, places, .. }] = &chunks[..] else { panic!("{} chunks", chunks.len()) };
        assert_eq!(sequences.len(), 5);
        assert_eq!(sequences[1].ids, [2, 10, 4, 12, 3]);
        assert_eq!(sequences[1].questions, [(2, 11), (2, 13)]);
        let of_bad = places.iter().filter(|p| p.request == 1).map(|p| (p.sequence, p.question));
        assert_eq!(of_bad.collect::<Vec<_>>(), [(3, 0), (1, 1), (4, 0)]);
    }

    #[test]
    fn chunks_keep_to_their_size_but_never_cut_a_sequence() {
        let request = request(&[2, 10, 11, 12, 13, 3]);
        let sizes = |nodes: usize| -> Vec<usize> {
            chunks(&[&request], nodes).iter().map(|chunk| chunk.sequences.len()).collect()
        };
        assert_eq!(sizes(100), [4]);
        assert_eq!(sizes(18), [3, 1]);
        assert_eq!(sizes(1), [1, 1, 1, 1]);
        assert!(chunks(&[], 10).is_empty());
    }

    /// What a chunk holds answers for every copy, whatever the chunks: the copy itself, read where it asks.
    #[test]
    fn every_copy_finds_its_own_sequence_in_chunks_of_any_size() {
        let (good, bad) = (request(&[2, 10, 11, 12, 3]), request(&[2, 10, 13, 12, 3]));
        let batch = [&good, &bad, &good];
        for nodes in 1..50 {
            let mut found = vec![Vec::new(); batch.len()];
            for Chunk { sequences, places, tokens, .. } in chunks(&batch, nodes) {
                assert!(sequences.len() == 1 || tokens <= nodes);
                assert_eq!(tokens, sequences.iter().map(|s| s.ids.len()).sum::<usize>());
                for Place { request, sequence, question } in places {
                    let Sequence { ids, questions } = &sequences[sequence];
                    found[request].push((ids.clone(), questions[question]));
                }
            }
            for (request, found) in batch.iter().zip(found) {
                let copy =
                    |&c: &MaskedCopy| (request.hidden(c), (c.read as usize, request.ids[c.target as usize]));
                assert_eq!(found, request.copies.iter().map(copy).collect::<Vec<_>>(), "{nodes}");
            }
        }
    }
}
