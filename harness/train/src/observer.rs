//! What a run tells whoever looks on.

use std::path::Path;

use crate::DevLoss;
use crate::scores::Score;
use crate::steps::Row;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Training goes on from a checkpoint, or starts.
    Started {
        /// The checkpoint.
        from: Option<&'a Path>,
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
    },
    /// A step was done.
    Step(&'a Row),
    /// So many of the dev text's passes were done.
    Dev {
        /// Passes done.
        done: usize,
        /// Passes in all.
        passes: usize,
    },
    /// The dev loss is known, and whether it is the best so far.
    DevLoss(DevLoss, bool),
    /// A checkpoint was written.
    Saved(&'a Path),
    /// Tasks are being run.
    Examining {
        /// The step.
        step: u64,
    },
    /// Tasks were run.
    Scores {
        /// The step.
        step: u64,
        /// What they gave.
        scores: &'a [Score],
    },
    /// Something that the user should know of.
    Warning(&'a str),
}

/// Whoever looks on.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);
}

/// Nobody.
impl Observer for () {
    fn event(&mut self, _: Event<'_>) {}
}
