//! A learner behind the contract: whatever backend trains.

use std::path::Path;

use bheval_host::{Dtype, Found, Library, TrainRates, TrainView, Trainer, TrainerOptions};

use crate::Error;
use crate::learner::{Batch, Kept, Learner, LearnerInfo, Precision, Rates, Sums, Tensor};

/// A model in training in a backend.
pub struct Hosted {
    trainer: Trainer,
    tensors: Vec<Tensor>,
    threads: u32,
    precision: Precision,
}

impl Hosted {
    /// Makes the model that the `config.json` of a folder describes, its weights drawn from `seed`.
    ///
    /// # Errors
    /// A backend that can't train, or what it refuses, in its words.
    pub fn create(
        library: &Library,
        folder: &Path,
        seed: u64,
        threads: u32,
        precision: Precision,
    ) -> Result<Self, Error> {
        let dtype = match precision {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::BF16,
        };
        let options = TrainerOptions { path: folder.to_owned(), seed: Some(seed), threads, dtype };
        let trainer = Trainer::create(library, &options)?;
        let tensors = trainer.tensors().iter();
        let tensors = tensors
            .map(|t| Tensor { name: t.name.clone(), shape: t.shape.clone(), decay: t.decay })
            .collect();
        Ok(Self { trainer, tensors, threads, precision })
    }
}

fn view<'a>(batch: &Batch<'a>) -> TrainView<'a> {
    let Batch { batch, steps, tokens, targets, weight, pass, teacher } = *batch;
    TrainView { batch, steps, tokens, targets, weight, pass, teacher }
}

fn sums(found: Found) -> Sums {
    Sums { nats: found.nats, targets: found.targets, distilled: found.divergence }
}

fn kept(kept: Kept) -> bheval_host::Kept {
    match kept {
        Kept::Weight => bheval_host::Kept::WEIGHT,
        Kept::FirstMoment => bheval_host::Kept::FIRST_MOMENT,
        Kept::SecondMoment => bheval_host::Kept::SECOND_MOMENT,
    }
}

impl Learner for Hosted {
    fn info(&self, steps: usize) -> Result<LearnerInfo, Error> {
        let (info, library) = (self.trainer.info(), self.trainer.library());
        Ok(LearnerInfo {
            architecture: info.architecture.clone(),
            vocab: info.vocab as usize,
            context: info.context as usize,
            parameters: info.parameters,
            forward_flops: self.trainer.flops(u32::try_from(steps).unwrap_or(u32::MAX))?,
            threads: self.threads,
            precision: self.precision,
            device: info.device.clone(),
            arithmetic: format!("{} {}, {}", library.name(), library.version(), info.dtype),
        })
    }

    fn bytes(&self) -> u64 {
        self.trainer.bytes()
    }

    fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    fn accumulate(&mut self, batch: &Batch<'_>) -> Result<Sums, Error> {
        Ok(sums(self.trainer.accumulate(&view(batch))?))
    }

    fn evaluate(&mut self, batch: &Batch<'_>) -> Result<Sums, Error> {
        Ok(sums(self.trainer.evaluate(&view(batch))?))
    }

    fn update(&mut self, rates: &Rates) -> Result<f64, Error> {
        let Rates { learning_rate, beta1, beta2, epsilon, weight_decay, decay_all, clip, step } = *rates;
        Ok(self.trainer.update(&TrainRates {
            size: size_of::<TrainRates>(),
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            clip: clip.unwrap_or(0.0),
            step,
            decay_all: decay_all.into(),
        })?)
    }

    fn read(&mut self, tensor: usize, which: Kept, out: &mut [f32]) -> Result<(), Error> {
        Ok(self.trainer.read(tensor, kept(which), out)?)
    }

    fn write(&mut self, tensor: usize, which: Kept, values: &[f32]) -> Result<(), Error> {
        Ok(self.trainer.write(tensor, kept(which), values)?)
    }
}
