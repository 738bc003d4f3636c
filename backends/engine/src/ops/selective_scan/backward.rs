//! The way back over some channels of one sequence, chunk by chunk from the end: each runs forward once more from the states
//! before it, keeping decays and states, and then back (architectures.md 5):
//!
//! ```text
//! ĥ_t = C_t dy_t + exp(Δ_{t+1} A) ĥ_{t+1};  dC_t = Σ_d dy_t h_t;  dB_t = Σ_d ĥ_t Δ_t x_t
//! e_t = ĥ_t h_{t-1} exp(Δ_t A);  dA = Σ_t e_t Δ_t;  dΔ_t = Σ_n (e_t A + ĥ_t B_t x_t);  dx_t = Δ_t Σ_n ĥ_t B_t + D dy_t
//! ```

use std::ops::Range;

use bheval_kernels::elementwise::{exp, sigmoids};
use bheval_kernels::gemm::Store;
use bheval_kernels::{Isa, Kernel, LANES};

use super::{CHUNK, GROUPS, Inputs, Lanes, Place, Rates, lanes, softplus_lanes};
use crate::ops::selection::Rows;

/// What one task reads.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) place: Place,
    pub(super) inputs: Inputs<'a>,
    pub(super) rates: &'a Rates,
    /// `[rows, channels]`
    pub(super) dy: Rows<'a>,
    /// States before each chunk, `[chunks, groups, states, LANES]`.
    pub(super) borders: &'a [f32],
}

/// Where its gradients go.
pub(super) struct Sinks<'a> {
    /// The task's columns of each row of dx, dδ and dz.
    pub(super) rows: [Vec<&'a mut [f32]>; 3],
    pub(super) stores: [Store; 3],
    /// The task's share of `[dB | dC]`, `[steps, 2 states]`.
    pub(super) dbc: &'a mut [f32],
}

impl Sinks<'_> {
    #[inline(always)]
    fn put(&mut self, step: usize, first: usize, len: usize, values: [Lanes; 3]) {
        for ((rows, store), values) in self.rows.iter_mut().zip(self.stores).zip(values) {
            let out = &mut rows[step][first..first + len];
            match store {
                Store::Set => out.copy_from_slice(&values[..len]),
                Store::Add => out.iter_mut().zip(values).for_each(|(sum, g)| *sum += g),
            }
        }
    }
}

/// Gradients of the tensors from one sequence.
pub(super) struct Found {
    /// Of `A`, `[groups, states]`.
    pub(super) a: Vec<Lanes>,
    /// Of `D`, one a group.
    pub(super) skip: [Lanes; GROUPS],
}

impl Found {
    pub(super) fn new(states: usize) -> Self {
        Self { a: vec![[0.0; LANES]; GROUPS * states], skip: [[0.0; LANES]; GROUPS] }
    }
}

/// One task.
pub(super) struct Backward<'a> {
    pub(super) task: Task<'a>,
    pub(super) sinks: Sinks<'a>,
    pub(super) found: &'a mut Found,
}

/// What a chunk keeps of one group of channels, and its sums over groups.
struct Scratch {
    /// `exp(Δ A)`, `[CHUNK, states]`
    decays: Vec<Lanes>,
    /// States before the first step and after each, `[CHUNK + 1, states]`.
    states: Vec<Lanes>,
    /// What else a step needs again.
    rows: [Row; CHUNK],
    /// `dB` and `dC` before their lanes are added, `[CHUNK, 2 states]`.
    sums: Vec<Lanes>,
}

/// One step of one group.
#[derive(Clone, Copy)]
struct Row {
    x: Lanes,
    /// Δ
    step: Lanes,
    /// Gradient of the output before the gate.
    dy: Lanes,
    dgate: Lanes,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run(mut self, _: Isa) {
        let Inputs { states, steps, .. } = self.task.inputs;
        let zero = [0.0; LANES];
        let row = Row { x: zero, step: zero, dy: zero, dgate: zero };
        let mut scratch = Scratch {
            decays: vec![zero; CHUNK * states],
            states: vec![zero; (CHUNK + 1) * states],
            rows: [row; CHUNK],
            sums: vec![zero; CHUNK * 2 * states],
        };
        // exp(Δ_{t+1} A) ĥ_{t+1}
        let mut all = vec![zero; GROUPS * states];
        for chunk in (0..steps.div_ceil(CHUNK)).rev() {
            let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(steps);
            scratch.sums.fill(zero);
            for (group, adjoint) in all.chunks_exact_mut(states).enumerate() {
                if self.task.inputs.group(self.task.place, group).1 > 0 {
                    self.task.forward(group, range.clone(), &mut scratch);
                    self.group(group, range.clone(), adjoint, &mut scratch);
                }
            }
            let out = &mut self.sinks.dbc[range.start * 2 * states..range.end * 2 * states];
            out.iter_mut().zip(&scratch.sums).for_each(|(out, lanes)| *out = sum(lanes));
        }
    }
}

