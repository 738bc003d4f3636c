//! What a plan will cost: parameters, memory, operations, time and disk, before anything is trained.

use std::time::{Duration, Instant};

use bheval_corpus::{Corpus, Windows};
use serde::Serialize;

use crate::Error;
use crate::due::Due;
use crate::feed::{Feed, Rows, pass_number};
use crate::learner::{Learner, LearnerInfo, Tensor};
use crate::plan::{Keep, Plan};

/// Bytes of a trained number: itself, its gradient and two moments, f32 each.
const BYTES_KEPT: u64 = 16;
/// Bytes of a trained number in a checkpoint: itself and two moments.
const BYTES_STORED: u64 = 12;
/// A way back costs about two ways forward.
const PASSES: f64 = 3.0;

/// What a plan will cost.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Architecture.
    pub architecture: String,
    /// Trained numbers.
    pub parameters: u64,
    /// Tensors that they are in.
    pub tensors: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Windows, steps, tokens and words of the run.
    pub windows: u64,
    /// Updates.
    pub steps: u64,
    /// Targets.
    pub tokens: u64,
    /// Words, as often as they are inputs.
    pub words: u64,
    /// Epochs.
    pub epochs: f64,
    /// Memory in bytes.
    pub memory: Memory,
    /// Floating-point operations, a fused multiply-add counted as two.
    pub flops: Flops,
    /// Checkpoints that will be written.
    pub checkpoints_written: u64,
    /// Of these, checkpoints that stay at the end.
    pub checkpoints_kept: u64,
    /// Bytes of one.
    pub checkpoint_bytes: u64,
    /// Bytes on the disk at the most: what stays, one that is being written, and the finished model.
    pub disk_bytes: u64,
    /// How long it takes, where that is known.
    pub time: Option<Time>,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Weights, gradients and both moments: exact.
    pub parameters: u64,
    /// What the learner held after a few passes, buffers included: measured, where passes were timed.
    pub held: Option<u64>,
}

/// Floating-point operations.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flops {
    /// Of one token's way forward.
    pub forward_per_token: f64,
    /// Of one token in training: three times that.
    pub training_per_token: f64,
    /// Of the whole run, dev text and tasks left out.
    pub total: f64,
}

/// Speed and time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Time {
    /// Where it is from.
    pub source: Source,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Operations a second that this takes.
    pub flops_per_second: f64,
    /// Seconds of the whole run, dev text, tasks and checkpoints left out.
    pub seconds: f64,
}

/// Where a speed is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A few passes were timed.
    Measured,
    /// The user gave operations a second.
    Given,
}

/// What a plan will cost, but for time.
///
/// # Errors
/// A text that the plan's windows do not fit into.
pub fn estimate(
    plan: &Plan,
    corpus: &Corpus,
    info: &LearnerInfo,
    tensors: &[Tensor],
) -> Result<Estimate, Error> {
    let parameters = tensors.iter().map(|tensor| tensor.len() as u64).sum::<u64>();
    let (windows, length) = (plan.train.windows, plan.data.sequence_length as u64);
    let feed = feed(plan, corpus)?;
    let Written { words, checkpoints, points } = simulate(plan, &feed);
    let memory = Memory { parameters: parameters * BYTES_KEPT, held: None };
    let kept = match plan.checkpoint.keep {
        Keep::All(_) => checkpoints,
        Keep::Newest(n) => points + n.min(checkpoints - points) + u64::from(plan.evaluate.patience.is_some()),
    };
    let training = PASSES * info.forward_flops;
    Ok(Estimate {
        architecture: info.architecture.clone(),
        parameters,
        tensors: tensors.len(),
        vocab: info.vocab,
        windows,
        steps: plan.train.steps,
        tokens: windows * length,
        words,
        epochs: windows as f64 / feed.per_epoch() as f64,
        memory,
        flops: Flops {
            forward_per_token: info.forward_flops,
            training_per_token: training,
            total: training * (windows * length) as f64,
        },
        checkpoints_written: checkpoints,
        checkpoints_kept: kept,
        checkpoint_bytes: parameters * BYTES_STORED,
        disk_bytes: (kept + 1) * parameters * BYTES_STORED + parameters * 4,
        time: None,
    })
}

