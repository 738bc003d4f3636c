//! A layer of LSTM cells over sequences, from zero states (architectures.md 4).
//!
//! ```text
//! a = W_ih x + b_ih + W_hh h + b_hh, blocks i, f, g, o;  c = σ(f) c + σ(i) tanh(g);  h = σ(o) tanh(c)
//! ```
//! What inputs bring is one product for all rows. What the output before brings is one product a step, for all sequences,
//! whose columns the threads share out: each has the recurrent weights of its units packed for the whole pass. The way
//! back is the same in reverse; gradients of weights are one product each at the end.

mod cell;

use std::ops::Range;

use bheval_kernels::gemm::{Packed, Store, matmul};
use bheval_kernels::product::{View, ViewMut, product};
use bheval_kernels::{Isa, launch};
use rayon::prelude::*;

use crate::ops::blocks::column_blocks;
use crate::ops::rows::{put, sum_over_rows, task_rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Setting, Tape, Value};

/// Units are shared out in multiples of this.
const UNITS: usize = 32;
/// Multiplications of a step below which waiting for another thread takes longer than they do.
const WORK: usize = 1 << 19;

/// The tensors of one layer, as `torch.nn.LSTM` stores them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lstm {
    /// `W_ih [4 hidden, inputs]`
    pub input: Parameter,
    /// `W_hh [4 hidden, hidden]`
    pub recurrent: Parameter,
    /// `b_ih` and `b_hh`, `[4 hidden]` each.
    pub biases: Option<[Parameter; 2]>,
    /// Columns of `x`.
    pub inputs: usize,
    /// Units.
    pub hidden: usize,
}

/// The outputs `h` of all steps, `[rows, hidden]`.
pub fn lstm(tape: &mut Tape<'_>, x: Value, layer: Lstm) -> Value {
    let setting = tape.setting;
    let (rows, hidden) = (setting.rows(), layer.hidden);
    let (mut gates, mut y) = (tape.output(4 * hidden), tape.output(hidden));
    let mut cells = if tape.recording() { tape.output(hidden) } else { vec![] };
    let store = start(tape, layer, &mut gates);
    let (a, w) =
        (View::new(tape.get(x), rows, layer.inputs), weight(tape.parameter(layer.input), layer.inputs));
    product(setting.isa, setting.precision, a, w.t(), store, ViewMut::new(&mut gates, rows, 4 * hidden));
    let weights = tape.parameter(layer.recurrent);
    forward(setting, weights, Out { gates: &mut gates, cells: &mut cells, y: &mut y });
    if !tape.recording() {
        tape.recycle(std::mem::take(&mut gates));
    }
    tape.push(y, |y| Record { x, y, gates, cells, layer })
}

/// `[rows, columns]` of a weight.
fn weight(data: &[f32], columns: usize) -> View<'_> {
    View::new(data, data.len() / columns, columns)
}

/// Writes both biases, which the product is added to.
fn start(tape: &Tape<'_>, layer: Lstm, gates: &mut [f32]) -> Store {
    let Some([a, b]) = layer.biases else { return Store::Set };
    let bias: Vec<f32> = tape.parameter(a).iter().zip(tape.parameter(b)).map(|(a, b)| a + b).collect();
    let width = bias.len();
    gates
        .par_chunks_mut(task_rows(width) * width)
        .for_each(|rows| rows.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(&bias)));
    Store::Add
}

/// The units that a thread handles, and what it keeps from step to step. What it computes does not depend on how the units
/// are shared out.
struct Share {
    units: Range<usize>,
    /// The rows of `W_hh`, or of its transpose, that give these units.
    weights: Packed,
    /// The product of a step.
    fresh: Vec<f32>,
    /// `c` or its gradient, `[batch, units]`.
    state: Vec<f32>,
}

impl Share {
    /// Shares out units; `weights` packs those of some.
    fn all(batch: usize, hidden: usize, weights: impl Fn(Range<usize>) -> Packed + Sync) -> Vec<Self> {
        let worth = batch * 4 * hidden * hidden / WORK;
        let most = rayon::current_num_threads().min(hidden.div_ceil(UNITS)).min(worth.max(1));
        let size = hidden.div_ceil(most).next_multiple_of(UNITS);
        let share = |first: usize| {
            let units = first..(first + size).min(hidden);
            let weights = weights(units.clone());
            let (fresh, state) = (vec![0.0; batch * weights.columns()], vec![0.0; batch * units.len()]);
            Self { units, weights, fresh, state }
        };
        (0..hidden).step_by(size).collect::<Vec<_>>().into_par_iter().map(share).collect()
    }
}

/// Where the columns of each share begin and end.
fn bounds(shares: &[Share]) -> Vec<usize> {
    [0].into_iter().chain(shares.iter().map(|share| share.units.end)).collect()
}

/// The rows of one step: of all sequences, in order.
fn at_step(data: &mut [f32], width: usize, step: usize, steps: usize) -> impl Iterator<Item = &mut [f32]> {
    data.chunks_exact_mut(width).skip(step).step_by(steps)
}

