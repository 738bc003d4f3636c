//! A model in training, safely: the calls of the train extension, their answers checked.

use std::cell::Cell;
use std::path::PathBuf;
use std::ptr::NonNull;

use bheval_abi::{
    Dtype, Found, Kept, Message, RawTrainer, Status, TRAIN_EXTENSION, TensorInfo, Text, TrainBatch,
    TrainInfo as RawInfo, TrainOptions, TrainRates, TrainSums, TrainTable, TrainTensor, TrainView,
    TrainerInfo,
};

use crate::local::call;
use crate::model::{bad_answer, refused};
use crate::{Error, Library};

/// How to start training.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// Folder with `config.json` and, without `seed`, weights.
    pub path: PathBuf,
    /// Where weights are drawn from, or `None` to read them from the folder.
    pub seed: Option<u64>,
    /// Threads to use, at least 1. Results do not depend on it.
    pub threads: u32,
    /// Number format of the operands of large products.
    pub dtype: Dtype,
}

/// A model in training. Closed when dropped.
#[derive(Debug)]
pub struct Trainer {
    raw: NonNull<RawTrainer>,
    table: NonNull<TrainTable>,
    library: Library,
    info: TrainerInfo,
    tensors: Vec<TensorInfo>,
    /// Set when the backend panicked: the contract then allows nothing but closing.
    panicked: Cell<bool>,
}

// SAFETY: the contract allows calls from any thread, one at a time: a `Cell` keeps it from being shared.
unsafe impl Send for Trainer {}

impl Trainer {
    /// Whether the backend can train at all.
    #[must_use]
    pub fn is_offered(library: &Library) -> bool {
        table(library).is_ok()
    }

    /// Makes the model that `config.json` describes.
    ///
    /// # Errors
    /// A backend that can't train, what it refuses, in its words, or an answer that makes no sense.
    pub fn create(library: &Library, options: &TrainerOptions) -> Result<Self, Error> {
        let action = "start training";
        let path = options.path.to_str();
        let path = path.ok_or_else(|| {
            refused(library, action, Status::BAD_INPUT, "the model's path is not UTF-8".into())
        })?;
        let table = table(library)?;
        let raw_options = TrainOptions {
            size: size_of::<TrainOptions<'_>>(),
            path: Text::new(path),
            draw: options.seed.is_some().into(),
            threads: options.threads.max(1),
            dtype: options.dtype,
            seed: options.seed.unwrap_or_default(),
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the table was checked, and lives as long as the library, which is never unmapped.
        let create = unsafe { table.as_ref() }.create.ok_or_else(|| incomplete(library))?;
        call(library, action, |message| {
            // SAFETY: valid pointers for the length of the call.
            unsafe { create(&raw const raw_options, &raw mut raw, message) }
        })?;
        let raw = NonNull::new(raw);
        let raw = raw.ok_or_else(|| bad_answer(library, "it made a trainer and returned null"))?;
        let info = TrainerInfo {
            vocab: 0,
            context: 0,
            width: 0,
            parameters: 0,
            architecture: String::new(),
            dtype: String::new(),
            device: String::new(),
        };
        let (library, tensors) = (library.clone(), vec![]);
        let mut trainer = Self { raw, table, library, info, tensors, panicked: Cell::new(false) };
        trainer.describe()?;
        Ok(trainer)
    }

    /// What the backend says of the model.
    #[must_use]
    pub fn info(&self) -> &TrainerInfo {
        &self.info
    }

    /// The tensors that are trained.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The backend that trains.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// Floating-point operations of one token's forward pass in a sequence of `steps` tokens.
    ///
    /// # Errors
    /// A count that makes no sense.
    pub fn flops(&self, steps: u32) -> Result<f64, Error> {
        let function = self.table().flops.ok_or_else(|| incomplete(&self.library))?;
        // SAFETY: a trainer of this library.
        let flops = unsafe { function(self.raw.as_ptr(), steps) };
        if flops.is_finite() && flops >= 0.0 {
            Ok(flops)
        } else {
            Err(bad_answer(&self.library, &format!("it counts {flops} operations a token")))
        }
    }

    /// Bytes that the backend holds for it: weights, gradients, moments, and the buffers that passes have needed so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // SAFETY: a trainer of this library.
        self.table().bytes.map_or(0, |bytes| unsafe { bytes(self.raw.as_ptr()) })
    }

    /// Runs a batch forward and backward and adds to the gradient. Losses that are not finite are given as they are.
    ///
    /// # Errors
    /// A batch that does not fit, or what the backend refuses.
    pub fn accumulate(&mut self, batch: &TrainView<'_>) -> Result<Found, Error> {
        let function = self.table().accumulate.ok_or_else(|| incomplete(&self.library))?;
        self.pass("train on a batch", batch, |trainer, batch, sums, message| {
            // SAFETY: a trainer of this library; the arrays are as long as they say and outlive the call.
            unsafe { function(trainer, batch, sums, message) }
        })
    }

