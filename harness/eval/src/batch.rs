//! Scores requests in batches: neighbours in sorted order share prefixes, so one forest holds them cheaply. What a
//! request scores does not depend on its batch; that is the backend's promise, and a test holds it to it.

use bheval_data::encode::Request;
use bheval_host::{Error, Forest, Model, Route};

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

/// Scores one batch. Where the fault lies in an input, the batch is halved until that input stands alone, so that its
/// neighbours keep their scores.
pub(crate) fn answer(
    model: &mut Model,
    requests: &[Request],
    batch: &[usize],
    route: Route,
) -> Result<Answered, Error> {
    match score_batch(model, requests, batch, route) {
        Ok(answered) => Ok(answered),
        Err(error) if !error.is_about_input() => Err(error),
        Err(error) if batch.len() == 1 => Ok(Answered { records: vec![(batch[0], Err(error))], fed: 0 }),
        Err(_) => {
            let (left, right) = batch.split_at(batch.len() / 2);
            let mut answered = answer(model, requests, left, route)?;
            let rest = answer(model, requests, right, route)?;
            answered.records.extend(rest.records);
            answered.fed += rest.fed;
            Ok(answered)
        }
    }
}

fn score_batch(
    model: &mut Model,
    requests: &[Request],
    batch: &[usize],
    route: Route,
) -> Result<Answered, Error> {
    let mut forest = Forest::new();
    let paths: Vec<Vec<u32>> =
        batch.iter().map(|&i| forest.insert(&requests[i].ids, &requests[i].scored)).collect();
    let scored = model.score(&forest, route)?;
    let records =
        batch.iter().zip(&paths).map(|(&i, path)| (i, Ok(sum(&requests[i], path, &scored.log_prob))));
    Ok(Answered { records: records.collect(), fed: scored.fed })
}

/// The request's log-probability: f32 terms, summed in f64, so that the order of the terms does not matter.
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
