//! The loop: windows in, updates, checkpoints out.

use std::path::PathBuf;
use std::time::Instant;

use bheval_corpus::{Corpus, Windows};

use crate::checkpoint::{self, Frame, State};
use crate::due::Due;
use crate::feed::{Feed, Rows, Window, dev_windows, pass_number};
use crate::folder::Folder;
use crate::learner::{Learner, Sums};
use crate::observer::{Event, Observer};
use crate::plan::{Identity, Plan};
use crate::scores::{self, Examiner};
use crate::start::begin;
use crate::steps::{Row, Steps};
use crate::watch::Watch;
use crate::{DevLoss, Error, NotFinite, Teacher};

/// A micro-batch, as a teacher needs it.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// Its windows of the training text.
    pub windows: &'a [Window],
    /// Inputs of a window.
    pub steps: usize,
    /// Inputs, one window after the other.
    pub tokens: &'a [u32],
    /// What follows each.
    pub targets: &'a [i32],
    /// Targets of the whole step that are not ignored.
    pub targets_of_step: u64,
    /// Windows of the whole step.
    pub windows_of_step: u64,
}

/// What gives a student its teachers.
pub trait Teaching {
    /// What is left of the loss to the cross-entropy: `1 - alpha`, or as the recipe has it.
    fn left_to_targets(&self) -> f64;

    /// What the teachers say of a micro-batch.
    ///
    /// # Errors
    /// A teacher that fails, or a cache that is damaged.
    fn teach(&mut self, lesson: &Lesson<'_>) -> Result<Teacher<'_>, Error>;
}

/// All that a run needs.
pub struct Job<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// What of it decides the weights.
    pub identity: &'a Identity,
    /// The text.
    pub corpus: &'a Corpus,
    /// What trains, fresh from the plan's seed.
    pub learner: &'a mut dyn Learner,
    /// Where everything is written.
    pub folder: &'a Folder,
    /// The program and its build, for the record.
    pub program: &'a str,
    /// Teachers, in distillation.
    pub teaching: Option<&'a mut dyn Teaching>,
    /// What runs tasks at checkpoints.
    pub examiner: Option<&'a mut dyn Examiner>,
    /// Who is told.
    pub observer: &'a mut dyn Observer,
    /// Whether to finish the step, save and end.
    pub stop: &'a dyn Fn() -> bool,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were done.
    Done,
    /// The dev loss did not get better.
    Early,
    /// It was asked to.
    Interrupted,
}

/// A run that ended well.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Why.
    pub ending: Ending,
    /// Where it stands.
    pub state: State,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The finished model, unless interrupted, and the step that it is of.
    pub model: Option<(PathBuf, u64)>,
    /// Steps that were done by this process.
    pub steps_done: u64,
    /// Steps whose tasks could not be run, and why.
    pub unexamined: Vec<(u64, String)>,
}

/// Trains as planned, from the newest checkpoint of the folder where there is one.
///
/// # Errors
/// What the text, the learner, a teacher or the disk refuses, and [`Error::NotFinite`]. Whatever it is, the last checkpoint is
/// as it was written.
pub fn train(job: Job<'_>) -> Result<Finished, Error> {
    let mut run = Run::start(job)?;
    let ending = run.go()?;
    run.finish(ending)
}

struct Run<'a> {
    job: Job<'a>,
    feed: Feed<'a>,
    frame: Frame,
    state: State,
    steps: Steps,
    watch: Watch,
    rows: Rows,
    saved: Option<u64>,
    steps_done: u64,
    unexamined: Vec<(u64, String)>,
}

impl<'a> Run<'a> {
    fn start(mut job: Job<'a>) -> Result<Self, Error> {
        let (plan, split) = (job.plan, job.corpus.train());
        let windows =
            Windows::new(split.len(), plan.data.sequence_length, plan.train.seed, plan.data.offset.into())?;
        let feed = Feed::new(split, windows, plan.train.batch, plan.train.windows);
        let frame = Frame { config: plan.model.clone(), tokenizer: job.corpus.tokenizer_folder() };
        let state = begin(&mut job)?;
        let steps = Steps::open(job.folder.path(), state.step)?;
        let saved = (state.step > 0).then_some(state.step);
        let watch = Watch::new(plan.vocab());
        let (rows, unexamined) = (Rows::default(), vec![]);
        let mut run = Self { job, feed, frame, state, steps, watch, rows, saved, steps_done: 0, unexamined };
        run.catch_up_on_tasks()?;
        Ok(run)
    }

    /// Runs the tasks of the newest checkpoint, where a killed process had not come to it.
    fn catch_up_on_tasks(&mut self) -> Result<(), Error> {
        let done = scores::cut(&self.scores_path(), self.state.step)?;
        if self.state.scheduled && !done { self.examine() } else { Ok(()) }
    }

