//! The extension of backends that can train: weights, gradients and optimiser state stay in the backend; the harness sends
//! batches, says how fast to learn, and copies tensors in and out for checkpoints.

use crate::growth::is_whole;
use crate::{Dtype, Failure, Message, Status, Text};

/// Id of the extension whose table is a [`TrainTable`].
pub const TRAIN_EXTENSION: &str = "bheval.train.1";

/// A model in training; only its backend knows what is inside.
#[repr(C)]
#[derive(Debug)]
pub struct RawTrainer {
    private: [u8; 0],
}

/// How to start.
#[repr(C)]
#[derive(Debug)]
pub struct TrainOptions<'a> {
    /// `sizeof(TrainOptions)` as the caller knows it.
    pub size: usize,
    /// Folder with `config.json` and, where `draw` is 0, weights, in UTF-8.
    pub path: Text<'a>,
    /// 1: draw the weights from `seed`, as the architecture's authors do; 0: read them from the folder.
    pub draw: u32,
    /// Threads to use, at least 1. Results must not depend on it.
    pub threads: u32,
    /// Number format of the operands of large products. Weights, sums, gradients and state are f32 or better.
    pub dtype: Dtype,
    /// Where weights are drawn from.
    pub seed: u64,
}

/// What a backend says of a model in training. Its texts live until the trainer is closed.
#[repr(C)]
#[derive(Debug)]
pub struct TrainInfo<'a> {
    /// `sizeof(TrainInfo)`: set by the caller before the call.
    pub size: usize,
    /// Number of tokens that have a probability; ids are below it.
    pub vocab: u32,
    /// Longest sequence, in tokens, or 0 where the architecture sets no limit.
    pub context: u32,
    /// Number of tensors.
    pub tensors: u32,
    /// Columns of the hidden states that the head reads.
    pub width: u32,
    /// Number of trained values.
    pub parameters: u64,
    /// Architecture as `config.json` spells it.
    pub architecture: Text<'a>,
    /// Number format in use.
    pub dtype: Text<'a>,
    /// What computes, for people: `cpu, 2 threads`.
    pub device: Text<'a>,
}

/// One tensor. Its name lives until the trainer is closed.
#[repr(C)]
#[derive(Debug)]
pub struct TrainTensor<'a> {
    /// `sizeof(TrainTensor)`: set by the caller before the call.
    pub size: usize,
    /// Name in the checkpoint.
    pub name: Text<'a>,
    /// Number of dimensions, at most 4.
    pub dimensions: u32,
    /// Whether weight decay applies where norms, biases and the like are left out of it.
    pub decay: u32,
    /// The dimensions, the rest 0.
    pub shape: [u64; 4],
}

/// What a teacher says of a batch. `kind` 1: `values [rows, vocab]` are logits. `kind` 2: for each row `k` tokens `ids`,
/// their log-probabilities at the temperature in `values`, and in `rest [rows]` the logarithm of the mass of all others,
/// which count as one event for teacher and student alike. `kind` 3: `values [rows, width]` are hidden states, and
/// `head [vocab, width]` with `bias [vocab]` or null makes logits of them.
#[repr(C)]
#[derive(Debug)]
pub struct RawTeacher {
    /// `sizeof(RawTeacher)` as the caller knows it.
    pub size: usize,
    /// 1, 2 or 3, as above.
    pub kind: u32,
    /// `k`, or `width`.
    pub columns: u32,
    /// Both distributions are softmax(logits / temperature).
    pub temperature: f32,
    /// What one row's Kullback-Leibler divergence counts for in the loss, everything included.
    pub weight: f32,
    /// 1: rows whose target is ignored count too.
    pub every_position: u32,
    /// As `kind` says.
    pub values: *const f32,
    /// As `kind` says.
    pub ids: *const u32,
    /// As `kind` says.
    pub rest: *const f32,
    /// As `kind` says.
    pub head: *const f32,
    /// As `kind` says.
    pub bias: *const f32,
}

/// Token sequences of one length, and what follows each token.
#[repr(C)]
#[derive(Debug)]
pub struct TrainBatch {
    /// `sizeof(TrainBatch)` as the caller knows it.
    pub size: usize,
    /// Sequences.
    pub batch: u32,
    /// Tokens of each.
    pub steps: u32,
    /// `batch * steps` ids, sequence after sequence.
    pub token: *const u32,
    /// As many: the token that is to be predicted there, or below 0 where none is.
    pub target: *const i32,
    /// What one target's cross-entropy counts for in the loss.
    pub weight: f32,
    /// Names the pass: where dropout draws from.
    pub pass: u64,
    /// What a teacher says of this batch, or null.
    pub teacher: *const RawTeacher,
}

