//! A model in training behind the contract.

use bheval_abi::{
    Dtype, Failure, Found, Kept, Start, Status, TensorInfo, TrainRates, TrainView, Trainable, TrainerInfo,
};
use bheval_candle::weights::{Weights, floats};
use bheval_kernels::product::Precision;
use bheval_kernels::{Isa, Threads};
use candle_core::DType;

use crate::adamw::{self, Moments};
use crate::loss::{self, Targets};
use crate::models::{self, Network};
use crate::parameters::{Gradients, Parameters};
use crate::pool::Pool;
use crate::tape::{Setting, Tape};

/// A model in training: weights, gradients, moments, and the buffers of a step.
pub struct Trainer {
    info: TrainerInfo,
    tensors: Vec<TensorInfo>,
    network: Box<dyn Network>,
    parameters: Parameters,
    gradients: Gradients,
    moments: Moments,
    pool: Pool,
    threads: Threads,
    precision: Precision,
    /// Batch and steps that the pool's buffers were made for.
    shape: (usize, usize),
}

impl Trainable for Trainer {
    fn create(start: &Start) -> Result<Self, Failure> {
        let precision = match start.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::BF16 => Precision::Bf16,
            other => return Err(Failure::input(format!("number format {} is not known", other.0))),
        };
        let models::Model { network, mut parameters, architecture } = models::build(&start.path)?;
        match start.seed {
            Some(seed) => parameters.initialise(seed),
            None => read(&start.path, &*network, &mut parameters)?,
        }
        let threads = Threads::new(start.threads);
        let threads = threads.map_err(|e| {
            Failure::new(Status::INTERNAL, format!("{} threads can't be started: {e}", start.threads))
        })?;
        let info = TrainerInfo {
            vocab: network.head().vocab as u32,
            context: network.context() as u32,
            width: network.head().width as u32,
            parameters: parameters.count(),
            architecture,
            dtype: if precision == Precision::F32 { "f32" } else { "bf16" }.to_owned(),
            device: format!("cpu, {} threads", start.threads),
        };
        let tensor = |spec: &crate::parameters::Spec| TensorInfo {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            decay: spec.decay,
        };
        Ok(Self {
            info,
            tensors: parameters.specs().iter().map(tensor).collect(),
            network,
            gradients: Gradients::new(&parameters),
            moments: Moments::new(&parameters),
            parameters,
            pool: Pool::default(),
            threads,
            precision,
            shape: (0, 0),
        })
    }

    fn info(&self) -> &TrainerInfo {
        &self.info
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn flops(&self, steps: usize) -> f64 {
        self.network.forward_flops(steps)
    }

    fn bytes(&self) -> u64 {
        4 * size_of::<f32>() as u64 * self.info.parameters + self.pool.bytes() as u64
    }

    fn accumulate(&mut self, batch: &TrainView<'_>) -> Result<Found, Failure> {
        let setting = self.prepare(batch, Some(batch.pass))?;
        let Self { network, parameters, gradients, pool, threads, .. } = self;
        Ok(threads.install(|| {
            let mut tape = Tape::new(setting, parameters, pool, true);
            let hidden = network.hidden(&mut tape, batch.tokens);
            let (found, back) = loss::descend(&mut tape, hidden, network.head(), &targets(batch), gradients);
            tape.backward(hidden, back, gradients);
            found
        }))
    }

    fn evaluate(&mut self, batch: &TrainView<'_>) -> Result<Found, Failure> {
        let setting = self.prepare(batch, None)?;
        let Self { network, parameters, pool, threads, .. } = self;
        Ok(threads.install(|| {
            let mut tape = Tape::new(setting, parameters, pool, false);
            let hidden = network.hidden(&mut tape, batch.tokens);
            loss::losses(&mut tape, hidden, network.head(), &targets(batch))
        }))
    }

    fn hidden(&mut self, batch: &TrainView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let setting = self.prepare(batch, None)?;
        let Self { network, parameters, pool, threads, .. } = self;
        threads.install(|| {
            let mut tape = Tape::new(setting, parameters, pool, false);
            let hidden = network.hidden(&mut tape, batch.tokens);
            out.copy_from_slice(tape.get(hidden));
        });
        Ok(())
    }

    fn update(&mut self, rates: &TrainRates) -> Result<f64, Failure> {
        let Self { parameters, gradients, moments, threads, .. } = self;
        let norm =
            threads.install(|| adamw::update(Isa::best(), rates, parameters, gradients.finish(), moments))?;
        self.gradients.forget();
        Ok(norm)
    }

    fn kept(&mut self, index: usize, kept: Kept) -> Result<&mut [f32], Failure> {
        let all = match kept {
            Kept::WEIGHT => self.parameters.values_mut(),
            Kept::FIRST_MOMENT => &mut self.moments.first,
            Kept::SECOND_MOMENT => &mut self.moments.second,
            Kept::GRADIENT => self.gradients.finish(),
            other => return Err(Failure::input(format!("nothing of kind {} is kept", other.0))),
        };
        let tensor = all.get_mut(index);
        tensor.map(Vec::as_mut_slice).ok_or_else(|| Failure::input(format!("there is no tensor {index}")))
    }
}

impl Trainer {
    /// What the operations of a pass over `batch` share.
    fn prepare(&mut self, batch: &TrainView<'_>, dropout: Option<u64>) -> Result<Setting, Failure> {
        let context = self.network.context();
        if context > 0 && batch.steps > context {
            return Err(Failure::input(format!(
                "sequences of {} tokens, but the model takes {context}; shorten them, or raise the limit in its config",
                batch.steps
            )));
        }
        if self.shape != (batch.batch, batch.steps) {
            self.pool.clear();
            self.shape = (batch.batch, batch.steps);
        }
        let (isa, precision) = (Isa::best(), self.precision);
        Ok(Setting { isa, precision, batch: batch.batch, steps: batch.steps, dropout })
    }
}

fn targets<'a>(batch: &TrainView<'a>) -> Targets<'a> {
    Targets { tokens: batch.targets, weight: batch.weight, teacher: batch.teacher }
}

/// Reads the weights in the folder `path`.
fn read(path: &std::path::Path, network: &dyn Network, parameters: &mut Parameters) -> Result<(), Failure> {
    let mut weights = Weights::open(path, DType::F32)?;
    network.refuse_stored(&weights)?;
    parameters.load(|spec| floats(&weights.tensor(&spec.name, &spec.shape)?))?;
    // A tied head may be stored a second time, and old files hold buffers that are no weights.
    weights.all_used(&[
        "lm_head.weight",
        "embed_out.weight",
        "rotary_emb.inv_freq",
        ".attn.bias",
        "masked_bias",
        "attention.bias",
    ])
}
