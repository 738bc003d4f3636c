//! What these tests share.

use bheval_abi::TrainRates;

/// A step of AdamW at a rate, the rest as the presets have it; decay on matrices alone, clipped at a norm of 1.
pub(crate) fn rates(step: u64, learning_rate: f64, beta2: f64) -> TrainRates {
    TrainRates {
        size: size_of::<TrainRates>(),
        learning_rate,
        beta1: 0.9,
        beta2,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
        step,
        decay_all: 0,
    }
}
