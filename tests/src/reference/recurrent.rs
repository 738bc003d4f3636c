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

/// `erf`, by its series `2/sqrt(pi) sum (-1)^n x^(2n+1) / (n! (2n+1))`, whose terms stay small enough up to 6.
pub(super) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // With e^-x² taken out every term is positive and nothing cancels.
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_at_known_places() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - expected).abs() < 1e-15 && (erf(-x) + expected).abs() < 1e-15, "{x}");
        }
    }
}