/// What the forward pass writes.
struct Out<'a> {
    /// `[rows, 4 hidden]`: what inputs bring, and then the gates.
    gates: &'a mut [f32],
    /// `[rows, hidden]`, or empty where nobody goes back.
    cells: &'a mut [f32],
    y: &'a mut [f32],
}

/// One step's rows of some units: of gates four a sequence.
struct Rows<'a> {
    gates: Vec<&'a mut [f32]>,
    cells: Vec<&'a mut [f32]>,
    y: Vec<&'a mut [f32]>,
    /// The outputs side by side, for the next step.
    next: Vec<&'a mut [f32]>,
}

/// Runs all steps.
fn forward(setting: Setting, weights: &[f32], out: Out<'_>) {
    let Setting { isa, batch, steps, .. } = setting;
    let hidden = out.y.len() / setting.rows();
    let gate = |g: usize, units: &Range<usize>| {
        &weights[(g * hidden + units.start) * hidden..(g * hidden + units.end) * hidden]
    };
    let pack = |units: Range<usize>| Packed::new(hidden, &[0, 1, 2, 3].map(|g| gate(g, &units)));
    let mut shares = Share::all(batch, hidden, pack);
    let bounds = bounds(&shares);
    let (mut before, mut after) = (vec![0.0; batch * hidden], vec![0.0; batch * hidden]);
    for step in 0..steps {
        let gates = at_step(out.gates, 4 * hidden, step, steps).flat_map(|r| r.chunks_exact_mut(hidden));
        let gates = column_blocks(gates, &bounds);
        let mut cells = column_blocks(at_step(out.cells, hidden, step, steps), &bounds);
        let mut y = column_blocks(at_step(out.y, hidden, step, steps), &bounds);
        let mut next = column_blocks(after.chunks_exact_mut(hidden), &bounds);
        let rows = gates.into_iter().zip(cells.drain(..).zip(y.drain(..).zip(next.drain(..))));
        let rows: Vec<_> = rows.map(|(gates, (cells, (y, next)))| Rows { gates, cells, y, next }).collect();
        let above = (step > 0).then_some(&before[..]);
        let work = shares.par_iter_mut().zip(rows);
        work.with_max_len(1).for_each(|(share, rows)| share.forward(isa, above, rows));
        std::mem::swap(&mut before, &mut after);
    }
}

impl Share {
    /// One step of these units; `above` are all outputs of the step before, `[batch, hidden]`.
    fn forward(&mut self, isa: Isa, above: Option<&[f32]>, rows: Rows<'_>) {
        if let Some(above) = above {
            matmul(isa, above, &self.weights, Store::Set, &mut self.fresh);
        }
        let units = self.units.len();
        let Rows { mut gates, cells, y, next } = rows;
        let states = self.state.chunks_exact_mut(units).zip(self.fresh.chunks_exact(4 * units));
        let outs = y.into_iter().zip(next);
        for ((gates, (c, recurrent)), (y, next)) in
            gates.as_chunks_mut::<4>().0.iter_mut().zip(states).zip(outs)
        {
            let gates = gates.each_mut().map(|gate| &mut **gate);
            launch(isa, cell::Forward { gates, recurrent, c, h: y });
            next.copy_from_slice(y);
        }
        for (kept, c) in cells.into_iter().zip(self.state.chunks_exact(units)) {
            kept.copy_from_slice(c);
        }
    }
}

struct Record {
    x: Value,
    y: Value,
    /// `[rows, 4 hidden]`, after σ and tanh.
    gates: Vec<f32>,
    /// `c [rows, hidden]`
    cells: Vec<f32>,
    layer: Lstm,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let Self { x, y, gates: mut da, cells, layer } = *self;
        let setting = back.setting();
        backward(setting, back.parameter(layer.recurrent), &cells, &dy, &mut da);
        back.recycle(dy);
        back.recycle(cells);
        input_gradients(back, x, layer, &da);
        recurrent_gradient(back, y, layer, &da);
        bias_gradients(back, layer, &da);
        back.recycle(da);
    }
}

/// Turns gates `[rows, 4 hidden]` into the gradients of what they were made from.
fn backward(setting: Setting, weights: &[f32], cells: &[f32], dy: &[f32], gates: &mut [f32]) {
    let Setting { isa, batch, steps, .. } = setting;
    let hidden = dy.len() / setting.rows();
    let pack = |units: Range<usize>| {
        let columns: Vec<f32> =
            units.flat_map(|unit| weights.iter().skip(unit).step_by(hidden).copied()).collect();
        Packed::new(4 * hidden, &[&columns])
    };
    let mut shares = Share::all(batch, hidden, pack);
    let bounds = bounds(&shares);
    let (mut before, mut after) = (vec![0.0; batch * 4 * hidden], vec![0.0; batch * 4 * hidden]);
    for step in (0..steps).rev() {
        let rows = at_step(gates, 4 * hidden, step, steps).flat_map(|r| r.chunks_exact_mut(hidden));
        let rows = column_blocks(rows, &bounds);
        let copies = column_blocks(before.chunks_exact_mut(hidden), &bounds);
        let below = (step + 1 < steps).then_some(&after[..]);
        let kept = Kept { cells, dy, hidden, step, steps };
        let work = shares.par_iter_mut().zip(rows.into_par_iter().zip(copies));
        work.with_max_len(1).for_each(|(share, (rows, copies))| {
            share.backward(isa, kept, below, rows, copies);
        });
        std::mem::swap(&mut before, &mut after);
    }
}

