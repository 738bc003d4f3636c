//! The way back through the sLSTM's cells, last step first.
//!
//! In place of `c` and `n` it follows what does not depend on how they are scaled: the quotient `r = c / n` and
//! `ν = m + ln n`. With the share `a = i' / n_t` of a step in its quotient, `r_t = (1 − a) r_{t−1} + a tanh(z̃)` and
//! `ν_t = ln(exp(ln σ(f̃) + ν_{t−1}) + exp(ĩ))`, where `a` is the sigmoid of `ĩ − ln σ(f̃) − ν_{t−1}`.

use bheval_kernels::activation::tanh;
use bheval_kernels::cells::log_sigmoid;
use bheval_kernels::elementwise::{exp, sigmoids};
use bheval_kernels::gemm::{Packed, Store, matmul};
use bheval_kernels::product::{Precision, View, ViewMut, product};
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use super::{Buffers, GATES, Layer, Layout, Task, cut, transposed};
use crate::ops::rows::sum_over_rows;
use crate::tape::{Back, Operation, Value};

pub(super) struct Record {
    pub(super) layer: Layer,
    pub(super) x: Value,
    pub(super) y: Value,
    pub(super) states: Buffers,
}

impl Operation for Record {
    fn backward(mut self: Box<Self>, back: &mut Back<'_, '_>) {
        if let Some(dy) = back.gradient(self.y) {
            let dx = self.gates(back, &dy);
            self.kernel(back, &dx);
            self.bias(back, &dx);
            back.pass(self.x, dx);
            back.recycle(dy);
        }
        self.states.recycle(|buffer| back.recycle(buffer));
    }
}

impl Record {
    /// The gradient of the gates before their activation, which is that of the input: `[rows, 4D]`.
    fn gates(&self, back: &mut Back<'_, '_>, dy: &[f32]) -> Vec<f32> {
        let (layer, len) = (&self.layer, GATES * self.layer.width() * self.layer.setting.rows());
        let mut by_task = back.buffer(len);
        let kernel = back.parameter(layer.recurrence.kernel);
        // From the gates back to the outputs.
        let pack = |kernel: Vec<f32>| Packed::new(GATES * layer.unit, &[&transposed(&kernel, layer.unit)]);
        let packed: Vec<Packed> = layer.kernels(kernel).map(pack).collect();
        let (tasks, mut rest, mut at) = (layer.tasks(), by_task.as_mut_slice(), 0);
        let part = |task: Task| {
            let len = layer.len(&task);
            at += len;
            (task, at - len, cut(&mut rest, GATES * len))
        };
        let parts: Vec<_> = tasks.into_iter().map(part).collect();
        parts.into_par_iter().for_each(|(task, at, gradient)| {
            self.task(&task, at, &packed[task.head], dy, gradient);
        });
        let mut dx = back.buffer(len);
        layer.gather_rows(&by_task, layer.unit, GATES, &mut dx);
        back.recycle(by_task);
        dx
    }

    /// All steps of a task, whose cells begin at `at`, last one first.
    fn task(&self, task: &Task, at: usize, kernel: &Packed, dy: &[f32], gradient: &mut [f32]) {
        let (layer, isa) = (&self.layer, self.layer.setting.isa);
        let size = task.sequences.len() * layer.unit;
        let mut carried = [vec![0.0; size], vec![0.0; size]];
        let mut upstream = vec![0.0; size];
        for t in (0..layer.setting.steps).rev() {
            let (now, later) = gradient[GATES * t * size..].split_at_mut(GATES * size);
            upstream.fill(0.0);
            if let Some(later) = later.get(..GATES * size) {
                matmul(isa, later, kernel, Store::Set, &mut upstream);
            }
            for (sequence, upstream) in task.sequences.clone().zip(upstream.chunks_exact_mut(layer.unit)) {
                let row = sequence * layer.setting.steps + t;
                let dy = &dy[row * layer.width() + task.head * layer.unit..][..layer.unit];
                upstream.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            }
            let [dr, dv] = &mut carried;
            let step = |of: usize, width: usize| {
                at * width + of * size * width..at * width + (of + 1) * size * width
            };
            let state = |t: usize| {
                let Buffers { c, n, m, .. } = &self.states;
                State { c: &c[step(t, 1)], n: &n[step(t, 1)], m: &m[step(t, 1)] }
            };
            let (raw, before) = (&self.states.raw[step(t, GATES)], t.checked_sub(1).map(state));
            let unit = layer.unit;
            launch(isa, Cells { unit, raw, before, now: state(t), dy: &upstream, dr, dv, out: now });
        }
    }