/// What a pass found, summed over the batch, unweighted.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TrainSums {
    /// `sizeof(TrainSums)`: set by the caller before the call.
    pub size: usize,
    /// Cross-entropy, in nats.
    pub nats: f64,
    /// Kullback-Leibler divergence from the teacher at its temperature, in nats.
    pub divergence: f64,
    /// Number of targets.
    pub targets: u64,
}

/// How to update: AdamW with decoupled weight decay.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TrainRates {
    /// `sizeof(TrainRates)` as the caller knows it.
    pub size: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay, times the learning rate.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient, or 0 for no clipping.
    pub clip: f64,
    /// Number of the update, from 1.
    pub step: u64,
    /// 1: weight decay applies to every tensor.
    pub decay_all: u32,
}

/// What is copied in and out.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept(pub u32);

impl Kept {
    /// The trained values.
    pub const WEIGHT: Kept = Kept(0);
    /// AdamW's first moment.
    pub const FIRST_MOMENT: Kept = Kept(1);
    /// AdamW's second moment.
    pub const SECOND_MOMENT: Kept = Kept(2);
    /// The gradient gathered since the last update; read only.
    pub const GRADIENT: Kept = Kept(3);
}

/// Training. Lives as long as the library. For one trainer there is one call at a time, from any thread.
#[repr(C)]
#[derive(Debug)]
pub struct TrainTable {
    /// `sizeof(TrainTable)` as the backend knows it.
    pub size: usize,
    /// Makes a trainer and stores it in `trainer`. On failure `*trainer` is left alone.
    pub create: Option<
        unsafe extern "C" fn(
            options: *const TrainOptions<'_>,
            trainer: *mut *mut RawTrainer,
            message: *mut Message,
        ) -> Status,
    >,
    /// Frees a trainer; null is allowed.
    pub close: Option<unsafe extern "C" fn(trainer: *mut RawTrainer)>,
    /// Fills `info`.
    pub describe: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            info: *mut TrainInfo<'static>,
            message: *mut Message,
        ) -> Status,
    >,
    /// Fills `tensor` with what tensor number `index` is.
    pub tensor: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            index: u32,
            tensor: *mut TrainTensor<'static>,
            message: *mut Message,
        ) -> Status,
    >,
    /// Floating-point operations of one token's forward pass in a sequence of `steps` tokens.
    pub flops: Option<unsafe extern "C" fn(trainer: *mut RawTrainer, steps: u32) -> f64>,
    /// Bytes that the trainer holds: weights, gradients, moments, and the buffers that passes have needed so far.
    pub bytes: Option<unsafe extern "C" fn(trainer: *mut RawTrainer) -> u64>,
    /// Runs a batch forward and backward and adds to the gradient.
    pub accumulate: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            batch: *const TrainBatch,
            sums: *mut TrainSums,
            message: *mut Message,
        ) -> Status,
    >,
    /// Runs a batch forward, without dropout.
    pub evaluate: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            batch: *const TrainBatch,
            sums: *mut TrainSums,
            message: *mut Message,
        ) -> Status,
    >,
    /// Writes the hidden states that the head reads, `[batch * steps, width]`, `len` values.
    pub hidden: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            batch: *const TrainBatch,
            out: *mut f32,
            len: usize,
            message: *mut Message,
        ) -> Status,
    >,
    /// Clips the gradient, updates all tensors, forgets the gradient, and writes the norm that it had. Where that norm is
    /// not finite, nothing is updated.
    pub update: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            rates: *const TrainRates,
            norm: *mut f64,
            message: *mut Message,
        ) -> Status,
    >,
    /// Copies tensor number `index` out, `len` values.
    pub read: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            index: u32,
            kept: Kept,
            out: *mut f32,
            len: usize,
            message: *mut Message,
        ) -> Status,
    >,
    /// Copies tensor number `index` in, `len` values.
    pub write: Option<
        unsafe extern "C" fn(
            trainer: *mut RawTrainer,
            index: u32,
            kept: Kept,
            values: *const f32,
            len: usize,
            message: *mut Message,
        ) -> Status,
    >,
}

