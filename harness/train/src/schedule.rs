//! The learning rate as a pure function of the step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Not at all.
    Constant,
    /// In a straight line to the floor.
    Linear,
    /// Along half a cosine to the floor.
    #[default]
    Cosine,
    /// Warm-up, stable, decay: constant, then down in the last part of the run (Hu et al. 2024, MiniCPM).
    Wsd,
}

/// How the last part of [`Shape::Wsd`] falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// In a straight line.
    #[default]
    Linear,
    /// As 1 minus the root of the decay's progress (Hägele et al. 2024).
    Sqrt,
}

/// A schedule with all its lengths known.
///
/// Step `s`, from 1, of a warm-up of `w` steps has `s / w` of the peak, so that no update is wasted on a rate of 0; after it the
/// factors are those of `transformers.get_*_schedule_with_warmup` for its update number `s - 1`, scaled to end at the floor
/// instead of at 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// How it falls.
    pub shape: Shape,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps in all.
    pub total_steps: u64,
    /// Steps of the decay of [`Shape::Wsd`].
    pub decay_steps: u64,
    /// How it decays.
    pub decay: Decay,
    /// The share of the peak that it falls to.
    pub floor: f64,
}

impl Schedule {
    /// The learning rate's share of its peak at a step, counted from 1.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        if step <= self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let done = step.saturating_sub(1);
        let from = match self.shape {
            Shape::Wsd => self.total_steps.saturating_sub(self.decay_steps),
            _ => self.warmup_steps,
        };
        let length = self.total_steps.saturating_sub(from).max(1);
        let progress = (done.saturating_sub(from) as f64 / length as f64).min(1.0);
        self.floor + (1.0 - self.floor) * self.left(progress)
    }

    /// What is left of the way from peak to floor.
    fn left(&self, progress: f64) -> f64 {
        match (self.shape, self.decay) {
            (Shape::Constant, _) => 1.0,
            (Shape::Linear, _) | (Shape::Wsd, Decay::Linear) => 1.0 - progress,
            (Shape::Cosine, _) => 0.5 * (1.0 + (PI * progress).cos()),
            (Shape::Wsd, Decay::Sqrt) => 1.0 - progress.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape, floor: f64) -> Schedule {
        Schedule { shape, warmup_steps: 4, total_steps: 20, decay_steps: 8, decay: Decay::Linear, floor }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-15, "{found} is not {expected}");
    }

    fn check(schedule: &Schedule, expected: &[(u64, f64)]) {
        expected.iter().for_each(|(step, factor)| near(schedule.factor(*step), *factor));
    }

    #[test]
    fn the_warm_up_is_a_line_that_does_not_start_at_0() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Wsd] {
            let found = [1, 2, 3, 4, 5].map(|s| schedule(shape, 0.1).factor(s));
            assert_eq!(found, [0.25, 0.5, 0.75, 1.0, 1.0], "{shape:?}");
        }
    }

    /// transformers 4.57: `get_linear_schedule_with_warmup(_, 4, 20)` gives max(0, (20 - i) / 16) at its update i = s - 1.
    #[test]
    fn linear_is_that_of_transformers() {
        let linear = schedule(Shape::Linear, 0.0);
        check(&linear, &[(6, 15.0 / 16.0), (13, 0.5), (20, 1.0 / 16.0)]);
        near(schedule(Shape::Linear, 0.2).factor(13), 0.6);
    }

    /// transformers 4.57: `get_cosine_schedule_with_warmup(_, 4, 20)`: 0.5 (1 + cos(pi (i - 4) / 16)), exact at its quarters.
    #[test]
    fn cosine_is_that_of_transformers() {
        let cosine = schedule(Shape::Cosine, 0.0);
        let quarter = 0.5 * (1.0 + 0.5_f64.sqrt());
        check(&cosine, &[(5, 1.0), (9, quarter), (13, 0.5), (17, 1.0 - quarter)]);
        near(schedule(Shape::Cosine, 0.1).factor(13), 0.55);
    }

    #[test]
    fn wsd_stays_and_then_falls() {
        let wsd = schedule(Shape::Wsd, 0.0);
        check(&wsd, &[(5, 1.0), (12, 1.0), (13, 1.0), (14, 7.0 / 8.0), (17, 0.5), (20, 1.0 / 8.0)]);
        near(Schedule { decay: Decay::Sqrt, ..wsd }.factor(15), 0.5);
        near(Schedule { decay: Decay::Sqrt, floor: 0.5, ..wsd }.factor(15), 0.75);
    }

    #[test]
    fn beyond_the_end_the_floor_holds() {
        for shape in [Shape::Linear, Shape::Cosine, Shape::Wsd] {
            near(schedule(shape, 0.1).factor(500), 0.1);
        }
        assert_eq!(schedule(Shape::Constant, 0.1).factor(500), 1.0);
    }

    #[test]
    fn a_run_that_is_all_warm_up_has_no_other_part() {
        let all =
            Schedule { warmup_steps: 5, total_steps: 5, decay_steps: 0, ..schedule(Shape::Linear, 0.0) };
        assert_eq!([1, 5].map(|s| all.factor(s)), [0.2, 1.0]);
        let none = Schedule { warmup_steps: 0, total_steps: 1, decay_steps: 0, ..all };
        assert_eq!(none.factor(1), 1.0);
    }
}
