//! The Rust side of training: implement [`Trainable`], and export it with [`backend_that_trains`].

use std::ffi::c_void;

use crate::export::{extension, floats, table_or_null};
use crate::growth::is_whole;
use crate::train::{
    Kept, RawTrainer, TRAIN_EXTENSION, TrainBatch, TrainInfo, TrainOptions, TrainRates, TrainSums,
    TrainTable, TrainTensor, TrainView, slice,
};
use crate::{Backend, Dtype, Failure, LanguageModel, Message, Status, Text, backend, guard};

/// The options of [`Trainable::create`], checked.
#[derive(Clone, Debug)]
pub struct Start {
    /// Folder with `config.json`.
    pub path: std::path::PathBuf,
    /// Where weights are drawn from, or `None` to read them from the folder.
    pub seed: Option<u64>,
    /// Threads to use, at least 1.
    pub threads: usize,
    /// Number format of the operands of large products.
    pub dtype: Dtype,
}

/// What a model in training says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrainerInfo {
    /// Number of tokens that have a probability.
    pub vocab: u32,
    /// Longest sequence, or 0 where there is no limit.
    pub context: u32,
    /// Columns of the hidden states that the head reads.
    pub width: u32,
    /// Number of trained values.
    pub parameters: u64,
    /// Architecture as `config.json` spells it.
    pub architecture: String,
    /// Number format in use.
    pub dtype: String,
    /// What computes, for people.
    pub device: String,
}

/// A tensor of a model in training.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    /// Name in the checkpoint.
    pub name: String,
    /// At most 4 dimensions.
    pub shape: Vec<usize>,
    /// Whether weight decay applies where norms, biases and the like are left out of it.
    pub decay: bool,
}

/// What a pass found: see [`TrainSums`].
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Found {
    /// Cross-entropy, in nats, summed over the targets.
    pub nats: f64,
    /// Divergence from the teacher, in nats, summed over the rows that count.
    pub divergence: f64,
    /// Number of targets.
    pub targets: u64,
}

/// A model in training, in safe Rust.
pub trait Trainable: Send + Sized + 'static {
    /// Makes the model that `config.json` describes.
    ///
    /// # Errors
    /// What is missing, wrong, or can't be trained, in which file, and what to try.
    fn create(start: &Start) -> Result<Self, Failure>;

    /// What it is.
    fn info(&self) -> &TrainerInfo;

    /// Its tensors.
    fn tensors(&self) -> &[TensorInfo];

    /// Floating-point operations of one token's forward pass in a sequence of `steps` tokens.
    fn flops(&self, steps: usize) -> f64;

    /// Bytes held: weights, gradients, moments, and the buffers that passes have needed so far.
    fn bytes(&self) -> u64;

    /// Runs a batch forward and backward and adds to the gradient.
    ///
    /// # Errors
    /// A sequence longer than the model takes.
    fn accumulate(&mut self, batch: &TrainView<'_>) -> Result<Found, Failure>;

    /// Runs a batch forward, without dropout.
    ///
    /// # Errors
    /// As [`Trainable::accumulate`].
    fn evaluate(&mut self, batch: &TrainView<'_>) -> Result<Found, Failure>;

    /// The hidden states that the head reads, `[rows, width]`.
    ///
    /// # Errors
    /// As [`Trainable::accumulate`].
    fn hidden(&mut self, batch: &TrainView<'_>, out: &mut [f32]) -> Result<(), Failure>;

    /// Clips, updates, forgets the gradient; returns the norm that it had. Where that is not finite nothing is updated.
    ///
    /// # Errors
    /// Rates that make no sense.
    fn update(&mut self, rates: &TrainRates) -> Result<f64, Failure>;

    /// What is kept of a tensor, to be read or, but for gradients, written.
    ///
    /// # Errors
    /// A tensor or a kind that there is not.
    fn kept(&mut self, index: usize, kept: Kept) -> Result<&mut [f32], Failure>;
}

/// The table of a backend whose models can be trained.
#[must_use]
pub const fn backend_that_trains<M: LanguageModel, T: Trainable>() -> Backend {
    Backend { extension: Some(with_training::<M, T>), ..backend::<M>() }
}

/// The training table of a type.
#[must_use]
pub const fn train_table<T: Trainable>() -> TrainTable {
    TrainTable {
        size: size_of::<TrainTable>(),
        create: Some(create::<T>),
        close: Some(close::<T>),
        describe: Some(describe::<T>),
        tensor: Some(tensor::<T>),
        flops: Some(flops::<T>),
        bytes: Some(bytes::<T>),
        accumulate: Some(accumulate::<T>),
        evaluate: Some(evaluate::<T>),
        hidden: Some(hidden::<T>),
        update: Some(update::<T>),
        read: Some(read::<T>),
        write: Some(write::<T>),
    }
}

struct Table<T>(std::marker::PhantomData<T>);

impl<T: Trainable> Table<T> {
    const TABLE: &'static TrainTable = &train_table::<T>();
}

unsafe extern "C" fn with_training<M: LanguageModel, T: Trainable>(id: Text<'_>) -> *const c_void {
    // SAFETY: the host passes a valid text, as the contract asks.
    unsafe {
        if id.get() == Some(TRAIN_EXTENSION) {
            return table_or_null(Some(Table::<T>::TABLE));
        }
        extension::<M>(id)
    }
}

/// What `RawTrainer` points to.
struct Made<T> {
    trainer: T,
    /// Set when an entry panicked: the trainer may then only be closed.
    broken: bool,
}

unsafe extern "C" fn create<T: Trainable>(
    options: *const TrainOptions<'_>,
    trainer: *mut *mut RawTrainer,
    message: *mut Message,
) -> Status {
    // SAFETY: the host passes valid or null pointers, as the contract asks.
    unsafe {
        guard(message, || {
            if options.is_null() || trainer.is_null() || !is_whole(options) {
                return Err(Failure::input("no options were given, or less of them than this version knows"));
            }
            let options = &*options;
            let path = options.path.get().ok_or_else(|| Failure::input("the model's path is not UTF-8"))?;
            let start = Start {
                path: path.into(),
                seed: (options.draw != 0).then_some(options.seed),
                threads: (options.threads as usize).max(1),
                dtype: options.dtype,
            };
            let made = Box::new(Made { trainer: T::create(&start)?, broken: false });
            *trainer = Box::into_raw(made).cast();
            Ok(())
        })
    }
}

unsafe extern "C" fn close<T: Trainable>(trainer: *mut RawTrainer) {
    if trainer.is_null() {
        return;
    }
    // SAFETY: the host hands back, once, what `create::<T>` gave it.
    unsafe {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(trainer.cast::<Made<T>>()));
            Ok(())
        });
    }
}

