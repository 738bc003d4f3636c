//! The way back through each chunk. With `W_ij = exp(s_i - s_j)`, the state `H` that enters and the gradient `Ĥ` of the one
//! that leaves, and `w_j = exp(s_last - s_j)` (architectures.md 1.7, the decay one number a token):
//!
//! ```text
//! dM_ij = dy_i · x_j;  dS_ij = Σ_heads dM_ij W_ij Δ_j
//! dC = dS B + Σ_heads exp(s) dy H;  dB = dSᵀ C + Σ_heads w Δ x Ĥ;  dx = Mᵀ dy + w Δ (B Ĥ) + D dy
//! dΔ_j = Σ_i dM_ij S_ij W_ij + w_j x_j · (B Ĥ)_j + A dlog_j
//! dlog_t = Σ_{j < t ≤ i} dM_ij M_ij + Σ_{i ≥ t} dy_i · exp(s_i) (C H)_i + Σ_{j < t} w_j Δ_j x_j · (B Ĥ)_j + exp(s_last) H · Ĥ
//! ```

use bheval_kernels::elementwise::exp;
use bheval_kernels::gemm::Store;
use bheval_kernels::launch;
use bheval_kernels::product::{Precision, View, ViewMut, product_serial};
use rayon::prelude::*;

use super::chunk::{Chunk, Gates, Inputs, Plan};
use super::forward::{from_state, group_state, scores, square};
use super::kernels::{Decays, Dots, Product, Scale, Start, Tokens, Unmix};
use super::states::group_factors;
use super::{CHUNK, Ssd};
use crate::parameters::Parameter;
use crate::tape::Back;

/// What the way back reads.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) gates: &'a Gates<'a>,
    /// `[rows, heads P]`
    pub(super) dy: &'a [f32],
    /// `H` and `Ĥ` of each chunk.
    pub(super) entering: &'a [f32],
    pub(super) leaving: &'a [f32],
}

/// Gradients for each head and token, `[chunks, heads, CHUNK]`.
pub(super) struct Gradients {
    plan: Plan,
    /// Of Δ.
    delta: Vec<f32>,
    /// Of `Δ A`.
    log: Vec<f32>,
    /// Of `D`, to be summed over the tokens.
    skip: Vec<f32>,
}

/// Those of one chunk.
struct Sinks<'a> {
    delta: &'a mut [Tokens],
    log: &'a mut [Tokens],
    skip: &'a mut [Tokens],
    /// `[dx | dB | dC]`, `[rows, heads P + 2 groups N]`
    dxbc: &'a mut [f32],
}

/// Room of one thread.
struct Scratch {
    scores: Vec<Tokens>,
    dscores: Vec<Tokens>,
    mix: Vec<Tokens>,
    dmix: Vec<Tokens>,
    /// `exp(s) dy`, and then `w Δ x`, of a group.
    scaled: Vec<f32>,
    /// `C H`, and then `B Ĥ`, of a group.
    read: Vec<f32>,
    /// Dot products over the channels of each head of a group.
    dots: Vec<Tokens>,
}

impl Scratch {
    fn new(plan: Plan) -> Self {
        let square = || vec![[0.0; CHUNK]; CHUNK];
        let wide = || vec![0.0; CHUNK * plan.group_width()];
        Self {
            scores: square(),
            dscores: square(),
            mix: square(),
            dmix: square(),
            scaled: wide(),
            read: wide(),
            dots: vec![[0.0; CHUNK]; plan.group_heads().len()],
        }
    }
}

