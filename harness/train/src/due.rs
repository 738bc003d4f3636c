//! After which steps a checkpoint is written.

use crate::plan::{CheckpointPlan, Grid};

const MILLION: u64 = 1_000_000;

/// Why a checkpoint is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// By its number of steps.
    pub(crate) steps: bool,
    /// By its number of words: a point of a learning curve, which is never removed.
    pub(crate) words: bool,
}

impl Due {
    /// What is due after a step that took the words seen from `before` to `after`.
    pub(crate) fn after(plan: &CheckpointPlan, step: u64, before: u64, after: u64) -> Self {
        let crossed = |every: u64| after / every > before / every;
        let grid = plan.grid == Grid::Babylm && babylm_points(after) > babylm_points(before);
        Self {
            steps: plan.every_steps.is_some_and(|every| step.is_multiple_of(every)),
            words: grid || plan.every_words.is_some_and(crossed),
        }
    }

    pub(crate) fn any(self) -> bool {
        self.steps || self.words
    }
}

/// Points of BabyLM's grid up to a number of words: 1M to 10M by 1M, to 100M by 10M, to 1,000M by 100M.
fn babylm_points(words: u64) -> u64 {
    let points = |every: u64, from: u64| (words / (every * MILLION)).clamp(from, 10) - from;
    points(1, 0) + points(10, 1) + points(100, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Keep;

    fn plan(every_steps: Option<u64>, every_words: Option<u64>, grid: Grid) -> CheckpointPlan {
        CheckpointPlan { every_steps, every_words, grid, keep: Keep::Newest(1) }
    }

    #[test]
    fn the_grid_has_28_points_up_to_a_billion_words() {
        let at: Vec<u64> =
            (1..=1100).filter(|m| babylm_points(m * MILLION) > babylm_points((m - 1) * MILLION)).collect();
        let expected: Vec<u64> =
            (1..=10).chain((2..=10).map(|i| i * 10)).chain((2..=10).map(|i| i * 100)).collect();
        assert_eq!(at, expected);
        assert_eq!((babylm_points(MILLION - 1), babylm_points(MILLION)), (0, 1));
    }

    #[test]
    fn a_point_is_due_at_the_step_that_reaches_it() {
        let grid = plan(None, None, Grid::Babylm);
        let due = |before, after| Due::after(&grid, 7, before, after);
        assert!(!due(0, 999_999).any());
        assert_eq!(due(999_999, 1_000_000), Due { steps: false, words: true });
        // Two points in one step are one checkpoint.
        assert!(due(1_500_000, 3_100_000).words && !due(11_000_000, 19_999_999).words);
    }

    #[test]
    fn schedules_by_steps_and_words_go_together() {
        let both = plan(Some(5), Some(100), Grid::None);
        assert_eq!(Due::after(&both, 10, 100, 199), Due { steps: true, words: false });
        assert_eq!(Due::after(&both, 11, 199, 200), Due { steps: false, words: true });
        assert!(!Due::after(&plan(None, None, Grid::None), 10, 0, 1 << 40).any());
    }
}