/// Runs a call under the guard; a panic leaves the trainer unusable.
///
/// # Safety
/// `trainer` is null or came from `create::<T>`, with no other call on it; `message` is as [`guard`] asks.
unsafe fn run<T: Trainable>(
    trainer: *mut RawTrainer,
    message: *mut Message,
    call: impl FnOnce(&mut T) -> Result<(), Failure>,
) -> Status {
    // SAFETY: passed on from the caller.
    unsafe {
        guard(message, || {
            let made = trainer.cast::<Made<T>>().as_mut();
            let made = made.ok_or_else(|| Failure::input("no trainer was given"))?;
            if made.broken {
                let text = "this trainer panicked in an earlier call; make it again from the last checkpoint";
                return Err(Failure::new(Status::PANIC, text));
            }
            made.broken = true;
            let result = call(&mut made.trainer);
            made.broken = false;
            result
        })
    }
}

/// A struct to be written, or an error.
///
/// # Safety
/// `ptr` is null or points to a struct of this contract that nothing else uses.
unsafe fn whole<'a, S>(ptr: *mut S) -> Result<&'a mut S, Failure> {
    // SAFETY: null is handled; the caller vouches for the pointer.
    unsafe {
        if ptr.is_null() || !is_whole(ptr) {
            return Err(Failure::input("a struct is null, or smaller than this version knows"));
        }
        Ok(&mut *ptr)
    }
}

unsafe extern "C" fn describe<T: Trainable>(
    trainer: *mut RawTrainer,
    info: *mut TrainInfo<'static>,
    message: *mut Message,
) -> Status {
    // SAFETY: the host passes a trainer of this backend and a valid or null `info`; texts live in the trainer.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            let (tensors, known) = (trainer.tensors().len() as u32, trainer.info());
            let text = |text: &String| Text::new(&*std::ptr::from_ref(text.as_str()));
            *whole(info)? = TrainInfo {
                size: (*info).size,
                vocab: known.vocab,
                context: known.context,
                tensors,
                width: known.width,
                parameters: known.parameters,
                architecture: text(&known.architecture),
                dtype: text(&known.dtype),
                device: text(&known.device),
            };
            Ok(())
        })
    }
}

unsafe extern "C" fn tensor<T: Trainable>(
    trainer: *mut RawTrainer,
    index: u32,
    tensor: *mut TrainTensor<'static>,
    message: *mut Message,
) -> Status {
    // SAFETY: as in `describe`.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            let known = trainer.tensors().get(index as usize);
            let known = known.ok_or_else(|| Failure::input(format!("there is no tensor {index}")))?;
            if known.shape.len() > 4 {
                return Err(Failure::input(format!("`{}` has more than 4 dimensions", known.name)));
            }
            let mut shape = [0; 4];
            shape.iter_mut().zip(&known.shape).for_each(|(s, &n)| *s = n as u64);
            *whole(tensor)? = TrainTensor {
                size: (*tensor).size,
                name: Text::new(&*std::ptr::from_ref(known.name.as_str())),
                dimensions: known.shape.len() as u32,
                decay: known.decay.into(),
                shape,
            };
            Ok(())
        })
    }
}