impl Task<'_> {
    /// Writes all gradients, chunk by chunk.
    pub(super) fn run(self, dxbc: &mut [f32], found: &mut Gradients) {
        let plan = self.inputs.plan;
        let len = plan.sizes.heads * CHUNK;
        let sequences = dxbc.chunks_mut(plan.setting.steps * plan.sizes.convolved());
        let rows: Vec<&mut [f32]> =
            sequences.flat_map(|rows| rows.chunks_mut(CHUNK * plan.sizes.convolved())).collect();
        let gates = found.delta.par_chunks_mut(len).zip(found.log.par_chunks_mut(len));
        let parts = rows.into_par_iter().zip(gates.zip(found.skip.par_chunks_mut(len)));
        let room = || Scratch::new(plan);
        parts.enumerate().for_each_init(room, |scratch, (index, (dxbc, ((delta, log), skip)))| {
            [&mut *delta, &mut *log, &mut *skip].into_iter().for_each(|gradient| gradient.fill(0.0));
            let [delta, log, skip] = [delta, log, skip].map(|x| x.as_chunks_mut::<CHUNK>().0);
            let mut sinks = Sinks { delta, log, skip, dxbc };
            for group in 0..plan.sizes.groups {
                self.group(plan.chunk(index), group, scratch, &mut sinks);
            }
        });
    }

    /// `dy` of a group's heads.
    fn dy(&self, chunk: Chunk, group: usize) -> View<'_> {
        let (inner, width) = (self.inputs.plan.sizes.inner(), self.inputs.plan.group_width());
        View::with_stride(&self.dy[chunk.first * inner + group * width..], chunk.rows, width, inner)
    }

    fn group(&self, chunk: Chunk, group: usize, scratch: &mut Scratch, sinks: &mut Sinks<'_>) {
        let (inputs, plan) = (self.inputs, self.inputs.plan);
        scores(inputs, chunk, group, &mut scratch.scores);
        scratch.dscores.iter_mut().for_each(|row| row.fill(0.0));
        self.through_entering(chunk, group, scratch, sinks);
        self.through_leaving(chunk, group, scratch, sinks);
        for h in plan.group_heads() {
            self.head(chunk, group, h, scratch, sinks);
        }
        let (isa, f32) = (plan.setting.isa, Precision::F32);
        let (b, c) = (inputs.b(chunk, group), inputs.c(chunk, group));
        let dscores = square(&scratch.dscores, chunk);
        product_serial(isa, f32, dscores, c, Store::Add, sinks.columns(plan, chunk, Part::B, group));
        product_serial(isa, f32, dscores.t(), b, Store::Add, sinks.columns(plan, chunk, Part::C, group));
    }

    /// What reads the state that enters: writes dC, and dlog.
    fn through_entering(&self, chunk: Chunk, group: usize, scratch: &mut Scratch, sinks: &mut Sinks<'_>) {
        let (inputs, plan) = (self.inputs, self.inputs.plan);
        let (isa, width) = (plan.setting.isa, plan.group_width());
        let dc = sinks.columns(plan, chunk, Part::C, group);
        if chunk.place == 0 {
            return zero(dc);
        }
        let state = &self.entering[chunk.index * plan.state_len()..][..plan.state_len()];
        let factors = group_factors(plan, group, |head| self.gates.sums(chunk, head).map(exp));
        let scaled = &mut scratch.scaled[..chunk.rows * width];
        launch(isa, Scale { x: self.dy(chunk, group), factors: &factors, out: scaled });
        let scaled = View::new(scaled, chunk.rows, width);
        product_serial(isa, Precision::F32, scaled, group_state(inputs, group, state), Store::Set, dc);
        let read = &mut scratch.read[..chunk.rows * width];
        from_state(inputs, chunk, group, state, ViewMut::new(read, chunk.rows, width));
        let read = View::new(read, chunk.rows, width);
        launch(isa, Dots { a: scaled, b: read, out: &mut scratch.dots });
        for (h, dots) in scratch.dots.iter().enumerate() {
            let dlog = &mut sinks.log[group * plan.group_heads().len() + h];
            let mut sum = 0.0;
            for t in (0..chunk.rows).rev() {
                sum += dots[t];
                dlog[t] += sum;
            }
        }
    }

    /// What makes the state that leaves: writes dB and dx, with what passes by the recurrence, dΔ and dlog.
    fn through_leaving(&self, chunk: Chunk, group: usize, scratch: &mut Scratch, sinks: &mut Sinks<'_>) {
        let (inputs, plan) = (self.inputs, self.inputs.plan);
        let (isa, width, first) = (plan.setting.isa, plan.group_width(), group * plan.group_heads().len());
        let last = chunk.place + 1 == plan.chunks();
        let x = inputs.x(chunk, group);
        launch(
            isa,
            Dots { a: x, b: self.dy(chunk, group), out: &mut sinks.skip[first..][..scratch.dots.len()] },
        );
        if last {
            return zero(sinks.columns(plan, chunk, Part::B, group));
        }
        let state = &self.leaving[chunk.index * plan.state_len()..][..plan.state_len()];
        let state = group_state(inputs, group, state);
        let decays = group_factors(plan, group, |head| {
            let sums = self.gates.sums(chunk, head);
            std::array::from_fn(|j| exp(sums[CHUNK - 1] - sums[j]))
        });
        let mut factors = decays.clone();
        for (h, factors) in factors.iter_mut().enumerate() {
            factors.iter_mut().zip(self.gates.delta(chunk, first + h)).for_each(|(w, delta)| *w *= delta);
        }
        let scaled = &mut scratch.scaled[..chunk.rows * width];
        launch(isa, Scale { x, factors: &factors, out: scaled });
        let (scaled, db) = (View::new(scaled, chunk.rows, width), sinks.columns(plan, chunk, Part::B, group));
        product_serial(isa, Precision::F32, scaled, state, Store::Set, db);
        let read = &mut scratch.read[..chunk.rows * width];
        let out = ViewMut::new(read, chunk.rows, width);
        product_serial(isa, Precision::F32, inputs.b(chunk, group), state.t(), Store::Set, out);
        let read = View::new(read, chunk.rows, width);
        launch(isa, Dots { a: x, b: read, out: &mut scratch.dots });
        let stride = plan.sizes.convolved();
        let dx = sinks.columns(plan, chunk, Part::X, group);
        for (row, read) in dx.data.chunks_mut(stride).zip(read.data.chunks_exact(width)) {
            row[..width].copy_from_slice(read);
        }
        for (h, dots) in scratch.dots.iter().enumerate() {
            self.sums_of_leaving(chunk, first + h, (dots, &decays[h], &factors[h]), sinks);
        }
    }

    /// One head's dΔ and dlog from the state that leaves.
    fn sums_of_leaving(
        &self,
        chunk: Chunk,
        head: usize,
        (dots, decays, factors): (&Tokens, &Tokens, &Tokens),
        sinks: &mut Sinks<'_>,
    ) {
        let plan = self.inputs.plan;
        let size = plan.sizes.head_dim * plan.sizes.states;
        let at = (chunk.index * plan.sizes.heads + head) * size;
        let mut through = 0.0;
        let (a, b) = (&self.entering[at..at + size], &self.leaving[at..at + size]);
        launch(plan.setting.isa, Product { a, b, out: &mut through });
        let mut sum = exp(self.gates.sums(chunk, head)[CHUNK - 1]) * through;
        for t in 0..chunk.rows {
            sinks.log[head][t] += sum;
            sinks.delta[head][t] += decays[t] * dots[t];
            sum += factors[t] * dots[t];
        }
    }

    /// What tokens of the chunk bring each other, one head.
    fn head(&self, chunk: Chunk, group: usize, h: usize, scratch: &mut Scratch, sinks: &mut Sinks<'_>) {
        let plan = self.inputs.plan;
        let (isa, size) = (plan.setting.isa, plan.sizes.head_dim);
        let head = group * plan.group_heads().len() + h;
        let columns = h * size..(h + 1) * size;
        let x = self.inputs.x(chunk, group).columns(columns.clone());
        let dy = self.dy(chunk, group).columns(columns);
        let out = ViewMut::with_stride(scratch.dmix.as_flattened_mut(), chunk.rows, chunk.rows, CHUNK);
        product_serial(isa, Precision::F32, x, dy.t(), Store::Set, out);
        let (sums, delta) = (self.gates.sums(chunk, head), self.gates.delta(chunk, head));
        let unmix = Unmix {
            decays: Decays { sums, delta, rows: chunk.rows },
            scores: &scratch.scores,
            dmix: &scratch.dmix,
            mix: &mut scratch.mix,
            dscores: &mut scratch.dscores,
            ddelta: &mut sinks.delta[head],
            dlog: &mut sinks.log[head],
        };
        launch(isa, unmix);
        let stride = plan.sizes.convolved();
        let factors: Tokens = std::array::from_fn(|j| delta[j] * exp(sums[CHUNK - 1] - sums[j]));
        let factors = (chunk.place + 1 < plan.chunks()).then_some(&factors);
        let dx = &mut sinks.dxbc[head * size..];
        launch(isa, Start { x: dy, skip: self.inputs.skip[head], factors, y: dx, stride });
        let dx = ViewMut::with_stride(dx, chunk.rows, size, stride);
        product_serial(isa, Precision::F32, square(&scratch.mix, chunk), dy, Store::Add, dx);
    }
}