    fn scores_path(&self) -> PathBuf {
        self.job.folder.path().join("scores.csv")
    }

    fn go(&mut self) -> Result<Ending, Error> {
        loop {
            if self.job.plan.evaluate.patience.is_some_and(|most| self.state.patience.without >= most) {
                return Ok(Ending::Early);
            }
            if self.state.step >= self.job.plan.train.steps {
                return Ok(Ending::Done);
            }
            self.one_step()?;
            if (self.job.stop)() && self.state.step < self.job.plan.train.steps {
                self.save(Due::default(), false)?;
                return Ok(Ending::Interrupted);
            }
        }
    }

    fn one_step(&mut self) -> Result<(), Error> {
        let (step, words_before) = (self.state.step + 1, self.state.words_seen);
        let mut row = self.update(step)?;
        let mut best = false;
        if self.is_dev_due(step) {
            let found = DevLoss { step, loss: self.dev_loss(step)? };
            best = self.state.patience.take(found, self.job.plan.evaluate.min_improvement);
            self.state.dev.push(found);
            row.dev_loss = Some(found.loss);
            self.job.observer.event(Event::DevLoss(found, best));
        }
        self.steps.append(&row)?;
        self.steps_done += 1;
        self.job.observer.event(Event::Step(&row));
        if let Some(warning) = self.watch.look(step, row.loss) {
            self.job.observer.event(Event::Warning(&warning));
        }
        let due = Due::after(&self.job.plan.checkpoint, step, words_before, self.state.words_seen);
        let is_best = best && self.job.plan.evaluate.patience.is_some();
        if due.any() || is_best || step == self.job.plan.train.steps {
            self.save(due, true)?;
            self.examine()?;
        }
        Ok(())
    }

    fn is_dev_due(&self, step: u64) -> bool {
        let scheduled = self.job.plan.evaluate.every_steps.is_some_and(|every| step.is_multiple_of(every));
        let last = step == self.job.plan.train.steps;
        (scheduled || last) && self.job.corpus.dev().is_some_and(|dev| dev.len() > 1)
    }

    /// Does a step: all micro-batches, then the update.
    fn update(&mut self, step: u64) -> Result<Row, Error> {
        let start = Instant::now();
        let windows: Vec<_> = self.feed.step(step).collect();
        let mut rows = std::mem::take(&mut self.rows);
        let sums = self.feed.read(&windows, &mut rows).and_then(|()| self.accumulate(step, &windows, &rows));
        self.rows = rows;
        let sums = sums?;
        let rates = self.job.plan.rates(step);
        let norm = self.job.learner.update(&rates)?;
        if !norm.is_finite() {
            return Err(self.not_finite("gradient norm", norm, step, None, &windows));
        }
        self.count(step, &windows, sums.targets);
        let seconds = start.elapsed().as_secs_f64();
        let mean = |sum: f64| sum / sums.targets as f64;
        Ok(Row {
            step,
            epoch: (step * self.job.plan.train.batch).min(self.job.plan.train.windows) as f64
                / self.feed.per_epoch() as f64,
            words_seen: self.state.words_seen,
            tokens_seen: self.state.tokens_seen,
            learning_rate: rates.learning_rate,
            loss: mean(sums.nats),
            distillation: self.job.teaching.is_some().then(|| mean(sums.distilled)),
            gradient_norm: norm,
            dev_loss: None,
            seconds,
            tokens_per_second: sums.targets as f64 / seconds.max(1e-9),
        })
    }

    /// The mean that the gradients are of is over all targets of the step, so that the micro-batch changes the order of
    /// additions only: losses and weights differ in their last f32 digits (about 1e-6 relative), not in what is computed.
    fn accumulate(&mut self, step: u64, windows: &[Window], rows: &Rows) -> Result<Sums, Error> {
        let plan = self.job.plan;
        let (targets_of_step, mut sums) = (rows.counted(), Sums::default());
        let left = self.job.teaching.as_ref().map_or(1.0, |teaching| teaching.left_to_targets());
        let weight = (left / targets_of_step as f64) as f32;
        for (micro, start) in (0..rows.len()).step_by(plan.train.micro_batch).enumerate() {
            let range = start..(start + plan.train.micro_batch).min(rows.len());
            let pass = pass_number(plan.train.seed, step, micro);
            let part = &windows[range.clone()];
            let batch = rows.batch(range, weight, pass, None);
            let lesson = Lesson {
                windows: part,
                steps: batch.steps,
                tokens: batch.tokens,
                targets: batch.targets,
                targets_of_step,
                windows_of_step: windows.len() as u64,
            };
            let teacher = self.job.teaching.as_mut().map(|teaching| teaching.teach(&lesson)).transpose()?;
            let found = self.job.learner.accumulate(&crate::learner::Batch { teacher, ..batch })?;
            for (what, value) in [("loss", found.nats), ("distillation loss", found.distilled)] {
                if !value.is_finite() {
                    return Err(self.not_finite(what, value, step, Some(micro), part));
                }
            }
            sums.add(found);
        }
        Ok(sums)
    }

