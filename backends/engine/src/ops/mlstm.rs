//! The mLSTM's cell: a matrix memory with exponential gates, kept in range by a running maximum (architectures.md 7.1).
//!
//! ```text
//! m_t = max(ln σ(f̃) + m_{t−1}, ĩ);  f' = exp(ln σ(f̃) + m_{t−1} − m_t);  i' = exp(ĩ − m_t)
//! C_t = f' C_{t−1} + i' k_t ⊗ v_t;  n_t = f' n_{t−1} + i' k_t
//! h_t = (q_tᵀ C_t) / ( max(|q_tᵀ n_t|, exp(−m_t)) + ε ),  k scaled by 1/√K
//! ```
//! Computed in chunks, each in parallel form. Its way back is the gradient of just that, with the maxima differentiated
//! through, as autograd does.

mod backward;
mod flow;
mod forward;
mod gates;
mod products;
#[cfg(test)]
mod tests;

use bheval_kernels::Isa;
use bheval_kernels::activation::tanh;
use rayon::prelude::*;

use self::backward::{BackRoom, HeadBack, Parts};
use self::forward::{Head, Room, chunk_steps};
use self::gates::Gates;
use crate::ops::selection::{Columns, Rows};
use crate::tape::{Back, Operation, Setting, Tape, Value};

/// Constants of a layer's cells.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cells {
    /// Heads. Columns of queries, keys and values are head after head.
    pub heads: usize,
    /// ε, which is added to the normaliser.
    pub eps: f32,
    /// `m` before the first step: transformers starts from 0, the parallel form of the authors' package from `−∞`. It
    /// matters through ε alone.
    pub start: f32,
    /// `cap · tanh(gate / cap)` of both gates before their activation.
    pub gate_cap: Option<f32>,
}

/// What the cells take.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// `[rows, heads · K]`
    pub q: Columns,
    /// `[rows, heads · K]`
    pub k: Columns,
    /// `[rows, heads · V]`
    pub v: Columns,
    /// `ĩ [rows, heads]`
    pub input: Columns,
    /// `f̃ [rows, heads]`
    pub forget: Columns,
}

/// `h [rows, heads · V]`, every sequence from an empty memory.
///
/// # Panics
/// If the widths do not fit the number of heads.
pub fn mlstm(tape: &mut Tape<'_>, x: Inputs, cells: Cells) -> Value {
    let (keys, values) = (x.k.width / cells.heads, x.v.width / cells.heads);
    in_chunks(tape, x, cells, chunk_steps(tape.setting.steps, keys, values))
}

/// As [`mlstm`], in chunks of so many steps, a multiple of 64 unless there is one.
fn in_chunks(tape: &mut Tape<'_>, x: Inputs, cells: Cells, chunk: usize) -> Value {
    let layer = Layer::new(tape.setting, x, cells, chunk);
    let (lanes, per_lane) = layer.lanes();
    let Layer { keys, values, setting: Setting { steps, .. }, .. } = layer;
    let mut by_head = tape.output(x.v.width);
    let mut n = tape.output(cells.heads);
    let room_len = Room::len(chunk, keys) + Head::state_len(keys, values);
    let mut room = tape.buffer(lanes * room_len);
    let inputs = Matrices::new(&x, layer.setting.rows(), |value| tape.get(value));
    let tasks = by_head.par_chunks_mut(per_lane * steps * values).zip(n.par_chunks_mut(per_lane * steps));
    tasks.zip(room.par_chunks_mut(room_len)).enumerate().for_each(|(lane, ((h, n), room))| {
        let (mut room, state) = Room::carve(room, chunk, keys);
        let heads = h.chunks_exact_mut(steps * values).zip(n.chunks_exact_mut(steps));
        for (task, (h, n)) in (lane * per_lane..).zip(heads) {
            let gates = layer.gates(&inputs, task);
            layer.head(&inputs, task, &gates).forward(&mut room, state, h, n);
        }
    });
    let mut h = tape.output(x.v.width);
    h.par_chunks_exact_mut(x.v.width).enumerate().for_each(|(row, h)| layer.gather(&by_head, values, row, h));
    tape.recycle(by_head);
    tape.recycle(room);
    if !tape.recording() {
        tape.recycle(std::mem::take(&mut n));
    }
    tape.push(h, |h| Record { layer, h, n })
}