/// The lanes' sum, in a fixed order.
#[inline(always)]
fn sum(lanes: &Lanes) -> f32 {
    let mut lanes = *lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

impl Task<'_> {
    /// Runs some steps of one group of channels forward again.
    #[inline(always)]
    fn forward(&self, group: usize, range: Range<usize>, scratch: &mut Scratch) {
        let states = self.inputs.states;
        let (first, len) = self.inputs.group(self.place, group);
        let (rates, skip) = self.rates.of(self.place, states);
        let (rates, skip) = (&rates[group * states..][..states], skip[group]);
        let border = (range.start / CHUNK * GROUPS + group) * states;
        scratch.states[..states].copy_from_slice(&self.borders.as_chunks().0[border..][..states]);
        for (i, t) in range.enumerate() {
            let row = self.place.row + t;
            let x = lanes(self.inputs.x, row, first, len);
            let step = softplus_lanes(lanes(self.inputs.step, row, first, len));
            let mut y = [0.0; LANES];
            let mut added = [0.0; LANES];
            for l in 0..LANES {
                added[l] = step[l] * x[l];
            }
            let (b, c) = self.inputs.bc(row);
            let (before, after) = scratch.states[i * states..][..2 * states].split_at_mut(states);
            let kept = scratch.decays[i * states..][..states].iter_mut().zip(after);
            let moved = before.iter().zip(rates).zip(kept);
            for (((before, a), (decay, after)), (&b, &c)) in moved.zip(b.iter().zip(c)) {
                for l in 0..LANES {
                    let d = exp(step[l] * a[l]);
                    let s = d.mul_add(before[l], added[l] * b);
                    y[l] = c.mul_add(s, y[l]);
                    (decay[l], after[l]) = (d, s);
                }
            }
            let gate = lanes(self.inputs.gate, row, first, len);
            let dy = lanes(self.dy, row, first, len);
            let (mut back, mut dgate) = ([0.0; LANES], [0.0; LANES]);
            for l in 0..LANES {
                let (open, closed) = sigmoids(gate[l]);
                back[l] = dy[l] * gate[l] * open;
                dgate[l] = dy[l] * skip[l].mul_add(x[l], y[l]) * open * gate[l].mul_add(closed, 1.0);
            }
            scratch.rows[i] = Row { x, step, dy: back, dgate };
        }
    }
}

impl Backward<'_> {
    /// Goes back over some steps of one group of channels. `adjoint` is `exp(Δ A) ĥ` of the step after, and then of the
    /// first.
    #[inline(always)]
    fn group(&mut self, group: usize, range: Range<usize>, adjoint: &mut [Lanes], scratch: &mut Scratch) {
        let states = adjoint.len();
        let (rates, skip) = self.task.rates.of(self.task.place, states);
        let (rates, skip) = (&rates[group * states..][..states], skip[group]);
        let rates_found = &mut self.found.a[group * states..][..states];
        let (first, len) = self.task.inputs.group(self.task.place, group);
        for (i, t) in range.enumerate().rev() {
            let row = self.task.place.row + t;
            let Row { x, step, dy, dgate } = scratch.rows[i];
            let mut added = [0.0; LANES];
            for l in 0..LANES {
                added[l] = step[l] * x[l];
            }
            let (b, c) = self.task.inputs.bc(row);
            let (before, after) = scratch.states[i * states..][..2 * states].split_at(states);
            let (db, dc) = scratch.sums[i * 2 * states..][..2 * states].split_at_mut(states);
            let decays = &scratch.decays[i * states..][..states];
            // Σ ĥ B and Σ e A
            let (mut input, mut rate) = ([0.0; LANES], [0.0; LANES]);
            for n in 0..states {
                let (mut h, mut da) = (adjoint[n], rates_found[n]);
                for l in 0..LANES {
                    let g = c[n].mul_add(dy[l], h[l]);
                    dc[n][l] = dy[l].mul_add(after[n][l], dc[n][l]);
                    db[n][l] = g.mul_add(added[l], db[n][l]);
                    input[l] = g.mul_add(b[n], input[l]);
                    h[l] = decays[n][l] * g;
                    let e = h[l] * before[n][l];
                    rate[l] = e.mul_add(rates[n][l], rate[l]);
                    da[l] = e.mul_add(step[l], da[l]);
                }
                (adjoint[n], rates_found[n]) = (h, da);
            }
            let raw = lanes(self.task.inputs.step, row, first, len);
            let (mut dx, mut dstep) = ([0.0; LANES], [0.0; LANES]);
            for l in 0..LANES {
                dx[l] = skip[l].mul_add(dy[l], step[l] * input[l]);
                dstep[l] = x[l].mul_add(input[l], rate[l]) * sigmoids(raw[l]).0;
                self.found.skip[group][l] = dy[l].mul_add(x[l], self.found.skip[group][l]);
            }
            self.sinks.put(t, group * LANES, len, [dx, dstep, dgate]);
        }
    }
}
