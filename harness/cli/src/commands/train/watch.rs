//! The live bar, and the few lines that stay.

use bheval_train::observer::{Event, Observer};
use bheval_train::steps::Row;
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{grouped, tell, warn};
use crate::progress::target;

/// Tells what happens on stderr.
pub(super) struct Watcher {
    bar: ProgressBar,
    quiet: bool,
    /// Tokens a second, smoothed.
    speed: Option<f64>,
    shown: String,
}

/// How much of the smoothed speed is of the last step.
const NEW: f64 = 0.1;

impl Watcher {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(quiet));
        let template = "{bar:30} step {human_pos}/{human_len}, {msg}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self { bar, quiet, speed: None, shown: "starting".into() }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| tell(text));
        }
    }

    fn step(&mut self, row: &Row) {
        let now = row.tokens_per_second;
        let speed = self.speed.map_or(now, |before| (1.0 - NEW) * before + NEW * now);
        self.speed = Some(speed);
        self.shown = format!("loss {:.3}, {} tokens/s", row.loss, grouped(speed as u64));
        self.bar.set_message(self.shown.clone());
        self.bar.set_position(row.step);
    }
}

impl Observer for Watcher {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started { from, step, steps } => {
                self.bar.set_length(steps);
                // What was done before is no work of this process, so it must not raise its rate.
                self.bar.set_position(step);
                self.bar.reset_eta();
                self.bar.set_message(self.shown.clone());
                if let Some(from) = from {
                    self.say(&format!("going on from {}", from.display()));
                }
            }
            Event::Step(row) => self.step(row),
            Event::Dev { done, passes } => {
                self.bar.set_message(format!("{}, dev text {done}/{passes}", self.shown));
            }
            Event::DevLoss(found, best) => {
                let mark = if best { ", the best so far" } else { "" };
                let (step, perplexity) = (grouped(found.step), found.loss.exp());
                self.say(&format!(
                    "step {step}: dev perplexity {perplexity:.2} (loss {:.4}){mark}",
                    found.loss
                ));
            }
            Event::Saved(path) => {
                self.bar.set_message(format!("{}, saved {}", self.shown, path.display()));
            }
            Event::Examining { step } => {
                self.bar.set_message(format!("{}, tasks of step {step}", self.shown));
            }
            Event::Scores { step, scores } => {
                let one = |score: &bheval_train::scores::Score| {
                    format!("{} {} {:.2}", score.task, score.measure, score.value)
                };
                let all: Vec<_> = scores.iter().map(one).collect();
                self.say(&format!("step {}: {}", grouped(step), all.join(", ")));
            }
            Event::Warning(text) => self.bar.suspend(|| warn(text)),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