/// Columns of `[x | B | C]`.
#[derive(Clone, Copy)]
enum Part {
    X,
    B,
    C,
}

impl Sinks<'_> {
    /// The columns of a group.
    fn columns(&mut self, plan: Plan, chunk: Chunk, part: Part, group: usize) -> ViewMut<'_> {
        let (inner, states) = (plan.sizes.inner(), plan.sizes.states);
        let (first, width) = match part {
            Part::X => (group * plan.group_width(), plan.group_width()),
            Part::B => (inner + group * states, states),
            Part::C => (inner + (plan.sizes.groups + group) * states, states),
        };
        ViewMut::with_stride(&mut self.dxbc[first..], chunk.rows, width, plan.sizes.convolved())
    }
}

fn zero(view: ViewMut<'_>) {
    view.data.chunks_mut(view.row_stride).take(view.rows).for_each(|row| row[..view.columns].fill(0.0));
}

impl Gradients {
    pub(super) fn new(plan: Plan, back: &mut Back<'_, '_>) -> Self {
        let [delta, log, skip] = [0; 3].map(|_| back.buffer(plan.gates_len()));
        Self { plan, delta, log, skip }
    }

    /// From the gradients of Δ and `Δ A` to those of δ, and of `A_log` before the sum over tokens.
    pub(super) fn settle(&mut self, gates: &Gates<'_>) {
        let (plan, len) = (self.plan, self.plan.sizes.heads * CHUNK);
        let parts = self.delta.par_chunks_mut(len).zip(self.log.par_chunks_mut(len));
        parts.enumerate().for_each(|(index, (delta, log))| {
            let chunk = plan.chunk(index);
            let heads = delta.as_chunks_mut::<CHUNK>().0.iter_mut().zip(log.as_chunks_mut::<CHUNK>().0);
            for (head, (delta, log)) in heads.enumerate() {
                let rate = gates.rates[head];
                for t in 0..chunk.rows {
                    delta[t] = log[t].mul_add(rate, delta[t]) * gates.slope(chunk.first + t, head);
                    log[t] *= rate * gates.delta(chunk, head)[t];
                }
            }
        });
    }