    /// `dR = Σ dx_tᵀ y_{t−1}`, sequence after sequence.
    fn kernel(&self, back: &mut Back<'_, '_>, dx: &[f32]) {
        let (layer, isa) = (&self.layer, self.layer.setting.isa);
        let (steps, unit, width) = (layer.setting.steps, layer.unit, layer.width());
        let (mut store, mut dw) = back.open_parameter(layer.recurrence.kernel);
        if steps < 2 && store == Store::Set {
            dw.fill(0.0);
        }
        let y = back.get(self.y);
        for sequence in (0..layer.setting.batch).filter(|_| steps > 1) {
            let first = sequence * steps;
            for (head, dw) in dw.chunks_exact_mut(GATES * unit * unit).enumerate() {
                let from = first * width + head * unit;
                let y = View::with_stride(&y[from..], steps - 1, unit, width);
                for gate in 0..GATES {
                    let from = (first + 1) * GATES * width + gate * width + head * unit;
                    let dx = View::with_stride(&dx[from..], steps - 1, unit, GATES * width);
                    let (a, b, c) = match layer.recurrence.layout {
                        Layout::Vanilla => {
                            let own = &mut dw[gate * unit * unit..(gate + 1) * unit * unit];
                            (dx.t(), y, ViewMut::new(own, unit, unit))
                        }
                        Layout::Cuda => {
                            let own = &mut dw[gate * unit..];
                            (y.t(), dx, ViewMut::with_stride(own, unit, unit, GATES * unit))
                        }
                    };
                    product(isa, Precision::F32, a, b, store, c);
                }
            }
            store = Store::Add;
        }
        back.close_parameter(layer.recurrence.kernel, dw);
    }

    /// `db = Σ dx`
    fn bias(&self, back: &mut Back<'_, '_>, dx: &[f32]) {
        let (layer, unit, width) = (&self.layer, self.layer.unit, GATES * self.layer.width());
        let (store, mut db) = back.open_parameter(layer.recurrence.bias);
        sum_over_rows(store, layer.setting.rows(), &mut db, |row, sums| {
            let dx = dx[row * width..(row + 1) * width].chunks_exact(unit);
            for (place, dx) in dx.enumerate() {
                let (gate, head) = (place / layer.recurrence.heads, place % layer.recurrence.heads);
                let sums = &mut sums[layer.bias_place(head, gate)..][..unit];
                sums.iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
            }
        });
        back.close_parameter(layer.recurrence.bias, db);
    }
}

/// States of one step.
#[derive(Clone, Copy)]
struct State<'a> {
    c: &'a [f32],
    n: &'a [f32],
    m: &'a [f32],
}

/// One step: from the gradient of `y`, and those of `r` and `ν` that later steps left, to that of the gates and those for
/// the step before.
struct Cells<'a> {
    unit: usize,
    raw: &'a [f32],
    before: Option<State<'a>>,
    now: State<'a>,
    dy: &'a [f32],
    dr: &'a mut [f32],
    dv: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Cells<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let unit = self.unit;
        let rows = self.raw.chunks_exact(GATES * unit).zip(self.out.chunks_exact_mut(GATES * unit));
        for (row, (raw, out)) in rows.enumerate() {
            let ((i, f), (z, o)) = (raw[..2 * unit].split_at(unit), raw[2 * unit..].split_at(unit));
            let (first, second) = out.split_at_mut(2 * unit);
            let ((di, df), (dz, d_o)) = (first.split_at_mut(unit), second.split_at_mut(unit));
            let at = row * unit..(row + 1) * unit;
            let (c, n, m) = (&self.now.c[at.clone()], &self.now.n[at.clone()], &self.now.m[at.clone()]);
            let dy = &self.dy[at.clone()];
            let (dr, dv) = (&mut self.dr[at.clone()], &mut self.dv[at.clone()]);
            for j in 0..unit {
                let (r, candidate) = (c[j] / n[j], tanh(z[j]));
                let (open, shut) = sigmoids(o[j]);
                let share = exp(i[j] - m[j]) / n[j];
                let (kept, r_before) = match &self.before {
                    Some(before) => {
                        let n_before = before.n[at.start + j];
                        let forget = exp(log_sigmoid(f[j]) + before.m[at.start + j] - m[j]);
                        (forget * n_before / n[j], before.c[at.start + j] / n_before)
                    }
                    None => (0.0, 0.0),
                };
                let gradient = dy[j].mul_add(open, dr[j]);
                let logit = gradient * (candidate - r_before) * share * kept;
                let forget = dv[j].mul_add(kept, -logit);
                di[j] = dv[j].mul_add(share, logit);
                df[j] = forget * sigmoids(f[j]).1;
                dz[j] = gradient * share * (1.0 - candidate * candidate);
                d_o[j] = dy[j] * r * open * shut;
                dr[j] = gradient * kept;
                dv[j] = forget;
            }
        }
    }
}
