//! The shape of a task.

use bheval_data::encode::Query;
use bheval_data::locate::Folders;
use bheval_data::protocol::Ties;

use crate::{Comparison, Error};

/// What a task is, before any data is read.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Name as it is typed and stored.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// Grows when items or comparisons change, so that results of different versions are never mixed.
    pub version: u32,
    /// What a subset is called: paradigm, domain.
    pub subset_noun: &'static str,
    /// Number of subsets.
    pub subsets: usize,
    /// Number of items.
    pub items: usize,
    /// Score of a coin.
    pub chance: f64,
    /// Licence of the data.
    pub licence: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Name of the data set's manifest, or `None` where the items are part of the program.
    pub dataset: Option<&'static str>,
}

/// A part of a task that is scored on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Name: a paradigm's UID, a domain.
    pub name: String,
    /// What it belongs to, as `(kind, value)`: `("field", "syntax")`.
    pub tags: Vec<(&'static str, String)>,
}

/// One question: a few queries whose log-probabilities are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `task/subset/index`, the same in every run.
    pub id: String,
    /// Index of its subset.
    pub subset: usize,
    /// Items of a subset with the same number are not independent: rows made from one item.
    pub cluster: usize,
    /// The queries, in the order of [`Loaded::labels`].
    pub queries: Vec<Query>,
}

/// A way to turn an item's log-probabilities into a score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name in results: `acc`.
    pub name: &'static str,
    /// What it compares, in words.
    pub label: &'static str,
    /// The comparisons; an item's score is their mean.
    pub comparisons: Vec<Comparison>,
    /// What equal scores are worth, where that does not depend on the protocol.
    pub ties: Option<Ties>,
}

/// A task's items.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Subsets in a fixed order.
    pub subsets: Vec<Subset>,
    /// Items, those of one subset together and in file order.
    pub items: Vec<Item>,
    /// Items of these subsets before any were left out by a limit.
    pub available: usize,
    /// A short name for each query of an item.
    pub labels: &'static [&'static str],
    /// The metrics, the headline first.
    pub metrics: Vec<Metric>,
    /// Fingerprint of the data.
    pub fingerprint: String,
}

impl Loaded {
    /// Keeps the subsets that `keep` wants, and of each the first `limit` items.
    #[must_use]
    pub fn narrowed(mut self, keep: impl Fn(&Subset) -> bool, limit: Option<usize>) -> Self {
        let mut counts = vec![0_usize; self.subsets.len()];
        let wanted: Vec<bool> = self.subsets.iter().map(keep).collect();
        self.available = self.items.iter().filter(|item| wanted[item.subset]).count();
        self.items.retain(|item| {
            counts[item.subset] += 1;
            wanted[item.subset] && limit.is_none_or(|l| counts[item.subset] <= l)
        });
        let kept: Vec<usize> = (0..self.subsets.len()).filter(|&i| wanted[i]).collect();
        for item in &mut self.items {
            // Kept subsets only are left, so the search always succeeds.
            item.subset = kept.binary_search(&item.subset).unwrap_or(0);
        }
        self.subsets = kept.into_iter().map(|i| self.subsets[i].clone()).collect();
        self
    }
}

/// A benchmark.
pub trait Task: Send + Sync {
    /// What it is.
    fn info(&self) -> &Info;

    /// Its items.
    ///
    /// # Errors
    /// Missing or damaged data, and rows that can't be asked.
    fn load(&self, folders: &Folders) -> Result<Loaded, Error>;
}