/// What a teacher says, checked and borrowed: see [`RawTeacher`].
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// Its distributions.
    pub kind: TeacherKind<'a>,
    /// Both distributions are softmax(logits / temperature).
    pub temperature: f32,
    /// What one row's Kullback-Leibler divergence counts for in the loss, everything included.
    pub weight: f32,
    /// Whether rows whose target is ignored count too.
    pub every_position: bool,
}

/// The distributions of a teacher.
#[derive(Clone, Copy, Debug)]
pub enum TeacherKind<'a> {
    /// `[rows, vocab]`
    Logits(&'a [f32]),
    /// `k` tokens a row, their log-probabilities at the temperature, and the logarithm of the mass of all others.
    Top {
        /// Tokens a row.
        k: usize,
        /// `[rows, k]`
        ids: &'a [u32],
        /// `[rows, k]`
        log_probs: &'a [f32],
        /// `[rows]`
        rest: &'a [f32],
    },
    /// Hidden states and what makes logits of them.
    Hidden {
        /// Columns.
        width: usize,
        /// `[rows, width]`
        hidden: &'a [f32],
        /// `[vocab, width]`
        head: &'a [f32],
        /// `[vocab]`
        bias: Option<&'a [f32]>,
    },
}

/// A checked, borrowed [`TrainBatch`].
#[derive(Clone, Copy, Debug)]
pub struct TrainView<'a> {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub steps: usize,
    /// Ids, sequence after sequence.
    pub tokens: &'a [u32],
    /// What follows each, or below 0.
    pub targets: &'a [i32],
    /// What one target's cross-entropy counts for in the loss.
    pub weight: f32,
    /// Names the pass.
    pub pass: u64,
    /// What a teacher says of this batch.
    pub teacher: Option<Teacher<'a>>,
}

impl<'a> TrainView<'a> {
    /// Checks lengths and that all ids are below `vocab`.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming what breaks a rule.
    pub fn check(self, vocab: u32) -> Result<Self, Failure> {
        let rows = self.batch.checked_mul(self.steps).filter(|&rows| rows > 0 && rows <= 1 << 24);
        let rows = rows.ok_or_else(|| Failure::input("a batch has from 1 to 2^24 tokens"))?;
        if self.tokens.len() != rows || self.targets.len() != rows {
            return Err(Failure::input(format!(
                "a batch of {} sequences of {} tokens has {} tokens and {} targets",
                self.batch,
                self.steps,
                self.tokens.len(),
                self.targets.len()
            )));
        }
        let beyond = |id: u32| {
            Failure::input(format!(
                "token id {id} is beyond the model's vocabulary of {vocab}; the corpus was made with another tokenizer"
            ))
        };
        if let Some(&id) = self.tokens.iter().find(|&&id| id >= vocab) {
            return Err(beyond(id));
        }
        if let Some(&id) = self.targets.iter().find(|&&id| id >= 0 && id as u32 >= vocab) {
            return Err(beyond(id as u32));
        }
        if let Some(teacher) = &self.teacher {
            teacher.check(rows, vocab as usize)?;
        }
        Ok(self)
    }

    /// The view of a batch that came over the boundary, for a model of `vocab` tokens.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] for null pointers, a size that is too small, or what [`TrainView::check`] refuses.
    ///
    /// # Safety
    /// `batch` is null or points to a [`TrainBatch`] whose arrays hold the elements it names for `'a`.
    pub unsafe fn from_raw(batch: *const TrainBatch, vocab: u32) -> Result<Self, Failure> {
        // SAFETY: null is handled first, and the caller vouches for the pointer.
        if batch.is_null() || !unsafe { is_whole(batch) } {
            return Err(Failure::input("no batch was given, or less of it than this version knows"));
        }
        // SAFETY: as above, and whole.
        let raw = unsafe { &*batch };
        let (batch, steps) = (raw.batch as usize, raw.steps as usize);
        let rows = batch.saturating_mul(steps).min(1 << 25);
        // SAFETY: the caller vouches for the arrays; null is handled.
        unsafe {
            Self {
                batch,
                steps,
                tokens: slice(raw.token, rows)?,
                targets: slice(raw.target, rows)?,
                weight: raw.weight,
                pass: raw.pass,
                teacher: Teacher::from_raw(raw.teacher, rows, vocab as usize)?,
            }
            .check(vocab)
        }
    }
}