/// What both ways share.
#[derive(Clone, Copy)]
struct Layer {
    setting: Setting,
    x: Inputs,
    cells: Cells,
    /// `K`
    keys: usize,
    /// `V`
    values: usize,
    /// Steps of a chunk.
    chunk: usize,
}

/// The inputs' matrices.
struct Matrices<'a> {
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    input: Rows<'a>,
    forget: Rows<'a>,
}

impl<'a> Matrices<'a> {
    fn new(x: &Inputs, rows: usize, get: impl Fn(Value) -> &'a [f32]) -> Self {
        let of = |columns: &Columns| columns.of(get(columns.value), rows);
        Self { q: of(&x.q), k: of(&x.k), v: of(&x.v), input: of(&x.input), forget: of(&x.forget) }
    }
}

/// `cap · tanh(x / cap)`
fn capped(cap: Option<f32>, x: f32) -> f32 {
    cap.map_or(x, |cap| cap * tanh(x / cap))
}

/// The slope of [`capped`].
fn cap_slope(cap: Option<f32>, x: f32) -> f32 {
    let slope = |t: f32| 1.0 - t * t;
    cap.map_or(1.0, |cap| slope(tanh(x / cap)))
}

impl Layer {
    fn new(setting: Setting, x: Inputs, cells: Cells, chunk: usize) -> Self {
        let heads = cells.heads;
        assert!(
            x.q.width == x.k.width && x.q.width.is_multiple_of(heads),
            "queries and keys differ in width"
        );
        assert!(x.v.width.is_multiple_of(heads), "the values are not shared out to the heads");
        assert!(x.input.width == heads && x.forget.width == heads, "a head has one gate of each kind");
        Self { setting, x, cells, keys: x.k.width / heads, values: x.v.width / heads, chunk }
    }

    /// Tasks, one head of one sequence each, in order, are shared out to so many threads, so many to each.
    fn lanes(&self) -> (usize, usize) {
        let tasks = self.setting.batch * self.cells.heads;
        let per_lane = tasks.div_ceil(rayon::current_num_threads());
        (tasks.div_ceil(per_lane), per_lane)
    }

    /// Sequence's first row, and head.
    fn place(&self, task: usize) -> (usize, usize) {
        (task / self.cells.heads * self.setting.steps, task % self.cells.heads)
    }

    fn gates(&self, x: &Matrices<'_>, task: usize) -> Gates {
        let (first, head) = self.place(task);
        let column = |gate: &Rows<'_>| -> Vec<f32> {
            let one = |row| capped(self.cells.gate_cap, gate.row(row)[head]);
            (first..first + self.setting.steps).map(one).collect()
        };
        Gates::new(self.setting.isa, &column(&x.input), &column(&x.forget), self.cells.start)
    }

    fn head<'a>(&self, x: &Matrices<'a>, task: usize, gates: &'a Gates) -> Head<'a> {
        let (first, head) = self.place(task);
        let part = |all: &Rows<'a>| all.share(head, self.cells.heads, first, self.setting.steps);
        let isa: Isa = self.setting.isa;
        let (q, k, v) = (part(&x.q), part(&x.k), part(&x.v));
        Head { isa, chunk: self.chunk, eps: self.cells.eps, q, k, v, gates }
    }

    /// One row of what lies head by head, `[batch, heads, T, size]`.
    fn gather(&self, by_head: &[f32], size: usize, row: usize, out: &mut [f32]) {
        let (sequence, step) = (row / self.setting.steps, row % self.setting.steps);
        for (head, out) in out.chunks_exact_mut(size).enumerate() {
            let task = sequence * self.cells.heads + head;
            out.copy_from_slice(&by_head[(task * self.setting.steps + step) * size..][..size]);
        }
    }
}