    /// Passes them on to the steps and to the tensors.
    pub(super) fn finish(&self, back: &mut Back<'_, '_>, layer: Ssd) {
        let (steps, heads, chunks) = (self.plan.setting.steps, self.plan.sizes.heads, self.plan.chunks());
        layer.step.add_gradient(back, |row, out| {
            let (chunk, t) = (row / steps * chunks + row % steps / CHUNK, row % steps % CHUNK);
            for (head, out) in out.iter_mut().enumerate() {
                *out = self.delta[(chunk * heads + head) * CHUNK + t];
            }
        });
        self.sum(back, layer.step_bias, &self.delta);
        self.sum(back, layer.log_rates, &self.log);
        self.sum(back, layer.skip, &self.skip);
    }

    /// A tensor's gradient, one number a head: the sum over all tokens, in their order.
    fn sum(&self, back: &mut Back<'_, '_>, tensor: Parameter, each: &[f32]) {
        let (store, mut gradient) = back.open_parameter(tensor);
        for (head, out) in gradient.iter_mut().enumerate() {
            let of_head = each.as_chunks::<CHUNK>().0.iter().skip(head).step_by(self.plan.sizes.heads);
            let sums = of_head.map(|tokens| tokens.iter().sum::<f32>());
            let sum: f32 = sums.sum();
            *out = if store == Store::Add { *out + sum } else { sum };
        }
        back.close_parameter(tensor, gradient);
    }

    pub(super) fn into_room(self) -> [Vec<f32>; 3] {
        [self.delta, self.log, self.skip]
    }
}