    /// Runs a batch forward, without dropout.
    ///
    /// # Errors
    /// As [`Trainer::accumulate`].
    pub fn evaluate(&mut self, batch: &TrainView<'_>) -> Result<Found, Error> {
        let function = self.table().evaluate.ok_or_else(|| incomplete(&self.library))?;
        self.pass("evaluate a batch", batch, |trainer, batch, sums, message| {
            // SAFETY: as in `accumulate`.
            unsafe { function(trainer, batch, sums, message) }
        })
    }

    fn pass(
        &mut self,
        action: &'static str,
        batch: &TrainView<'_>,
        f: impl FnOnce(*mut RawTrainer, *const TrainBatch, *mut TrainSums, *mut Message) -> Status,
    ) -> Result<Found, Error> {
        let targets = batch.targets.iter().filter(|&&t| t >= 0).count() as u64;
        let (size, nan) = (size_of::<TrainSums>(), f64::NAN);
        let mut sums = TrainSums { size, nats: nan, divergence: nan, targets: u64::MAX };
        self.with(action, batch, |trainer, batch, message| f(trainer, batch, &raw mut sums, message))?;
        if sums.targets != targets {
            let text = format!("it counts {} targets in a batch of {targets}", sums.targets);
            return Err(bad_answer(&self.library, &text));
        }
        Ok(Found { nats: sums.nats, divergence: sums.divergence, targets })
    }

    /// The hidden states that the head reads, `[rows, width]`.
    ///
    /// # Errors
    /// As [`Trainer::accumulate`].
    pub fn hidden(&mut self, batch: &TrainView<'_>) -> Result<Vec<f32>, Error> {
        let function = self.table().hidden.ok_or_else(|| incomplete(&self.library))?;
        let mut out = vec![f32::NAN; batch.tokens.len() * self.info.width as usize];
        self.with("give hidden states", batch, |trainer, batch, message| {
            // SAFETY: as in `accumulate`.
            unsafe { function(trainer, batch, out.as_mut_ptr(), out.len(), message) }
        })?;
        Ok(out)
    }

    fn with(
        &mut self,
        action: &'static str,
        batch: &TrainView<'_>,
        f: impl FnOnce(*mut RawTrainer, *const TrainBatch, *mut Message) -> Status,
    ) -> Result<(), Error> {
        let checked = batch.check(self.info.vocab);
        let batch = checked.map_err(|f| refused(&self.library, action, f.status, f.text))?;
        let teacher = batch.teacher.as_ref().map(bheval_abi::Teacher::to_raw);
        let raw = TrainBatch {
            size: size_of::<TrainBatch>(),
            batch: batch.batch as u32,
            steps: batch.steps as u32,
            token: batch.tokens.as_ptr(),
            target: batch.targets.as_ptr(),
            weight: batch.weight,
            pass: batch.pass,
            teacher: teacher.as_ref().map_or(std::ptr::null(), |t| &raw const *t),
        };
        self.run(action, |trainer, message| f(trainer, &raw const raw, message))
    }

    /// Clips the gradient, updates all tensors and forgets the gradient; returns the norm that it had. Where that is not
    /// finite, nothing was updated.
    ///
    /// # Errors
    /// What the backend refuses.
    pub fn update(&mut self, rates: &TrainRates) -> Result<f64, Error> {
        let function = self.table().update.ok_or_else(|| incomplete(&self.library))?;
        let mut norm = f64::NAN;
        self.run("update the weights", |trainer, message| {
            // SAFETY: a trainer of this library, and valid pointers for the length of the call.
            unsafe { function(trainer, &raw const *rates, &raw mut norm, message) }
        })?;
        Ok(norm)
    }

    /// Copies a tensor out.
    ///
    /// # Errors
    /// A tensor that there is not, or what the backend refuses.
    pub fn read(&self, tensor: usize, kept: Kept, out: &mut [f32]) -> Result<(), Error> {
        let function = self.table().read.ok_or_else(|| incomplete(&self.library))?;
        self.run("copy a tensor out", |trainer, message| {
            // SAFETY: a trainer of this library, and room for as many values as it says.
            unsafe { function(trainer, tensor as u32, kept, out.as_mut_ptr(), out.len(), message) }
        })
    }

    /// Copies a tensor in.
    ///
    /// # Errors
    /// As [`Trainer::read`].
    pub fn write(&mut self, tensor: usize, kept: Kept, values: &[f32]) -> Result<(), Error> {
        let function = self.table().write.ok_or_else(|| incomplete(&self.library))?;
        self.run("copy a tensor in", |trainer, message| {
            // SAFETY: a trainer of this library, and as many values as it says.
            unsafe { function(trainer, tensor as u32, kept, values.as_ptr(), values.len(), message) }
        })
    }

