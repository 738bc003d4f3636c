//! The mLSTM cell, which both xLSTM designs use: a matrix memory with exponential gates.

use super::layers::{Rows, dot};
use super::recurrent::log_sigmoid;

/// The state of one head.
pub(super) struct Memory {
    /// `C`, one row a key.
    values: Rows,
    /// `n`
    normaliser: Vec<f64>,
    /// `m`: the logarithm by which `C` and `n` are scaled down.
    stabiliser: f64,
}

impl Memory {
    /// Nothing remembered yet. Where `m` starts matters through `epsilon` alone.
    pub(super) fn new(keys: usize, values: usize, stabiliser: f64) -> Self {
        Self { values: vec![vec![0.0; values]; keys], normaliser: vec![0.0; keys], stabiliser }
    }

    /// One step with the gates before their activation: `h = C'q / (max(|n q|, e^-m) + epsilon)`.
    pub(super) fn step(&mut self, qkv: [&[f64]; 3], input: f64, forget: f64, epsilon: f64) -> Vec<f64> {
        let [q, k, v] = qkv;
        let scale = (q.len() as f64).sqrt().recip();
        let forget = log_sigmoid(forget) + self.stabiliser;
        let stabiliser = forget.max(input);
        let (forget, input) = ((forget - stabiliser).exp(), (input - stabiliser).exp());
        for ((row, n), k) in self.values.iter_mut().zip(&mut self.normaliser).zip(k) {
            *n = forget * *n + input * k * scale;
            for (c, v) in row.iter_mut().zip(v) {
                *c = forget * *c + input * k * scale * v;
            }
        }
        self.stabiliser = stabiliser;
        let norm = dot(q, &self.normaliser).abs().max((-stabiliser).exp()) + epsilon;
        let read = |j: usize| self.values.iter().zip(q).map(|(row, q)| q * row[j]).sum::<f64>() / norm;
        (0..v.len()).map(read).collect()
    }
}
