//! The mLSTM's cell over a forest: a matrix memory with exponential gates, kept in range by a running maximum
//! (architectures.md 7.1).

use rayon::prelude::*;

use super::forest::{Advance, Walk, carry};
use super::matrix_memory::{Update, update_and_read};
use crate::kernels::cells::log_sigmoid;
use crate::kernels::elementwise::exp;
use crate::kernels::{Isa, Kernel, launch};

/// Sizes and constants of a layer's cells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells {
    pub(crate) heads: usize,
    /// `K`, of one head.
    pub(crate) keys: usize,
    /// `V`, of one head.
    pub(crate) values: usize,
    /// What is added to the normaliser.
    pub(crate) eps: f32,
    /// The maximum above a root: it matters through `eps` alone.
    pub(crate) start: f32,
}

impl Cells {
    /// Values of one head's state: `C [K, V]`, `n [K]` and `m`.
    pub(crate) fn state(&self) -> usize {
        self.keys * (self.values + 1) + 1
    }
}

/// Some columns of `x [rows, width]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) width: usize,
    pub(crate) first: usize,
}

impl<'a> Columns<'a> {
    /// The columns of one head in one row.
    #[inline(always)]
    fn head(&self, row: usize, head: usize, size: usize) -> &'a [f32] {
        &self.x[row * self.width + self.first + head * size..][..size]
    }
}

/// Inputs of the cells, head after head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) q: Columns<'a>,
    pub(crate) k: Columns<'a>,
    pub(crate) v: Columns<'a>,
    /// Gates before their activation, `[rows, 2 heads]`: all input gates, then all forget gates.
    pub(crate) gates: &'a [f32],
}

/// Runs the cells over a walk, in parallel over heads. `h` is head by head, `[rows, V]` each.
pub(crate) fn mlstm(isa: Isa, walk: &Walk, cells: Cells, x: Inputs<'_>, h: &mut [f32]) {
    assert!(
        h.len() == walk.len() * cells.heads * cells.values && x.gates.len() == walk.len() * 2 * cells.heads
    );
    h.par_chunks_mut(walk.len() * cells.values).enumerate().for_each(|(head, h)| {
        launch(isa, Head { walk, cells, x, head, h });
    });
}

struct Head<'a> {
    walk: &'a Walk,
    cells: Cells,
    x: Inputs<'a>,
    head: usize,
    h: &'a mut [f32],
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run(mut self, _: Isa) {
        carry(self.walk, self.cells.state(), &mut self);
    }
}

impl Advance for Head<'_> {
    #[inline(always)]
    fn begin(&self, state: &mut [f32]) {
        state.fill(0.0);
        state[self.cells.state() - 1] = self.cells.start;
    }

    #[inline(always)]
    fn advance(&mut self, row: usize, state: &mut [f32]) {
        let Cells { heads, keys, values, eps, .. } = self.cells;
        let gates = &self.x.gates[row * 2 * heads..][..2 * heads];
        let (q, k) = (self.x.q.head(row, self.head, keys), self.x.k.head(row, self.head, keys));
        let (memory, rest) = state.split_at_mut(keys * values);
        let (normaliser, stabiliser) = rest.split_at_mut(keys);
        let input = gates[self.head];
        let forget = log_sigmoid(gates[heads + self.head]) + stabiliser[0];
        let largest = if forget > input { forget } else { input };
        let (decay, input) = (exp(forget - largest), exp(input - largest));
        stabiliser[0] = largest;
        let mut dot = 0.0f32;
        for ((n, &k), &q) in normaliser.iter_mut().zip(k).zip(q) {
            *n = decay.mul_add(*n, input * k);
            dot = q.mul_add(*n, dot);
        }
        let h = &mut self.h[row * values..][..values];
        let v = self.x.v.head(row, self.head, values);
        update_and_read(memory, Update { decay, input, k, v, q }, h);
        let scale = 1.0 / (keys as f32).sqrt();
        let factor = scale / (normaliser_of(dot * scale, exp(-largest)) + eps);
        for h in h {
            *h *= factor;
        }
    }
}

/// `max(|x|, floor)`; NaN where `x` overflowed, since to divide by infinity would silently turn the output into zeros.
#[inline(always)]
fn normaliser_of(x: f32, floor: f32) -> f32 {
    let size = if x.is_infinite() { f32::NAN } else { x.abs() };
    if size <= floor { floor } else { size }
}