    fn table(&self) -> &TrainTable {
        // SAFETY: the table was checked, and lives as long as the library, which is never unmapped.
        unsafe { self.table.as_ref() }
    }

    /// Makes a call, unless an earlier one panicked.
    fn run(
        &self,
        action: &'static str,
        f: impl FnOnce(*mut RawTrainer, *mut Message) -> Status,
    ) -> Result<(), Error> {
        if self.panicked.get() {
            let text = "it panicked in an earlier call; resume from the last checkpoint".to_owned();
            return Err(refused(&self.library, action, Status::PANIC, text));
        }
        let raw = self.raw.as_ptr();
        let result = call(&self.library, action, |message| f(raw, message));
        self.panicked.set(matches!(&result, Err(Error::Refused { status: Status::PANIC, .. })));
        result
    }

    /// Asks what the model is, and for its tensors.
    fn describe(&mut self) -> Result<(), Error> {
        let empty = || Text::new("");
        let mut raw = RawInfo {
            size: size_of::<RawInfo<'_>>(),
            vocab: 0,
            context: 0,
            tensors: 0,
            width: 0,
            parameters: 0,
            architecture: empty(),
            dtype: empty(),
            device: empty(),
        };
        let describe = self.table().describe.ok_or_else(|| incomplete(&self.library))?;
        self.run("describe the model", |trainer, message| {
            // SAFETY: a trainer of this library, and a valid pointer for the length of the call.
            unsafe { describe(trainer, &raw mut raw, message) }
        })?;
        // SAFETY: the texts live until the trainer is closed; they are copied at once.
        let texts =
            [&raw.architecture, &raw.dtype, &raw.device].map(|t| unsafe { t.get() }.map(str::to_owned));
        let [Some(architecture), Some(dtype), Some(device)] = texts else {
            return Err(bad_answer(&self.library, "its model's texts are not UTF-8"));
        };
        let (vocab, context, width, parameters) = (raw.vocab, raw.context, raw.width, raw.parameters);
        self.info = TrainerInfo { vocab, context, width, parameters, architecture, dtype, device };
        self.tensors = (0..raw.tensors).map(|index| self.tensor(index)).collect::<Result<_, _>>()?;
        let count: u64 =
            self.tensors.iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum();
        if vocab == 0 || width == 0 || count != parameters {
            let text =
                format!("its {} tensors hold {count} values, but it speaks of {parameters}", raw.tensors);
            return Err(bad_answer(&self.library, &text));
        }
        Ok(())
    }

    fn tensor(&mut self, index: u32) -> Result<TensorInfo, Error> {
        let mut raw = TrainTensor {
            size: size_of::<TrainTensor<'_>>(),
            name: Text::new(""),
            dimensions: 0,
            decay: 0,
            shape: [0; 4],
        };
        let tensor = self.table().tensor.ok_or_else(|| incomplete(&self.library))?;
        self.run("describe a tensor", |trainer, message| {
            // SAFETY: as in `describe`.
            unsafe { tensor(trainer, index, &raw mut raw, message) }
        })?;
        // SAFETY: the name lives until the trainer is closed; it is copied at once.
        let name = unsafe { raw.name.get() }.map(str::to_owned);
        let shape = raw.shape.get(..raw.dimensions as usize);
        let (Some(name), Some(shape)) = (name, shape) else {
            return Err(bad_answer(&self.library, &format!("what it says of tensor {index} makes no sense")));
        };
        Ok(TensorInfo { name, shape: shape.iter().map(|&n| n as usize).collect(), decay: raw.decay != 0 })
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        if let Some(close) = self.table().close {
            // SAFETY: made by this library and closed once.
            unsafe { close(self.raw.as_ptr()) }
        }
    }
}

/// The backend's training table, whole.
fn table(library: &Library) -> Result<NonNull<TrainTable>, Error> {
    let refuse = |text: &str| refused(library, "train", Status::UNSUPPORTED, text.to_owned());
    if library.is_isolated() {
        return Err(refuse("training in a process of its own is not offered; leave --isolate out"));
    }
    let table = library.extension(TRAIN_EXTENSION).map(|table| table.cast::<TrainTable>().cast_mut());
    let table = table.and_then(NonNull::new).ok_or_else(|| refuse("it only scores, and can't train"))?;
    // SAFETY: the id names the table's type; its size is read before anything else.
    if unsafe { (*table.as_ptr()).size } < size_of::<TrainTable>() {
        return Err(refuse("its training table is smaller than this version knows"));
    }
    Ok(table)
}

fn incomplete(library: &Library) -> Error {
    bad_answer(library, "a function of its training table is missing")
}
