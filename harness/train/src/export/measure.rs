//! What an exported model makes of the dev text: that it opens, and what its number format costs.

use bheval_corpus::Split;
use bheval_host::{Forest, Kind, Model, Route};

use crate::feed::dev_windows;

/// Targets that are scored, at most.
const TARGETS: u64 = 1 << 14;

/// A model's word on the beginning of the dev text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Mean cross-entropy, in nats per token.
    pub loss: f64,
    /// Tokens that it is the mean of.
    pub targets: u64,
}

/// Scores the first tokens of a text in windows of `steps` inputs that do not overlap, as training does.
///
/// # Errors
/// What the text or the backend refuses.
pub(super) fn measure(model: &mut Model, split: &Split, steps: usize) -> Result<Measured, String> {
    if model.info().kind != Kind::CAUSAL {
        return Err("the exported model opens as a masked one".to_owned());
    }
    // Where the context is no longer than a window, the last token of a path has no position in it.
    let context = model.info().context.map_or(usize::MAX, |context| context as usize);
    let inputs = steps.min(context.saturating_sub(1)).max(1);
    let (mut nats, mut targets, mut read) = (0.0, 0, Vec::new());
    for window in dev_windows(split, inputs, Some(TARGETS)) {
        split.read(window, &mut read).map_err(|e| e.to_string())?;
        let wanted: Vec<bool> = (0..read.len()).map(|at| at > 0).collect();
        let mut forest = Forest::new();
        forest.insert_alone(&read, &wanted);
        let scored = model.score(&forest, Route::Forest).map_err(|e| e.to_string())?;
        nats -= forest.wanted().map(|node| f64::from(scored.log_prob[node])).sum::<f64>();
        targets += read.len() as u64 - 1;
    }
    Ok(Measured { loss: nats / targets.max(1) as f64, targets })
}