unsafe extern "C" fn flops<T: Trainable>(trainer: *mut RawTrainer, steps: u32) -> f64 {
    let mut flops = f64::NAN;
    // SAFETY: the host passes a trainer of this backend.
    unsafe {
        run::<T>(trainer, std::ptr::null_mut(), |trainer| {
            flops = trainer.flops(steps as usize);
            Ok(())
        });
    }
    flops
}

unsafe extern "C" fn bytes<T: Trainable>(trainer: *mut RawTrainer) -> u64 {
    let mut bytes = 0;
    // SAFETY: the host passes a trainer of this backend.
    unsafe {
        run::<T>(trainer, std::ptr::null_mut(), |trainer| {
            bytes = trainer.bytes();
            Ok(())
        });
    }
    bytes
}

/// Runs a pass and writes what it found.
///
/// # Safety
/// As the entries of the table.
unsafe fn pass<T: Trainable>(
    trainer: *mut RawTrainer,
    batch: *const TrainBatch,
    sums: *mut TrainSums,
    message: *mut Message,
    call: impl FnOnce(&mut T, &TrainView<'_>) -> Result<Found, Failure>,
) -> Status {
    // SAFETY: passed on from the caller.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            let view = TrainView::from_raw(batch, trainer.info().vocab)?;
            let sums = whole(sums)?;
            let found = call(trainer, &view)?;
            (sums.nats, sums.divergence, sums.targets) = (found.nats, found.divergence, found.targets);
            Ok(())
        })
    }
}

unsafe extern "C" fn accumulate<T: Trainable>(
    trainer: *mut RawTrainer,
    batch: *const TrainBatch,
    sums: *mut TrainSums,
    message: *mut Message,
) -> Status {
    // SAFETY: the host keeps the contract.
    unsafe { pass::<T>(trainer, batch, sums, message, T::accumulate) }
}

unsafe extern "C" fn evaluate<T: Trainable>(
    trainer: *mut RawTrainer,
    batch: *const TrainBatch,
    sums: *mut TrainSums,
    message: *mut Message,
) -> Status {
    // SAFETY: the host keeps the contract.
    unsafe { pass::<T>(trainer, batch, sums, message, T::evaluate) }
}

unsafe extern "C" fn hidden<T: Trainable>(
    trainer: *mut RawTrainer,
    batch: *const TrainBatch,
    out: *mut f32,
    len: usize,
    message: *mut Message,
) -> Status {
    // SAFETY: the host keeps the contract.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            let view = TrainView::from_raw(batch, trainer.info().vocab)?;
            if view.tokens.len() * trainer.info().width as usize != len {
                return Err(Failure::input("the room for hidden states does not fit the batch"));
            }
            trainer.hidden(&view, floats(out, len)?)
        })
    }
}

unsafe extern "C" fn update<T: Trainable>(
    trainer: *mut RawTrainer,
    rates: *const TrainRates,
    norm: *mut f64,
    message: *mut Message,
) -> Status {
    // SAFETY: the host keeps the contract.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            if rates.is_null() || norm.is_null() || !is_whole(rates) {
                return Err(Failure::input("no rates were given, or less of them than this version knows"));
            }
            *norm = trainer.update(&*rates)?;
            Ok(())
        })
    }
}

/// What is kept of a tensor, checked for its length.
fn kept<T: Trainable>(trainer: &mut T, index: u32, kept: Kept, len: usize) -> Result<&mut [f32], Failure> {
    let values = trainer.kept(index as usize, kept)?;
    if values.len() != len {
        return Err(Failure::input(format!("tensor {index} has {} values, not {len}", values.len())));
    }
    Ok(values)
}

unsafe extern "C" fn read<T: Trainable>(
    trainer: *mut RawTrainer,
    index: u32,
    what: Kept,
    out: *mut f32,
    len: usize,
    message: *mut Message,
) -> Status {
    // SAFETY: the host keeps the contract.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            floats(out, len)?.copy_from_slice(kept(trainer, index, what, len)?);
            Ok(())
        })
    }
}

unsafe extern "C" fn write<T: Trainable>(
    trainer: *mut RawTrainer,
    index: u32,
    what: Kept,
    values: *const f32,
    len: usize,
    message: *mut Message,
) -> Status {
    // SAFETY: the host keeps the contract.
    unsafe {
        run::<T>(trainer, message, |trainer| {
            if what == Kept::GRADIENT {
                return Err(Failure::input("a gradient can't be written"));
            }
            kept(trainer, index, what, len)?.copy_from_slice(slice(values, len)?);
            Ok(())
        })
    }
}
