//! What the recurrent references have in common: scalar functions, and the short causal convolution.

use super::layers::Rows;

/// `1 / (1 + e^-x)`
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `x sigmoid(x)`
pub(super) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `ln(1 + e^x)`
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `ln sigmoid(x)`
pub(super) fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

/// `c tanh(x / c)`
pub(super) fn soft_cap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

/// A depthwise convolution over the steps so far: `y_t[c] = b[c] + sum_j w[c][j] x_{t-taps+1+j}[c]`.
pub(super) struct Convolution {
    /// One row of taps a channel, the tap of the step itself last.
    pub(super) taps: Rows,
    pub(super) bias: Option<Vec<f64>>,
}

impl Convolution {
    pub(super) fn apply(&self, rows: &[Vec<f64>]) -> Rows {
        (0..rows.len()).map(|t| self.at(rows, t)).collect()
    }

    fn at(&self, rows: &[Vec<f64>], t: usize) -> Vec<f64> {
        let channel = |(c, taps): (usize, &Vec<f64>)| {
            let steps = taps.iter().rev().zip(rows[..=t].iter().rev());
            let bias = self.bias.as_ref().map_or(0.0, |b| b[c]);
            bias + steps.map(|(w, row)| w * row[c]).sum::<f64>()
        };
        self.taps.iter().enumerate().map(channel).collect()
    }
}
