//! Early stopping by the dev loss.

use serde::{Deserialize, Serialize};

/// A dev loss, in nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevLoss {
    /// The step that it was measured after.
    pub step: u64,
    /// Mean cross-entropy over the dev text.
    pub loss: f64,
}

/// What early stopping goes by; part of every checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// The best so far.
    pub best: Option<DevLoss>,
    /// Evaluations since then that were no improvement.
    pub without: u64,
}

impl Patience {
    /// Takes a new loss; returns whether it is an improvement: lower than the best by more than `least`.
    pub(crate) fn take(&mut self, found: DevLoss, least: f64) -> bool {
        let better = self.best.is_none_or(|best| found.loss < best.loss - least);
        if better {
            *self = Self { best: Some(found), without: 0 };
        } else {
            self.without += 1;
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_improvement_beyond_the_least_counts() {
        let mut patience = Patience::default();
        let taken: Vec<_> = [3.0, 2.5, 2.45, 2.6, 2.3]
            .into_iter()
            .zip(1..)
            .map(|(loss, step)| (patience.take(DevLoss { step, loss }, 0.1), patience.without))
            .collect();
        assert_eq!(taken, [(true, 0), (true, 0), (false, 1), (false, 2), (true, 0)]);
        assert_eq!(patience.best, Some(DevLoss { step: 5, loss: 2.3 }));
    }
}
