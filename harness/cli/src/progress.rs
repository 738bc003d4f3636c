//! The bar on stderr: silent where stderr is no terminal, or where the user asked for quiet.

use std::fmt::Write;
use std::io::{IsTerminal, Read};
use std::sync::Arc;

use bheval_eval::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Whole sentences a second: indicatif's own rate shows four decimals.
fn rate(state: &ProgressState, out: &mut dyn Write) {
    // A bar that can't be drawn is no failure of the run.
    let _ = write!(out, "{:.0} a second", state.per_sec());
}

pub(crate) fn target(quiet: bool) -> ProgressDrawTarget {
    let visible = !quiet && std::io::stderr().is_terminal();
    if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// A bar over the bytes of texts, and a word on what comes after them.
pub(crate) struct ReadingBar(ProgressBar);

impl ReadingBar {
    /// For this many bytes, or for as many as come.
    pub(crate) fn new(quiet: bool, bytes: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(bytes, target(quiet));
        let template = if bytes.is_some() {
            "{bar:30} {bytes}/{total_bytes} of text, {bytes_per_sec}, {eta} left"
        } else {
            "{spinner} {bytes} of text, {bytes_per_sec}"
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self(bar)
    }

    /// Counts what is read.
    pub(crate) fn reading<R: Read>(&self, reader: R) -> impl Read {
        self.0.wrap_read(reader)
    }

    /// For those who read on their own: called with the bytes that were read.
    pub(crate) fn watch(&self) -> Arc<dyn Fn(u64) + Send + Sync> {
        let bar = self.0.clone();
        Arc::new(move |bytes| bar.inc(bytes))
    }

    /// Shows what is done now instead of a bar.
    pub(crate) fn working(&self, what: &'static str) {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        self.0.set_message(what);
        self.0.enable_steady_tick(std::time::Duration::from_millis(200));
    }
}

impl Drop for ReadingBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar over the sentences of a run.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(quiet));
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