struct Record {
    layer: Layer,
    h: Value,
    /// What the normalisers are taken from, `[batch, heads, T]`.
    n: Vec<f32>,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dh) = back.gradient(self.h) else { return back.recycle(self.n) };
        let (layer, x) = (self.layer, self.layer.x);
        let (heads, rows) = (layer.cells.heads, layer.setting.rows());
        let [mut dq, mut dk, mut dv] = [x.q, x.k, x.v].map(|part| back.buffer(rows * part.width));
        let mut dgates = back.buffer(rows * 2 * heads);
        self.parts(back, &dh, [&mut dq, &mut dk, &mut dv], &mut dgates);
        for (columns, gradient) in [(x.q, dq), (x.k, dk), (x.v, dv)] {
            let size = columns.width / heads;
            columns.add_gradient(back, |row, out| layer.gather(&gradient, size, row, out));
            back.recycle(gradient);
        }
        for (columns, which) in [(x.input, 0), (x.forget, 1)] {
            columns.add_gradient(back, |row, out| {
                let (sequence, step) = (row / layer.setting.steps, row % layer.setting.steps);
                for (head, out) in out.iter_mut().enumerate() {
                    let task = sequence * heads + head;
                    *out = dgates[2 * (task * layer.setting.steps + step) + which];
                }
            });
        }
        [dgates, dh, self.n].into_iter().for_each(|buffer| back.recycle(buffer));
    }
}

impl Record {
    /// Gradients head by head; those of the gates side by side, `[batch, heads, T, 2]`.
    fn parts(&self, back: &mut Back<'_, '_>, dh: &[f32], dqkv: [&mut [f32]; 3], dgates: &mut [f32]) {
        let Layer { keys, values, chunk, setting: Setting { steps, .. }, .. } = self.layer;
        let (lanes, per_lane) = self.layer.lanes();
        let room_len = BackRoom::len(steps, chunk, keys, values);
        let mut room = back.buffer(lanes * room_len);
        let rows = self.layer.setting.rows();
        let inputs = Matrices::new(&self.layer.x, rows, |value| back.get(value));
        let h = Columns { value: self.h, first: 0, width: self.layer.x.v.width };
        let outputs = (h.of(back.get(self.h), rows), h.of(dh, rows));
        let [dq, dk, dv] = dqkv;
        let lane = |size| per_lane * steps * size;
        let parts =
            (dq.par_chunks_mut(lane(keys)), dk.par_chunks_mut(lane(keys)), dv.par_chunks_mut(lane(values)));
        let tasks = (parts, dgates.par_chunks_mut(lane(2)), room.par_chunks_mut(room_len));
        tasks.into_par_iter().enumerate().for_each(|(lane, ((dq, dk, dv), dgates, room))| {
            let mut room = BackRoom::carve(room, chunk, keys, values);
            let parts = dq.chunks_exact_mut(steps * keys).zip(dk.chunks_exact_mut(steps * keys));
            let parts = parts.zip(dv.chunks_exact_mut(steps * values));
            let tasks = parts.zip(dgates.chunks_exact_mut(2 * steps));
            for (task, (((q, k), v), dgates)) in (lane * per_lane..).zip(tasks) {
                self.one(&inputs, outputs, task, &mut room, Parts { q, k, v }, dgates);
            }
        });
        back.recycle(room);
    }

    /// One head of one sequence.
    fn one(
        &self,
        inputs: &Matrices<'_>,
        (h, dh): (Rows<'_>, Rows<'_>),
        task: usize,
        room: &mut BackRoom<'_>,
        mut parts: Parts<'_>,
        dgates: &mut [f32],
    ) {
        let (steps, cells) = (self.layer.setting.steps, self.layer.cells);
        let gates = self.layer.gates(inputs, task);
        let (first, place) = self.layer.place(task);
        let [h, dh] = [h, dh].map(|all| all.share(place, cells.heads, first, steps));
        let head = self.layer.head(inputs, task, &gates);
        let n = &self.n[task * steps..(task + 1) * steps];
        let flow = HeadBack { head, n, h, dh }.run(room, &mut parts);
        gates.gradients(&flow, dgates);
        if cells.gate_cap.is_some() {
            for (t, gates) in dgates.chunks_exact_mut(2).enumerate() {
                for (g, raw) in gates.iter_mut().zip([inputs.input, inputs.forget]) {
                    *g *= cap_slope(cells.gate_cap, raw.row(first + t)[place]);
                }
            }
        }
    }
}
