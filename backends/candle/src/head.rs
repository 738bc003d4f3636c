//! The language model's head: from hidden states to logits, and to log-probabilities of the tokens asked for.

use bheval_abi::{Failure, HeadValues, Status};

use crate::kernels::Isa;
use crate::kernels::activation::{add_bias, soft_cap};
use crate::kernels::gemm::{Packed, Store, matmul_columns};
use crate::kernels::softmax::{COLUMNS, LogSumExp, accumulate};
use crate::room;

/// `logits = cap(W · x + b)`, `W [V, D]`.
#[derive(Debug)]
pub struct Head {
    /// `W`
    pub weights: Packed,
    /// `b [V]`
    pub bias: Option<Vec<f32>>,
    /// `c` of `cap(z) = c · tanh(z / c)`.
    pub soft_cap: Option<f32>,
}

impl Head {
    /// A head of a matrix alone.
    #[must_use]
    pub fn new(width: usize, weights: &[f32]) -> Self {
        Self { weights: Packed::new(width, &[weights]), bias: None, soft_cap: None }
    }

    /// `V`
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.weights.columns()
    }

    /// Its values, unpacked.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the logits are capped: they are then no product of hidden states and a matrix.
    pub(crate) fn values(&self) -> Result<HeadValues, Failure> {
        match self.soft_cap {
            Some(cap) => Err(Failure::new(
                Status::UNSUPPORTED,
                format!(
                    "its logits are capped at {cap}, so hidden states and the head's matrix do not give them; use logits"
                ),
            )),
            None => Ok(HeadValues {
                width: self.weights.inner(),
                weight: self.weights.unpacked(),
                bias: self.bias.clone(),
            }),
        }
    }

    /// Logits of the tokens `first..first + width` for the rows of `x[M, D]`: `out[M, width]`.
    fn columns(&self, isa: Isa, x: &[f32], first: usize, width: usize, out: &mut [f32]) {
        matmul_columns(isa, x, &self.weights, first, width, Store::Set, out);
        if let Some(bias) = &self.bias {
            add_bias(isa, &bias[first..first + width], out);
        }
        if let Some(cap) = self.soft_cap {
            soft_cap(isa, cap, out);
        }
    }

    /// Rows of logits, `out[M, V]`.
    pub(crate) fn logits(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        self.columns(isa, x, 0, self.vocab(), out);
    }

    /// `ln p(token)` for each `(row, token)` asked for, rows being those of `x[M, D]`. Logits exist for [`COLUMNS`] tokens at
    /// a time, in `wide`.
    pub(crate) fn log_probs(
        &self,
        isa: Isa,
        x: &[f32],
        asked: &[(usize, u32)],
        wide: &mut Vec<f32>,
    ) -> Vec<f32> {
        let rows = x.len() / self.weights.inner();
        let mut sums = vec![LogSumExp::EMPTY; rows];
        let mut scores = vec![f32::NAN; asked.len()];
        for first in (0..self.vocab()).step_by(COLUMNS) {
            let width = COLUMNS.min(self.vocab() - first);
            let logits = room(wide, rows * width);
            self.columns(isa, x, first, width, logits);
            accumulate(isa, logits, &mut sums);
            for (score, &(row, token)) in scores.iter_mut().zip(asked) {
                if (first..first + width).contains(&(token as usize)) {
                    *score = logits[row * width + token as usize - first];
                }
            }
        }
        for (score, &(row, _)) in scores.iter_mut().zip(asked) {
            *score = sums[row].log_prob(*score);
        }
        scores
    }
}

/// Refuses a result that is not finite. `place` says where it stands.
pub(crate) fn check_finite(value: f32, token: u32, place: impl FnOnce() -> String) -> Result<(), Failure> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Failure::new(
        Status::NOT_FINITE,
        format!(
            "the result for {} (token id {token}) is {value}: weights or activations overflow f32; check that the \
             weights are those of a finished training run",
            place()
        ),
    ))
}
