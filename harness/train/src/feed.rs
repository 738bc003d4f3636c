//! Which windows a step sees: number `step * batch + i` of one stream that runs through the epochs, so that the order is a pure
//! function of the seed and the step, and a step may reach over the end of an epoch.

use std::ops::Range;

use bheval_corpus::{Split, Windows};

use crate::learner::Batch;
use crate::{Error, Teacher};

/// A window: where it comes in the stream, and its tokens (one more than its inputs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Its place in the epoch's order, from 0.
    pub cursor: u64,
    /// Its tokens in the split.
    pub tokens: Range<u64>,
}

/// The windows of a run.
#[derive(Clone, Debug)]
pub struct Feed<'a> {
    split: &'a Split,
    windows: Windows,
    batch: u64,
    total: u64,
}

impl<'a> Feed<'a> {
    /// `total` windows of a split, `batch` a step.
    #[must_use]
    pub fn new(split: &'a Split, windows: Windows, batch: u64, total: u64) -> Self {
        Self { split, windows, batch, total }
    }

    /// The windows of a step, from 1. The last step may have fewer than the others.
    pub fn step(&self, step: u64) -> impl Iterator<Item = Window> + '_ {
        let first = (step - 1) * self.batch;
        (first..(first + self.batch).min(self.total)).map(|i| window(&self.windows, i))
    }

    /// Windows of an epoch.
    #[must_use]
    pub fn per_epoch(&self) -> u64 {
        self.windows.per_epoch()
    }

    /// Words of a window: those of its inputs, so that neighbours share none.
    #[must_use]
    pub fn words(&self, window: &Window) -> u64 {
        words(self.split, window)
    }

    /// Inputs and targets of some windows.
    ///
    /// # Errors
    /// A corpus that is damaged.
    pub fn read(&self, windows: &[Window], into: &mut Rows) -> Result<(), Error> {
        into.clear(self.windows.length());
        for window in windows {
            into.push(self.split, window.tokens.clone())?;
        }
        Ok(())
    }
}

fn window(windows: &Windows, number: u64) -> Window {
    let (epoch, cursor) = (number / windows.per_epoch(), number % windows.per_epoch());
    Window { epoch, cursor, tokens: windows.window(epoch, cursor) }
}

fn words(split: &Split, window: &Window) -> u64 {
    split.words_in(window.tokens.start..window.tokens.end - 1)
}

/// Windows that are counted one by one, at most.
const COUNTED: u64 = 1 << 28;

/// How many windows it takes to see so many words, or none if that takes too long: an epoch without words, say.
#[must_use]
pub(crate) fn windows_of_words(split: &Split, windows: &Windows, wanted: u64) -> Option<u64> {
    let (mut number, mut seen) = (0, 0);
    while seen < wanted {
        if number == windows.per_epoch() && seen == 0 || number == COUNTED {
            return None;
        }
        seen += words(split, &window(windows, number));
        number += 1;
    }
    Some(number)
}

/// Inputs and targets of sequences of one length.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    steps: usize,
    tokens: Vec<u32>,
    targets: Vec<i32>,
    read: Vec<u32>,
}

impl Rows {
    /// Forgets what it holds, for sequences of `steps` inputs.
    pub(crate) fn clear(&mut self, steps: usize) {
        self.steps = steps;
        self.tokens.clear();
        self.targets.clear();
    }

    /// Adds a window. One that is short is filled up with inputs whose targets are ignored: what comes behind changes nothing
    /// before it.
    pub(crate) fn push(&mut self, split: &Split, window: Range<u64>) -> Result<(), Error> {
        split.read(window, &mut self.read)?;
        let inputs = self.read.len().saturating_sub(1);
        let missing = self.steps.saturating_sub(inputs);
        self.tokens.extend_from_slice(&self.read[..inputs]);
        self.tokens.extend(std::iter::repeat_n(0, missing));
        // An id is below a vocabulary of less than 2^31 entries: the plan's `vocab_size` has that limit.
        self.targets.extend(self.read.iter().skip(1).map(|id| *id as i32));
        self.targets.extend(std::iter::repeat_n(-1, missing));
        Ok(())
    }

    /// Sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() / self.steps.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// All inputs, one sequence after the other.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What follows each input, or -1.
    #[must_use]
    pub fn targets(&self) -> &[i32] {
        &self.targets
    }

    /// Targets that are not ignored.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.targets.iter().filter(|target| **target >= 0).count() as u64
    }

    /// Some of the sequences as a batch.
    #[must_use]
    pub fn batch<'a>(
        &'a self,
        rows: Range<usize>,
        weight: f32,
        pass: u64,
        teacher: Option<Teacher<'a>>,
    ) -> Batch<'a> {
        let cells = rows.start * self.steps..rows.end * self.steps;
        Batch {
            batch: rows.len(),
            steps: self.steps,
            tokens: &self.tokens[cells.clone()],
            targets: &self.targets[cells],
            weight,
            pass,
            teacher,
        }
    }
}

/// The dev text as windows in order: every token but the first is a target once.
#[must_use]
pub(crate) fn dev_windows(split: &Split, length: usize, most: Option<u64>) -> Vec<Range<u64>> {
    let end = split.len().min(most.map_or(u64::MAX, |n| n.saturating_add(1)));
    let starts = (0..end.saturating_sub(1)).step_by(length);
    starts.map(|start| start..(start + length as u64 + 1).min(end)).collect()
}

/// Where the random choices of a pass begin: SplitMix64's finaliser over seed, step and micro-batch (Steele et al. 2014).
#[must_use]
pub fn pass_number(seed: u64, step: u64, micro_batch: usize) -> u64 {
    let mix = |x: u64| {
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    let next = |state: u64, with: u64| mix((state ^ with).wrapping_add(0x9e37_79b9_7f4a_7c15));
    next(next(mix(seed), step), micro_batch as u64)
}
