//! Scores requests in batches: neighbours in sorted order have the most in common, so together they cost the least. What
//! a request scores does not depend on its batch; that is the backend's promise, and a test holds it to it.

use bheval_host::{Error, Model, Route};

use crate::ask::Ask;
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
    /// The first death of a worker that held requests of this batch.
    pub(crate) crash: Option<Crash>,
    /// Why the run ends with this batch, of which some records may be there.
    pub(crate) ended: Option<Error>,
}

/// A worker's death, and what it held.
pub(crate) struct Crash {
    pub(crate) error: Error,
    pub(crate) requests: Vec<usize>,
}

/// Cuts `pending` (indices into `requests`) into batches.
pub(crate) fn batches<A: Ask>(
    requests: &[A],
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
    let mut load = 0_usize;
    for index in pending {
        let fresh = requests[index].load(batch.last().map(|&last| &requests[last]));
        if !batch.is_empty() && (load.saturating_add(fresh) > nodes || batch.len() >= limit) {
            batches.push(std::mem::take(&mut batch));
            load = requests[index].load(None);
        } else {
            load = load.saturating_add(fresh);
        }
        batch.push(index);
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

/// Scores one batch, in halves where it does not go as a whole.
pub(crate) fn answer<A: Ask>(model: &mut Model, requests: &[A], batch: &[usize], route: Route) -> Answered {
    let (mut fed, mut crash, mut scored) = (0, None, Vec::new());
    let answers = halving(batch, &mut |part| {
        let whole: Vec<&A> = part.iter().map(|&i| &requests[i]).collect();
        let asked = A::score(model, &whole, route);
        if let Some(error) = asked.as_ref().err().filter(|error| error.is_crash()) {
            crash.get_or_insert_with(|| Crash { error: error.clone(), requests: part.to_vec() });
        }
        let (records, nodes) = asked?;
        fed += nodes;
        scored.extend(part.iter().copied().zip(records.iter().copied().map(Ok)));
        Ok(records)
    });
    match answers {
        Ok(answers) => {
            let records = batch.iter().copied().zip(answers).collect();
            Answered { records, fed, crash, ended: None }
        }
        Err(error) => Answered { records: scored, fed, crash, ended: Some(error) },
    }
}

/// Asks for a whole batch. Where one of its inputs is at fault, or there are too many of them, it is halved until that
/// input stands alone, so that its neighbours keep their answers. The outer error ends the run.
///
/// An input during which a worker died is asked for once more when it stands alone: a worker may also be ended from
/// outside, and that is no fault of what it held.
pub(crate) fn halving<I, R>(
    batch: &[I],
    ask: &mut impl FnMut(&[I]) -> Result<Vec<R>, Error>,
) -> Result<Vec<Result<R, Error>>, Error> {
    let asked = match ask(batch) {
        Err(error) if batch.len() == 1 && error.is_crash() => ask(batch),
        asked => asked,
    };
    match asked {
        Ok(answers) => Ok(answers.into_iter().map(Ok).collect()),
        Err(error) if batch.len() == 1 && (error.is_about_input() || error.is_crash()) => {
            Ok(vec![Err(error)])
        }
        Err(error) if batch.len() > 1 && error.may_pass_in_part() => {
            let (left, right) = batch.split_at(batch.len() / 2);
            let mut answers = halving(left, ask)?;
            answers.extend(halving(right, ask)?);
            Ok(answers)
        }
        Err(error) => Err(error),
    }
}

/// Scores all requests and returns their records in order: the plain way in, without a store.
///
/// # Errors
/// The first failure, of whatever kind.
pub fn score_all<A: Ask>(
    model: &mut Model,
    requests: &[A],
    order: Order,
    size: BatchSize,
    route: Route,
) -> Result<Vec<Record>, Error> {
    let nodes = model.info().nodes;
    let mut records = vec![Record { log_prob: f64::NAN, tokens: 0 }; requests.len()];
    for batch in batches(requests, (0..requests.len()).collect(), order, size, nodes) {
        let answered = answer(model, requests, &batch, route);
        for (index, record) in answered.records {
            records[index] = record?;
        }
        if let Some(error) = answered.ended {
            return Err(error);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bheval_data::encode::Request;
    use bheval_host::Forest;
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

    fn crashed(again: bool) -> Error {
        let (how, said) = ("was killed by SIGSEGV".into(), String::new());
        Error::Crashed { backend: "test".into(), action: "score", how, said, in_a_row: 1, again }
    }

    #[test]
    fn a_crash_costs_its_culprit_alone_which_is_asked_twice() {
        let mut alone = 0;
        let mut ask = |part: &[u32]| {
            alone += u32::from(part == [7]);
            if part.contains(&7) { Err(crashed(true)) } else { Ok(part.to_vec()) }
        };
        let answers = halving(&[1, 2, 7, 4, 5], &mut ask).expect("no end of the run");
        let found: Vec<Option<u32>> = answers.into_iter().map(Result::ok).collect();
        assert_eq!((found, alone), (vec![Some(1), Some(2), None, Some(4), Some(5)], 2));
    }

    #[test]
    fn a_crash_that_does_not_come_back_costs_nothing() {
        for batch in [&[1, 2, 3][..], &[1]] {
            let mut first = true;
            let mut ask = |part: &[u32]| {
                if std::mem::take(&mut first) { Err(crashed(true)) } else { Ok(part.to_vec()) }
            };
            let answers = halving(batch, &mut ask).expect("no end of the run");
            let found: Vec<u32> = answers.into_iter().map(|answer| answer.expect("scored")).collect();
            assert_eq!(found, batch);
        }
    }

    #[test]
    fn a_crash_that_is_one_too_many_ends_the_run_at_once() {
        for batch in [&[1, 2, 3][..], &[1]] {
            let mut calls = 0;
            let mut ask = |_: &[u32]| -> Result<Vec<u32>, Error> {
                calls += 1;
                Err(crashed(false))
            };
            assert!(halving(batch, &mut ask).is_err());
            assert_eq!(calls, 1);
        }
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