fn feed<'a>(plan: &Plan, corpus: &'a Corpus) -> Result<Feed<'a>, Error> {
    let split = corpus.train();
    let windows =
        Windows::new(split.len(), plan.data.sequence_length, plan.train.seed, plan.data.offset.into())?;
    Ok(Feed::new(split, windows, plan.train.batch, plan.train.windows))
}

struct Written {
    words: u64,
    checkpoints: u64,
    points: u64,
}

/// Walks through the run's windows, and counts.
fn simulate(plan: &Plan, feed: &Feed<'_>) -> Written {
    let mut written = Written { words: 0, checkpoints: 0, points: 0 };
    for step in 1..=plan.train.steps {
        let before = written.words;
        written.words += feed.step(step).map(|window| feed.words(&window)).sum::<u64>();
        let due = Due::after(&plan.checkpoint, step, before, written.words);
        written.checkpoints += u64::from(due.any() || step == plan.train.steps);
        written.points += u64::from(due.words);
    }
    written
}

impl Estimate {
    /// With the time that a machine of so many operations a second takes.
    #[must_use]
    pub fn at(self, flops_per_second: f64) -> Self {
        let tokens_per_second = flops_per_second / self.flops.training_per_token;
        let seconds = self.flops.total / flops_per_second;
        let time = Time { source: Source::Given, tokens_per_second, flops_per_second, seconds };
        Self { time: Some(time), ..self }
    }

    /// With the time that a timed burst gives.
    #[must_use]
    pub fn measured(self, burst: Burst, plan: &Plan) -> Self {
        let passes = plan.train.batch.div_ceil(plan.train.micro_batch as u64) as f64;
        let of_a_step = passes * burst.pass.as_secs_f64() + burst.update.as_secs_f64();
        let seconds = of_a_step * self.steps as f64;
        let tokens_per_second = self.tokens as f64 / seconds;
        let flops_per_second = self.flops.total / seconds;
        let time = Time { source: Source::Measured, tokens_per_second, flops_per_second, seconds };
        let memory = Memory { held: burst.bytes, ..self.memory };
        Self { time: Some(time), memory, ..self }
    }
}

/// How long parts of a step take.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// A micro-batch forward and back: the median.
    pub pass: Duration,
    /// The update.
    pub update: Duration,
    /// What the learner held afterwards, where whole micro-batches were timed.
    pub bytes: Option<u64>,
}

/// Times a few passes and an update. Where a whole micro-batch would take too long, part of one is timed and scaled up. The
/// learner is not to be used for training afterwards.
///
/// # Errors
/// What the text or the learner refuses.
pub fn burst(
    plan: &Plan,
    corpus: &Corpus,
    learner: &mut dyn Learner,
    at_most: Duration,
) -> Result<Burst, Error> {
    let feed = feed(plan, corpus)?;
    let windows: Vec<_> = feed.step(1).take(plan.train.micro_batch).collect();
    let mut rows = Rows::default();
    feed.read(&windows, &mut rows)?;
    let weight = 1.0 / rows.counted() as f32;
    let pass = |learner: &mut dyn Learner, count: usize| -> Result<Duration, Error> {
        let start = Instant::now();
        learner.accumulate(&rows.batch(0..count, weight, pass_number(plan.train.seed, 1, 0), None))?;
        Ok(start.elapsed())
    };
    let one = pass(learner, 1)?;
    let count = (at_most.as_secs_f64() / 4.0 / one.as_secs_f64().max(1e-9)) as usize;
    let count = count.clamp(1, windows.len());
    // The first of its size takes memory that the others use again.
    pass(learner, count)?;
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || times.len() < 8 && started.elapsed() < at_most {
        times.push(pass(learner, count)?);
    }
    let start = Instant::now();
    learner.update(&plan.rates(1))?;
    let update = start.elapsed();
    times.sort_unstable();
    let scale = plan.train.micro_batch as f64 / count as f64;
    let bytes = (count == plan.train.micro_batch).then(|| learner.bytes());
    Ok(Burst { pass: times[times.len() / 2].mul_f64(scale), update, bytes })
}
