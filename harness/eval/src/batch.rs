//! Scores requests in batches: neighbours in sorted order share prefixes, so one forest holds them cheaply. What a
//! request scores does not depend on its batch; that is the backend's promise, and a test holds it to it. A backend
//! that takes chains only promises it for whole chains, so for it nothing is shared.

use bheval_data::encode::Request;
use bheval_host::{Error, Forest, Library, Model, Route};

use crate::store::Record;

/// How many requests go into one forest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as the backend takes nodes under its memory budget.
    Auto,
    /// This many, or fewer where the backend takes no more.
    Requests(usize),
}

/// In which order requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By token ids: neighbours share the most.
    Sorted,
    /// As they come.
    AsGiven,
}

/// What became of one batch: for each of its requests the index and the record, or why there is none.
pub(crate) struct Answered {
    pub(crate) records: Vec<(usize, Result<Record, Error>)>,
    pub(crate) fed: u64,
}

/// Cuts `pending` (indices into `requests`) into batches.
pub(crate) fn batches(
    requests: &[Request],
    mut pending: Vec<usize>,
    order: Order,
    size: BatchSize,
    nodes: usize,
) -> Vec<Vec<usize>> {
    if order == Order::Sorted {
        pending.sort_by(|&a, &b| requests[a].cmp(&requests[b]).then(a.cmp(&b)));
    }
    let limit = match size {
        BatchSize::Auto => usize::MAX,
        BatchSize::Requests(n) => n.max(1),
    };
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut batch: Vec<usize> = Vec::new();
    let mut load = 0;
    for index in pending {
        let shared = batch.last().map_or(0, |&last| common_prefix(&requests[last].ids, &requests[index].ids));
        let fresh = requests[index].ids.len() - shared;
        if !batch.is_empty() && (load + fresh > nodes || batch.len() >= limit) {
            batches.push(std::mem::take(&mut batch));
            load = requests[index].ids.len();
        } else {
            load += fresh;
        }
        batch.push(index);
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Scores one batch, in halves where it does not go as a whole.
pub(crate) fn answer(
    model: &mut Model,
    requests: &[Request],
    batch: &[usize],
    route: Route,
) -> Result<Answered, Error> {
    let mut fed = 0;
    let records = halving(batch, &mut |part| {
        let (records, nodes) = score_batch(model, requests, part, route)?;
        fed += nodes;
        Ok(records)
    })?;
    Ok(Answered { records: batch.iter().copied().zip(records).collect(), fed })
}

/// Asks for a whole batch. Where one of its inputs is at fault, or there are too many of them, it is halved until that
/// input stands alone, so that its neighbours keep their answers. The outer error ends the run.
pub(crate) fn halving<I, R>(
    batch: &[I],
    ask: &mut impl FnMut(&[I]) -> Result<Vec<R>, Error>,
) -> Result<Vec<Result<R, Error>>, Error> {
    match ask(batch) {
        Ok(answers) => Ok(answers.into_iter().map(Ok).collect()),
        Err(error) if batch.len() == 1 && error.is_about_input() => Ok(vec![Err(error)]),
        Err(error) if batch.len() > 1 && error.may_pass_in_part() => {
            let (left, right) = batch.split_at(batch.len() / 2);
            let mut answers = halving(left, ask)?;
            answers.extend(halving(right, ask)?);
            Ok(answers)
        }
        Err(error) => Err(error),
    }
}

fn score_batch(
    model: &mut Model,
    requests: &[Request],
    batch: &[usize],
    route: Route,
) -> Result<(Vec<Record>, u64), Error> {
    let mut forest = Forest::new();
    let library = model.library();
    let paths: Vec<Vec<u32>> = batch.iter().map(|&i| insert(&mut forest, library, &requests[i])).collect();
    let scored = model.score(&forest, route)?;
    let records = batch.iter().zip(&paths).map(|(&i, path)| sum(&requests[i], path, &scored.log_prob));
    Ok((records.collect(), scored.fed))
}

/// Puts a request into a forest for this backend; returns the node of each position.
pub(crate) fn insert(forest: &mut Forest, library: &Library, request: &Request) -> Vec<u32> {
    if library.takes_forests() {
        forest.insert(&request.ids, &request.scored)
    } else {
        forest.insert_alone(&request.ids, &request.scored)
    }
}

/// The request's log-probability: f32 terms, summed in f64 from left to right. The sum of so few terms is all but exact,
/// so sentences with the same terms in another order tie, as they should.
fn sum(request: &Request, path: &[u32], log_prob: &[f32]) -> Record {
    let terms = path.iter().zip(&request.scored).filter(|&(_, &scored)| scored);
    let (mut total, mut tokens) = (0.0, 0);
    for (&node, _) in terms {
        total += f64::from(log_prob[node as usize]);
        tokens += 1;
    }
    Record { log_prob: total, tokens }
}

/// Scores all requests and returns their records in order: the plain way in, without a store.
///
/// # Errors
/// The first failure, of whatever kind.
pub fn score_all(
    model: &mut Model,
    requests: &[Request],
    order: Order,
    size: BatchSize,
    route: Route,
) -> Result<Vec<Record>, Error> {
    let nodes = model.info().nodes;
    let mut records = vec![Record { log_prob: f64::NAN, tokens: 0 }; requests.len()];
    for batch in batches(requests, (0..requests.len()).collect(), order, size, nodes) {
        for (index, record) in answer(model, requests, &batch, route)?.records {
            records[index] = record?;
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(ids: &[u32]) -> Request {
        Request { ids: ids.to_vec(), scored: ids.iter().enumerate().map(|(i, _)| i > 0).collect() }
    }

    fn refused(status: bheval_host::Status) -> Error {
        Error::Refused { backend: "test".into(), action: "score", status, text: String::new() }
    }

    #[test]
    fn one_bad_input_costs_its_neighbours_nothing() {
        let bad = |part: &[u32]| part.contains(&7);
        let mut ask = |part: &[u32]| {
            if bad(part) { Err(refused(bheval_host::Status::NOT_FINITE)) } else { Ok(part.to_vec()) }
        };
        let answers = halving(&[1, 2, 7, 4, 5], &mut ask).expect("no end of the run");
        let found: Vec<Option<u32>> = answers.into_iter().map(Result::ok).collect();
        assert_eq!(found, [Some(1), Some(2), None, Some(4), Some(5)]);
    }

    #[test]
    fn a_batch_that_is_too_large_is_halved_and_a_single_one_ends_the_run() {
        let mut ask = |part: &[u32]| {
            if part.len() > 2 { Err(refused(bheval_host::Status::EXHAUSTED)) } else { Ok(part.to_vec()) }
        };
        assert!(halving(&[1, 2, 3, 4, 5], &mut ask).is_ok_and(|all| all.iter().all(Result::is_ok)));
        let mut never =
            |_: &[u32]| -> Result<Vec<u32>, Error> { Err(refused(bheval_host::Status::EXHAUSTED)) };
        assert!(halving(&[1, 2], &mut never).is_err());
    }

    #[test]
    fn a_panic_ends_the_run_at_once() {
        let mut calls = 0;
        let mut ask = |_: &[u32]| -> Result<Vec<u32>, Error> {
            calls += 1;
            Err(refused(bheval_host::Status::PANIC))
        };
        assert!(halving(&[1, 2, 3], &mut ask).is_err());
        assert_eq!(calls, 1);
    }

    proptest! {
        #[test]
        fn every_request_is_in_one_batch_and_no_batch_is_too_large(
            ids in prop::collection::vec(prop::collection::vec(0_u32..4, 1..6), 1..40),
            size in prop_oneof![Just(BatchSize::Auto), (1_usize..9).prop_map(BatchSize::Requests)],
            nodes in 1_usize..30,
        ) {
            let requests: Vec<_> = ids.iter().map(|i| request(i)).collect();
            let cut = batches(&requests, (0..requests.len()).collect(), Order::Sorted, size, nodes);
            let mut seen: Vec<usize> = cut.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..requests.len()).collect::<Vec<_>>());
            for batch in &cut {
                let mut forest = Forest::new();
                for &i in batch {
                    forest.insert(&requests[i].ids, &requests[i].scored);
                }
                prop_assert!(batch.len() == 1 || forest.len() <= nodes);
                if let BatchSize::Requests(n) = size {
                    prop_assert!(batch.len() <= n);
                }
            }
        }
    }
}