impl<'a> Teacher<'a> {
    /// # Safety
    /// As [`TrainView::from_raw`].
    unsafe fn from_raw(raw: *const RawTeacher, rows: usize, vocab: usize) -> Result<Option<Self>, Failure> {
        if raw.is_null() {
            return Ok(None);
        }
        // SAFETY: not null, and the caller vouches for the pointer.
        if !unsafe { is_whole(raw) } {
            return Err(Failure::input("the teacher is smaller than this version knows"));
        }
        // SAFETY: as above, and whole.
        let raw = unsafe { &*raw };
        let columns = raw.columns as usize;
        // SAFETY: the caller vouches for the arrays; null is handled.
        let kind = unsafe {
            match raw.kind {
                1 => TeacherKind::Logits(slice(raw.values, rows * vocab)?),
                2 => TeacherKind::Top {
                    k: columns,
                    ids: slice(raw.ids, rows * columns)?,
                    log_probs: slice(raw.values, rows * columns)?,
                    rest: slice(raw.rest, rows)?,
                },
                3 => TeacherKind::Hidden {
                    width: columns,
                    hidden: slice(raw.values, rows * columns)?,
                    head: slice(raw.head, vocab * columns)?,
                    bias: if raw.bias.is_null() { None } else { Some(slice(raw.bias, vocab)?) },
                },
                other => return Err(Failure::input(format!("a teacher of kind {other} is not known"))),
            }
        };
        let every_position = raw.every_position != 0;
        Ok(Some(Self { kind, temperature: raw.temperature, weight: raw.weight, every_position }))
    }

    /// Checks lengths, ids and the temperature.
    fn check(&self, rows: usize, vocab: usize) -> Result<(), Failure> {
        if !(self.temperature > 0.0 && self.temperature.is_finite() && self.weight.is_finite()) {
            return Err(Failure::input("a teacher's temperature is above 0, and its weight finite"));
        }
        let fits = match self.kind {
            TeacherKind::Logits(logits) => logits.len() == rows * vocab,
            TeacherKind::Top { k, ids, log_probs, rest } => {
                if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
                    return Err(Failure::input(format!(
                        "the teacher names token {id}, beyond the vocabulary of {vocab}"
                    )));
                }
                k > 0 && ids.len() == rows * k && log_probs.len() == rows * k && rest.len() == rows
            }
            TeacherKind::Hidden { width, hidden, head, bias } => {
                let bias = bias.is_none_or(|b| b.len() == vocab);
                width > 0 && hidden.len() == rows * width && head.len() == vocab * width && bias
            }
        };
        if fits {
            Ok(())
        } else {
            Err(Failure::input("the teacher's arrays do not fit batch and vocabulary"))
        }
    }

    /// The plain struct that says the same.
    #[must_use]
    pub fn to_raw(&self) -> RawTeacher {
        let null = std::ptr::null();
        let (kind, columns, values, ids, rest, head, bias) = match self.kind {
            TeacherKind::Logits(logits) => (1, 0, logits.as_ptr(), std::ptr::null(), null, null, null),
            TeacherKind::Top { k, ids, log_probs, rest } => {
                (2, k, log_probs.as_ptr(), ids.as_ptr(), rest.as_ptr(), null, null)
            }
            TeacherKind::Hidden { width, hidden, head, bias } => {
                let bias = bias.map_or(null, <[f32]>::as_ptr);
                (3, width, hidden.as_ptr(), std::ptr::null(), null, head.as_ptr(), bias)
            }
        };
        RawTeacher {
            size: size_of::<RawTeacher>(),
            kind,
            columns: columns as u32,
            temperature: self.temperature,
            weight: self.weight,
            every_position: self.every_position.into(),
            values,
            ids,
            rest,
            head,
            bias,
        }
    }
}

/// # Safety
/// `ptr` is null or points to `len` elements for `'a`.
pub(crate) unsafe fn slice<'a, T>(ptr: *const T, len: usize) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if ptr.is_null() || len > isize::MAX as usize / size_of::<T>() {
        return Err(Failure::input("an array of the batch is null, or has too many elements"));
    }
    // SAFETY: not null, and the caller vouches for `len` elements.
    Ok(unsafe { std::slice::from_raw_parts(ptr, len) })
}
