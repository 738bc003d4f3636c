//! Causal softmax attention with grouped heads and rotary positions (architectures.md 2).
//!
//! As in flash attention (Dao et al. 2022) probabilities exist for a block of queries at a time: the forward pass keeps
//! each row's maximum and sum, and the way back makes them again. Heads are independent, so that one task does all
//! queries that share keys, in order.

mod dropout;
mod head;
mod softmax;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bheval_candle::ops::attention::Heads;
use rayon::prelude::*;

use crate::ops::blocks::{bounds, column_blocks};
use crate::ops::dropout::seed;
use crate::ops::rotary::Rotary;
use crate::tape::{Back, Operation, Tape, Value};
use dropout::WeightDropout;
use head::{Gradients, Group, Outputs, Task};

/// Where a row has its queries, keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// All queries, all keys, all values.
    Parts,
    /// Query, key and value of the first head, then of the next, as GPT-NeoX: heads share no keys.
    Heads,
}

/// What attention there is.
#[derive(Clone, Debug)]
pub struct Attention {
    /// How a row splits into heads.
    pub heads: Heads,
    /// Where they lie.
    pub layout: Layout,
    /// What the products of queries and keys are multiplied with.
    pub scale: f32,
    /// Rotary positions, for as many as there are steps.
    pub rotary: Option<Arc<Rotary>>,
    /// Probability with which a weight is dropped in training.
    pub dropout: f32,
}

impl Attention {
    /// The segments, of `dim` columns each, of the queries that share key head `shared`, of that key head and of its values.
    fn segments(&self, shared: usize) -> (std::ops::Range<usize>, usize, usize) {
        let group = self.heads.count / self.heads.shared;
        match self.layout {
            Layout::Parts => {
                let keys = self.heads.count + shared;
                (shared * group..(shared + 1) * group, keys, keys + self.heads.shared)
            }
            Layout::Heads => (3 * shared..3 * shared + 1, 3 * shared + 1, 3 * shared + 2),
        }
    }

    /// Columns of a row of queries, keys and values.
    fn width(&self) -> usize {
        self.heads.queries() + 2 * self.heads.keys()
    }
}

/// `softmax(scale · q kᵀ) v` for each head, over a token and those before it: `[rows, count · dim]` from `x [rows, q|k|v]`.
///
/// # Panics
/// If `x` is not as wide as the heads ask for, or they share keys in a layout that has none to share.
pub fn attention(tape: &mut Tape<'_>, x: Value, attention: Attention) -> Value {
    let (setting, heads) = (tape.setting, attention.heads);
    assert_eq!(tape.width(x), attention.width(), "q, k and v do not fit the heads");
    assert!(attention.layout == Layout::Parts || heads.count == heads.shared, "no keys are shared here");
    let mut y = tape.output(heads.queries());
    let group = heads.count / heads.shared;
    let mut sums = tape.buffer(2 * setting.rows() * heads.count);
    let dropout = seed(tape, attention.dropout).map(|seed| WeightDropout::new(seed, attention.dropout));
    let each = (
        y.par_chunks_mut(setting.steps * heads.queries()),
        sums.par_chunks_mut(2 * setting.steps * heads.count),
        tape.get(x).par_chunks(setting.steps * attention.width()),
    );
    each.into_par_iter().enumerate().for_each(|(sequence, (y, sums, x))| {
        let outputs =
            column_blocks(y.chunks_exact_mut(heads.queries()), &bounds(heads.queries(), group * heads.dim));
        let tasks = outputs.into_par_iter().zip(sums.par_chunks_mut(2 * setting.steps * group)).enumerate();
        tasks.for_each(|(shared, (y, sums))| {
            let task = Task { sequence, shared, dropout };
            Group::new(setting, &attention, task, x).forward(Outputs { y, sums });
        });
    });
    tape.push(y, |y| Record { x, y, sums, attention, dropout })
}

struct Record {
    x: Value,
    y: Value,
    /// For each sequence, head and step the largest score and one over the sum of exponentials relative to it.
    sums: Vec<f32>,
    attention: Attention,
    dropout: Option<WeightDropout>,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (setting, attention) = (back.setting(), &self.attention);
        let (heads, width) = (attention.heads, attention.width());
        let mut dx = back.buffer(setting.rows() * width);
        let group = heads.count / heads.shared;
        let each = (
            dx.par_chunks_mut(setting.steps * width),
            back.get(self.x).par_chunks(setting.steps * width),
            back.get(self.y).par_chunks(setting.steps * heads.queries()),
            dy.par_chunks(setting.steps * heads.queries()),
            self.sums.par_chunks(2 * setting.steps * heads.count),
        );
        each.into_par_iter().enumerate().for_each(|(sequence, (dx, x, y, dy, sums))| {
            let mut parts = column_blocks(dx.chunks_exact_mut(width), &bounds(width, heads.dim));
            let mut take = |shared: usize| {
                let (q, k, v) = attention.segments(shared);
                let mut part = |segment: usize| std::mem::take(&mut parts[segment]);
                (q.map(&mut part).collect(), part(k), part(v))
            };
            let tasks: Vec<_> = (0..heads.shared).map(&mut take).collect();
            tasks.into_par_iter().enumerate().for_each(|(shared, (dq, dk, dv))| {
                let sums = &sums[2 * setting.steps * group * shared..];
                let gradients = Gradients { y, dy, sums, dq, dk, dv };
                let task = Task { sequence, shared, dropout: self.dropout };
                Group::new(setting, attention, task, x).backward(gradients);
            });
        });
        back.pass(self.x, dx);
        back.recycle(dy);
        back.recycle(self.sums);
    }
}