    fn count(&mut self, step: u64, windows: &[Window], targets: u64) {
        let next = (step * self.job.plan.train.batch).min(self.job.plan.train.windows);
        let state = &mut self.state;
        state.step = step;
        state.tokens_seen += targets;
        state.words_seen += windows.iter().map(|window| self.feed.words(window)).sum::<u64>();
        (state.epoch, state.cursor) = (next / self.feed.per_epoch(), next % self.feed.per_epoch());
    }

    /// Mean cross-entropy over the dev text, in windows that do not overlap: the first token of each has no context.
    fn dev_loss(&mut self, step: u64) -> Result<f64, Error> {
        let plan = self.job.plan;
        let Some(dev) = self.job.corpus.dev() else { return Ok(f64::NAN) };
        let windows = dev_windows(dev, plan.data.sequence_length, plan.evaluate.tokens);
        let passes = windows.len().div_ceil(plan.train.micro_batch);
        let (mut rows, mut sums) = (Rows::default(), Sums::default());
        for (done, part) in windows.chunks(plan.train.micro_batch).enumerate() {
            rows.clear(plan.data.sequence_length);
            part.iter().try_for_each(|window| rows.push(dev, window.clone()))?;
            sums.add(self.job.learner.evaluate(&rows.batch(0..rows.len(), 0.0, 0, None))?);
            self.job.observer.event(Event::Dev { done: done + 1, passes });
        }
        let loss = sums.nats / sums.targets as f64;
        if loss.is_finite() {
            return Ok(loss);
        }
        let windows: Vec<_> = self.feed.step(step).collect();
        Err(self.not_finite("dev loss", loss, step, None, &windows))
    }

    fn not_finite(
        &self,
        what: &'static str,
        value: f64,
        step: u64,
        micro_batch: Option<usize>,
        windows: &[Window],
    ) -> Error {
        let place = |window: Option<&Window>| window.map_or((0, 0), |window| (window.epoch, window.cursor));
        Error::NotFinite(Box::new(NotFinite {
            what,
            value,
            step,
            windows: [place(windows.first()), place(windows.last())],
            micro_batch,
            learning_rate: self.job.plan.rates(step).learning_rate,
            last: self.last(),
        }))
    }

    /// The last checkpoint that was written.
    fn last(&self) -> Option<PathBuf> {
        self.saved.map(|step| self.job.folder.checkpoint(step))
    }

    /// Writes a checkpoint of where the run stands, unless there is one.
    fn save(&mut self, due: Due, scheduled: bool) -> Result<(), Error> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        let path = self.job.folder.checkpoint(step);
        let state = State { point: due.words, scheduled, ..self.state.clone() };
        // The rows first: a checkpoint's step is always in the table.
        let written =
            self.steps.sync().and_then(|()| checkpoint::save(&path, &self.frame, state, self.job.learner));
        if let Err(cause) = written {
            return Err(Error::NotSaved { step, last: self.last(), cause: Box::new(cause) });
        }
        self.saved = Some(step);
        self.job.observer.event(Event::Saved(&path));
        let early = self.job.plan.evaluate.patience.is_some();
        let best = self.state.patience.best.filter(|_| early).map(|best| best.step);
        self.job.folder.prune(self.job.plan.checkpoint.keep, best)
    }

    /// Runs the tasks on the newest checkpoint. What fails is told and does not end the training.
    fn examine(&mut self) -> Result<(), Error> {
        let (path, step) = (self.scores_path(), self.state.step);
        let Some(examiner) = self.job.examiner.as_mut().filter(|_| !(self.job.stop)()) else { return Ok(()) };
        self.job.observer.event(Event::Examining { step });
        match examiner.examine(&self.job.folder.checkpoint(step), step) {
            Ok(found) => {
                scores::append(&path, step, self.state.words_seen, &found)?;
                self.job.observer.event(Event::Scores { step, scores: &found });
            }
            Err(reason) => {
                let warning = Error::Examination { step, reason: reason.clone() }.to_string();
                self.job.observer.event(Event::Warning(&warning));
                self.unexamined.push((step, reason));
            }
        }
        Ok(())
    }

    fn finish(self, ending: Ending) -> Result<Finished, Error> {
        let checkpoint = self.last();
        let early = self.job.plan.evaluate.patience.and(self.state.patience.best).map(|best| best.step);
        let step = early.unwrap_or(self.state.step);
        let model = match ending {
            Ending::Interrupted => None,
            _ => Some((self.job.folder.finish(step, &self.frame)?, step)),
        };
        let Self { state, steps_done, unexamined, .. } = self;
        Ok(Finished { ending, state, checkpoint, model, steps_done, unexamined })
    }
}