/// What the way back reads, and at which step.
#[derive(Clone, Copy)]
struct Kept<'a> {
    cells: &'a [f32],
    dy: &'a [f32],
    hidden: usize,
    step: usize,
    steps: usize,
}

impl Share {
    /// One step of these units; `below` are the gradients of all gates of the step after, `[batch, 4 hidden]`.
    fn backward(
        &mut self,
        isa: Isa,
        kept: Kept<'_>,
        below: Option<&[f32]>,
        mut gates: Vec<&mut [f32]>,
        mut copies: Vec<&mut [f32]>,
    ) {
        if let Some(below) = below {
            matmul(isa, below, &self.weights, Store::Set, &mut self.fresh);
        }
        let Kept { cells, dy, hidden, step, steps } = kept;
        let units = self.units.len();
        let states = self.state.chunks_exact_mut(units).zip(self.fresh.chunks_exact(units));
        let rows = gates.as_chunks_mut::<4>().0.iter_mut().zip(copies.as_chunks_mut::<4>().0.iter_mut());
        for (sequence, ((gates, copies), (dc, dh))) in rows.zip(states).enumerate() {
            let row = sequence * steps + step;
            let at = row * hidden + self.units.start..row * hidden + self.units.end;
            let above = (step > 0).then(|| &cells[at.start - hidden..at.end - hidden]);
            let gates = gates.each_mut().map(|gate| &mut **gate);
            let copies = copies.each_mut().map(|copy| &mut **copy);
            launch(isa, cell::Backward { gates, copies, c: &cells[at.clone()], above, dy: &dy[at], dh, dc });
        }
    }
}

/// `dx = da W_ih`, `dW_ih = daᵀ x`
fn input_gradients(back: &mut Back<'_, '_>, x: Value, layer: Lstm, da: &[f32]) {
    let Setting { isa, precision, .. } = back.setting();
    let (rows, inputs, width) = (back.setting().rows(), layer.inputs, 4 * layer.hidden);
    let g = View::new(da, rows, width);
    let (store, mut dx) = back.open(x);
    let w = weight(back.parameter(layer.input), inputs);
    product(isa, precision, g, w, store, ViewMut::new(&mut dx, rows, inputs));
    back.close(x, dx);
    let (store, mut dw) = back.open_parameter(layer.input);
    let x = View::new(back.get(x), rows, inputs);
    product(isa, precision, g.t(), x, store, ViewMut::new(&mut dw, width, inputs));
    back.close_parameter(layer.input, dw);
}

/// `dW_hh = daᵀ h`, with the `h` of the step before.
fn recurrent_gradient(back: &mut Back<'_, '_>, y: Value, layer: Lstm, da: &[f32]) {
    let Setting { isa, precision, steps, .. } = back.setting();
    let (rows, hidden) = (back.setting().rows(), layer.hidden);
    let mut above = back.buffer(rows * hidden);
    let sequences = above.par_chunks_mut(steps * hidden).zip(back.get(y).par_chunks(steps * hidden));
    sequences.for_each(|(above, h)| {
        above[..hidden].fill(0.0);
        above[hidden..].copy_from_slice(&h[..h.len() - hidden]);
    });
    let (store, mut dw) = back.open_parameter(layer.recurrent);
    let (g, h) = (View::new(da, rows, 4 * hidden), View::new(&above, rows, hidden));
    product(isa, precision, g.t(), h, store, ViewMut::new(&mut dw, 4 * hidden, hidden));
    back.close_parameter(layer.recurrent, dw);
    back.recycle(above);
}

/// Both biases have the gradient `Σ da`.
fn bias_gradients(back: &mut Back<'_, '_>, layer: Lstm, da: &[f32]) {
    let Some(biases) = layer.biases else { return };
    let width = 4 * layer.hidden;
    let mut sum = back.buffer(width);
    sum_over_rows(Store::Set, back.setting().rows(), &mut sum, |row, sums| {
        sums.iter_mut().zip(&da[row * width..][..width]).for_each(|(s, g)| *s += g);
    });
    for bias in biases {
        let (store, mut db) = back.open_parameter(bias);
        put(store, &mut db, &sum);
        back.close_parameter(bias, db);
    }
    back.recycle(sum);
}

#[cfg(test)]
mod tests;
