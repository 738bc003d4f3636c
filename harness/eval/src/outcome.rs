//! From records to judgements, item by item.

use bheval_data::protocol::Ties;
use bheval_tasks::{Judgement, Loaded, judge};

use crate::store::Record;

/// An item with its scores and judgements.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemOutcome {
    /// One for each query, or `None` where scoring failed.
    pub records: Vec<Option<Record>>,
    /// One for each metric, or `None` where a needed score is missing.
    pub judgements: Vec<Option<Judgement>>,
}

/// Judges every item of a task. `record` finds the record of the q-th query of the i-th item.
pub(crate) fn outcomes(
    task: &Loaded,
    ties: Ties,
    record: impl Fn(usize, usize) -> Option<Record>,
) -> Vec<ItemOutcome> {
    let outcome = |item: usize| {
        let records: Vec<_> = (0..task.labels.len()).map(|q| record(item, q)).collect();
        let log_probs: Vec<_> = records.iter().map(|r| r.map(|r| r.log_prob)).collect();
        let judgements =
            task.metrics.iter().map(|m| judge(&m.comparisons, &log_probs, m.ties.unwrap_or(ties))).collect();
        ItemOutcome { records, judgements }
    };
    (0..task.items.len()).map(outcome).collect()
}
