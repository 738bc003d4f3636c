//! From judgements to the numbers that people quote: per subset, macro, micro, and by field or term, each with its
//! interval and its ties.

use std::collections::BTreeSet;

use bheval_stats::{
    Interval, Stratum, clustered_standard_error, macro_mean, macro_standard_error, mean, micro_mean, student,
    wilson,
};
use bheval_tasks::{Info, Loaded, Selected};

use crate::ItemOutcome;

/// Confidence level of every interval.
const LEVEL: f64 = 0.95;

/// A metric over the items of one subset.
#[derive(Clone, Debug)]
pub struct MetricSummary {
    /// Mean score, or `None` where an item has none: a mean over the rest would be another number.
    pub score: Option<f64>,
    /// Standard error over items, clustered where items are not independent.
    pub standard_error: Option<f64>,
    /// Wilson's interval over items, with the effective number of them.
    pub interval: Option<Interval>,
    /// Independent draws among the items: clusters.
    pub draws: usize,
    /// Comparisons that were ties.
    pub ties: usize,
    /// Comparisons made.
    pub comparisons: usize,
}

/// A subset.
#[derive(Clone, Debug)]
pub struct SubsetSummary {
    /// Name.
    pub name: String,
    /// Field, term.
    pub tags: Vec<(&'static str, String)>,
    /// Items asked.
    pub items: usize,
    /// Items without a score.
    pub failed: usize,
    /// One for each metric.
    pub metrics: Vec<MetricSummary>,
}

/// A metric over a whole task.
#[derive(Clone, Debug)]
pub struct Average {
    /// Name in results.
    pub name: &'static str,
    /// What it compares.
    pub label: &'static str,
    /// Mean over subsets: the headline.
    pub macro_mean: Option<f64>,
    /// Its standard error over items, the subsets held fixed.
    pub standard_error: Option<f64>,
    /// Wilson's interval for it over items, with the effective number of items `p(1-p)/SE²`.
    pub over_items: Option<Interval>,
    /// Student's interval for it over subsets, each one draw.
    pub over_subsets: Option<Interval>,
    /// Mean over items.
    pub micro_mean: Option<f64>,
    /// Means over the subsets that share a tag: `(kind, value, subsets, mean)`.
    pub by_tag: Vec<(&'static str, String, usize, Option<f64>)>,
    /// Comparisons that were ties.
    pub ties: usize,
    /// Comparisons made.
    pub comparisons: usize,
}

/// A task.
#[derive(Clone, Debug)]
pub struct TaskSummary {
    /// What it is.
    pub info: Info,
    /// Whether all subsets were asked.
    pub whole: bool,
    /// How many items of each subset were asked at most, where not all.
    pub limit: Option<usize>,
    /// Items of the subsets asked, before a limit.
    pub available: usize,
    /// Items asked.
    pub items: usize,
    /// Items without a score.
    pub failed: usize,
    /// Its subsets.
    pub subsets: Vec<SubsetSummary>,
    /// One for each metric, the headline first.
    pub averages: Vec<Average>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its tasks.
    pub tasks: Vec<TaskSummary>,
}

impl Summary {
    /// Items without a score, over all tasks.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.tasks.iter().map(|t| t.failed).sum()
    }
}

/// Sums up one task.
#[must_use]
pub fn summarise(
    selected: &Selected,
    task: &Loaded,
    outcomes: &[ItemOutcome],
    limit: Option<usize>,
) -> TaskSummary {
    let info = *selected.task.info();
    let subsets: Vec<_> = (0..task.subsets.len()).map(|s| subset(task, outcomes, s)).collect();
    let averages = (0..task.metrics.len()).map(|m| average(task, &subsets, m)).collect();
    TaskSummary {
        info,
        whole: subsets.len() == info.subsets,
        limit: limit.filter(|_| task.items.len() < task.available),
        available: task.available,
        items: task.items.len(),
        failed: subsets.iter().map(|s| s.failed).sum(),
        subsets,
        averages,
    }
}

fn subset(task: &Loaded, outcomes: &[ItemOutcome], index: usize) -> SubsetSummary {
    let own: Vec<(usize, &ItemOutcome)> = task
        .items
        .iter()
        .zip(outcomes)
        .filter(|(item, _)| item.subset == index)
        .map(|(item, outcome)| (item.cluster, outcome))
        .collect();
    SubsetSummary {
        name: task.subsets[index].name.clone(),
        tags: task.subsets[index].tags.clone(),
        items: own.len(),
        failed: own.iter().filter(|(_, o)| o.records.iter().any(Option::is_none)).count(),
        metrics: (0..task.metrics.len())
            .map(|m| metric(&own, m, task.metrics[m].comparisons.len()))
            .collect(),
    }
}

fn metric(items: &[(usize, &ItemOutcome)], index: usize, comparisons: usize) -> MetricSummary {
    let judged: Vec<_> = items.iter().filter_map(|(_, o)| o.judgements[index]).collect();
    let scores: Vec<f64> = judged.iter().map(|j| j.score).collect();
    let clusters: Vec<usize> = items.iter().map(|(cluster, _)| *cluster).collect();
    let draws = clusters.iter().collect::<BTreeSet<_>>().len();
    let whole = judged.len() == items.len();
    let score = mean(&scores).filter(|_| whole);
    let standard_error = clustered_standard_error(&scores, &clusters).filter(|_| whole);
    MetricSummary {
        score,
        standard_error,
        interval: score
            .and_then(|p| wilson(p, effective_items(p, standard_error, (scores.len(), draws), 1), LEVEL)),
        draws,
        ties: judged.iter().map(|j| j.ties).sum(),
        comparisons: judged.len() * comparisons,
    }
}

fn average(task: &Loaded, subsets: &[SubsetSummary], index: usize) -> Average {
    let all: Vec<_> = subsets.iter().collect();
    let strata = strata(&all, index);
    let strata = strata.as_deref().unwrap_or(&[]);
    let macro_mean = macro_mean(strata);
    let standard_error = macro_standard_error(strata);
    let items = strata.iter().map(|s| s.n).sum::<usize>();
    let draws = subsets.iter().map(|s| s.metrics[index].draws).sum::<usize>();
    let means: Vec<f64> = strata.iter().map(|s| s.mean).collect();
    Average {
        name: task.metrics[index].name,
        label: task.metrics[index].label,
        macro_mean,
        standard_error,
        over_items: macro_mean
            .and_then(|p| wilson(p, effective_items(p, standard_error, (items, draws), strata.len()), LEVEL)),
        over_subsets: student(&means, LEVEL),
        micro_mean: micro_mean(strata),
        by_tag: by_tag(subsets, index),
        ties: subsets.iter().map(|s| s.metrics[index].ties).sum(),
        comparisons: subsets.iter().map(|s| s.metrics[index].comparisons).sum(),
    }
}

/// How many plain trials would give this standard error of a mean over `subsets`: the items themselves where each is a
/// trial of its own in a single subset; more where half points or strata steady the mean, fewer where clusters do not.
/// Where all items score alike there is nothing to tell the spread by, and the independent draws are what is left.
fn effective_items(
    p: f64,
    standard_error: Option<f64>,
    (items, draws): (usize, usize),
    subsets: usize,
) -> f64 {
    let n = items as f64;
    let plain = p * (1.0 - p) / (n - subsets as f64);
    match standard_error {
        Some(error) if plain > 0.0 && error > 0.0 => n * plain / (error * error),
        _ => draws as f64,
    }
}

/// The subsets as strata, or `None` where one has no score.
fn strata(subsets: &[&SubsetSummary], metric: usize) -> Option<Vec<Stratum>> {
    let stratum = |s: &&SubsetSummary| {
        let m = &s.metrics[metric];
        Some(Stratum { n: s.items, mean: m.score?, standard_error: m.standard_error })
    };
    subsets.iter().map(stratum).collect()
}

fn by_tag(subsets: &[SubsetSummary], metric: usize) -> Vec<(&'static str, String, usize, Option<f64>)> {
    let mut tags: Vec<_> = subsets.iter().flat_map(|s| s.tags.iter().cloned()).collect();
    tags.sort();
    tags.dedup();
    let average = |tag: (&'static str, String)| {
        let own: Vec<_> = subsets.iter().filter(|s| s.tags.contains(&tag)).collect();
        let score = strata(&own, metric).and_then(|s| macro_mean(&s));
        (tag.0, tag.1, own.len(), score)
    };
    tags.into_iter().map(average).collect()
}
