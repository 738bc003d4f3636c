//! The sLSTM's cell: scalar memories with exponential gates, whose outputs feed back into the gates of their head
//! (architectures.md 7.2).
//!
//! ```text
//! [ĩ, f̃, z̃, õ] = x + R y_{t−1} + b;  m_t = max(ln σ(f̃) + m_{t−1}, ĩ), in the first step ĩ
//! i' = exp(ĩ − m_t);  f' = exp(ln σ(f̃) + m_{t−1} − m_t)
//! c_t = f' c_{t−1} + i' tanh(z̃);  n_t = f' n_{t−1} + i';  y_t = σ(õ) c_t / n_t
//! ```
//! Step after step, over all sequences at once. The maximum cancels in the quotient, and so out of the gradient.

mod backward;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bheval_kernels::cells::{SlstmState, slstm as cell};
use bheval_kernels::gemm::{Packed, Store, matmul};
use rayon::prelude::*;

use crate::parameters::Parameter;
use crate::tape::{Setting, Tape, Value};

/// Gates of a cell, in the order i, f, z, o.
const GATES: usize = 4;

/// How a checkpoint keeps the recurrent kernel and the bias: two backends of the authors' package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Kernel `[heads, 4d, d]` from outputs to gates, bias `[4, heads, d]`.
    Vanilla,
    /// Kernel `[heads, d, 4d]`, bias `[heads, 4, d]`.
    Cuda,
}

/// What a layer's cells learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recurrence {
    /// `R`, from a head's outputs to its gates.
    pub kernel: Parameter,
    /// `b`
    pub bias: Parameter,
    /// Heads.
    pub heads: usize,
    /// How both are stored.
    pub layout: Layout,
}

/// `y [rows, D]` from what the gates take from the input, `x [rows, 4D]`, gate after gate and head after head; every
/// sequence from an empty memory.
///
/// # Panics
/// If the columns are not shared out to the gates of the heads.
pub fn slstm(tape: &mut Tape<'_>, x: Value, recurrence: Recurrence) -> Value {
    let layer = Layer::new(tape.setting, tape.width(x), recurrence);
    let width = layer.width();
    let mut states = Buffers::new(&layer, |len| tape.buffer(len));
    let mut by_task = tape.output(width);
    let bias = tape.parameter(recurrence.bias);
    let packed: Vec<Packed> =
        layer.kernels(tape.parameter(recurrence.kernel)).map(|w| layer.pack(&w)).collect();
    let inputs = tape.get(x);
    let parts = split(&layer, states.each_mut(), &mut by_task);
    layer.tasks().into_par_iter().zip(parts).for_each(|(task, part)| {
        let bias = layer.bias(bias, task.head);
        layer.forward(&task, &packed[task.head], &bias, inputs, part);
    });
    let mut y = tape.output(width);
    layer.gather_rows(&by_task, layer.unit, 1, &mut y);
    tape.recycle(by_task);
    if !tape.recording() {
        states.recycle(|buffer| tape.recycle(buffer));
    }
    tape.push(y, |y| backward::Record { layer, x, y, states })
}

/// What both ways share. A task is one head over some sequences; buffers hold the tasks one after another, each of them
/// `[T, sequences, ...]`.
#[derive(Clone, Copy)]
struct Layer {
    setting: Setting,
    recurrence: Recurrence,
    /// `d`: cells of a head.
    unit: usize,
    /// Sequences of a task, but perhaps fewer in the last one of a head.
    group: usize,
}

/// One head over some sequences.
#[derive(Clone)]
struct Task {
    head: usize,
    sequences: Range<usize>,
}

/// What is kept of all steps.
#[derive(Default)]
struct Buffers {
    /// The gates before their activation, `4d` a cell's row.
    raw: Vec<f32>,
    c: Vec<f32>,
    n: Vec<f32>,
    m: Vec<f32>,
}

/// One task's share of the buffers.
struct Part<'a> {
    raw: &'a mut [f32],
    c: &'a mut [f32],
    n: &'a mut [f32],
    m: &'a mut [f32],
    y: &'a mut [f32],
}

impl Buffers {
    fn new(layer: &Layer, mut buffer: impl FnMut(usize) -> Vec<f32>) -> Self {
        let len = layer.setting.rows() * layer.width();
        Self { raw: buffer(GATES * len), c: buffer(len), n: buffer(len), m: buffer(len) }
    }

    fn each_mut(&mut self) -> [&mut [f32]; 4] {
        [&mut self.raw, &mut self.c, &mut self.n, &mut self.m]
    }

    fn recycle(&mut self, recycle: impl FnMut(Vec<f32>)) {
        let Self { raw, c, n, m } = std::mem::take(self);
        [raw, c, n, m].into_iter().for_each(recycle);
    }
}

/// Cuts the front off a slice.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (front, back) = std::mem::take(rest).split_at_mut(len);
    *rest = back;
    front
}

fn split<'a>(
    layer: &Layer,
    [mut raw, mut c, mut n, mut m]: [&'a mut [f32]; 4],
    y: &'a mut [f32],
) -> Vec<Part<'a>> {
    let mut y = y;
    let part = |task: &Task| {
        let len = layer.len(task);
        let raw = cut(&mut raw, GATES * len);
        Part { raw, c: cut(&mut c, len), n: cut(&mut n, len), m: cut(&mut m, len), y: cut(&mut y, len) }
    };
    layer.tasks().iter().map(part).collect()
}

