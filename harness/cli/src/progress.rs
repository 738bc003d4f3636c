//! The bar on stderr: silent where stderr is no terminal, or where the user asked for quiet.

use std::fmt::Write;
use std::io::IsTerminal;

use bheval_eval::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Whole sentences a second: indicatif's own rate shows four decimals.
fn rate(state: &ProgressState, out: &mut dyn Write) {
    // A bar that can't be drawn is no failure of the run.
    let _ = write!(out, "{:.0} a second", state.per_sec());
}

/// A bar over the sentences of a run.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(quiet: bool) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{bar:30} {human_pos}/{human_len} sentences, {rate}, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.with_key("rate", rate));
        Self(bar)
    }

    pub(crate) fn show(&self, progress: Progress) {
        if self.0.length().is_none() {
            self.0.set_length(progress.total as u64);
            // What was found in the store is no work of this process, so it must not raise its rate.
            self.0.set_position(progress.done as u64);
            self.0.reset_eta();
            return;
        }
        self.0.set_position(progress.done as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