impl Layer {
    fn new(setting: Setting, columns: usize, recurrence: Recurrence) -> Self {
        let heads = recurrence.heads;
        assert!(columns.is_multiple_of(GATES * heads), "{columns} columns are no gates of {heads} heads");
        // As many tasks as threads, if there are as many sequences; which sequences share a task changes no result.
        let shares = rayon::current_num_threads().div_ceil(heads);
        let group = setting.batch.div_ceil(shares);
        Self { setting, recurrence, unit: columns / (GATES * heads), group }
    }

    /// `D`
    fn width(&self) -> usize {
        self.unit * self.recurrence.heads
    }

    fn tasks(&self) -> Vec<Task> {
        let batch = self.setting.batch;
        let groups = (0..batch).step_by(self.group).map(|first| first..(first + self.group).min(batch));
        let head = |head| groups.clone().map(move |sequences| Task { head, sequences });
        (0..self.recurrence.heads).flat_map(head).collect()
    }

    /// Cells of a task in all steps.
    fn len(&self, task: &Task) -> usize {
        self.setting.steps * task.sequences.len() * self.unit
    }

    /// `R` head by head, as `[4d, d]`.
    fn kernels<'a>(&self, kernel: &'a [f32]) -> impl Iterator<Item = Vec<f32>> + use<'a> {
        let Self { unit, recurrence, .. } = *self;
        kernel.chunks_exact(GATES * unit * unit).map(move |kernel| match recurrence.layout {
            Layout::Vanilla => kernel.to_vec(),
            Layout::Cuda => transposed(kernel, GATES * unit),
        })
    }

    fn pack(&self, kernel: &[f32]) -> Packed {
        Packed::new(self.unit, &[kernel])
    }

    /// A head's bias, gate after gate.
    fn bias(&self, bias: &[f32], head: usize) -> Vec<f32> {
        let gate = |gate| bias[self.bias_place(head, gate)..][..self.unit].iter().copied();
        (0..GATES).flat_map(gate).collect()
    }

    /// Where the bias of a head's gate begins.
    fn bias_place(&self, head: usize, gate: usize) -> usize {
        self.unit
            * match self.recurrence.layout {
                Layout::Vanilla => gate * self.recurrence.heads + head,
                Layout::Cuda => head * GATES + gate,
            }
    }

    /// All steps of a task.
    fn forward(&self, task: &Task, kernel: &Packed, bias: &[f32], x: &[f32], part: Part<'_>) {
        let size = task.sequences.len() * self.unit;
        let Part { raw, c, n, m, y } = part;
        for t in 0..self.setting.steps {
            let raw = &mut raw[GATES * t * size..GATES * (t + 1) * size];
            for (sequence, raw) in task.sequences.clone().zip(raw.chunks_exact_mut(GATES * self.unit)) {
                self.inputs(task.head, sequence * self.setting.steps + t, x, bias, raw);
            }
            let (before, y) = y[..(t + 1) * size].split_at_mut(t * size);
            if t > 0 {
                matmul(self.setting.isa, &before[(t - 1) * size..], kernel, Store::Add, raw);
            }
            let [c, n, m] = [(&mut *c, 0.0), (&mut *n, 0.0), (&mut *m, f32::NEG_INFINITY)]
                .map(|(state, start)| from_above(state, size, t, start));
            cell(self.setting.isa, raw, self.unit, SlstmState { c, n, m, y });
        }
    }

    /// What a head's gates take from the input in one row, with their bias.
    fn inputs(&self, head: usize, row: usize, x: &[f32], bias: &[f32], raw: &mut [f32]) {
        let x = &x[row * GATES * self.width()..][..GATES * self.width()];
        let gates = raw.chunks_exact_mut(self.unit).zip(bias.chunks_exact(self.unit));
        for ((raw, bias), x) in gates.zip(x.chunks_exact(self.width())) {
            let x = &x[head * self.unit..][..self.unit];
            raw.iter_mut().zip(bias).zip(x).for_each(|((raw, bias), x)| *raw = x + bias);
        }
    }

    /// From task by task to rows: `shares` parts of `size` columns for each head, part by part in the rows.
    fn gather_rows(&self, by_task: &[f32], size: usize, shares: usize, rows: &mut [f32]) {
        let (steps, heads) = (self.setting.steps, self.recurrence.heads);
        rows.par_chunks_exact_mut(size * shares * heads).enumerate().for_each(|(row, out)| {
            let (sequence, t) = (row / steps, row % steps);
            let first = sequence / self.group * self.group;
            let count = self.group.min(self.setting.batch - first);
            for head in 0..heads {
                // Tasks before this one hold all sequences of earlier heads and the earlier ones of its own.
                let cells = (head * self.setting.batch + first) * steps + t * count + sequence - first;
                let own = by_task[cells * size * shares..][..size * shares].chunks_exact(size);
                for (share, own) in own.enumerate() {
                    out[(share * heads + head) * size..][..size].copy_from_slice(own);
                }
            }
        });
    }
}

/// A state of step `t`, which holds that of the step before.
fn from_above(state: &mut [f32], size: usize, t: usize, start: f32) -> &mut [f32] {
    let (before, now) = state[..(t + 1) * size].split_at_mut(t * size);
    match t {
        0 => now.fill(start),
        _ => now.copy_from_slice(&before[(t - 1) * size..]),
    }
    now
}

/// `[rows, columns]` turned over.
fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
    let column = |c: usize| x.iter().skip(c).step_by(columns).copied();
    (0..columns).flat_map(column).collect()
}
