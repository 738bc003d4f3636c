//! Short causal convolutions, channel by channel: `y_t = act(b + Σ_j w_j ⊙ x_{t - taps + 1 + j})` within each sequence, what
//! lies before it counting as zero.
//!
//! HGRN2 convolves three projections side by side without bias (architectures.md 1.2); Mamba, Mamba-2 and xLSTM have a bias
//! and a SiLU (5 to 7).

use bheval_kernels::elementwise::sigmoids;
use bheval_kernels::gemm::Store;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::{sum_over_rows, task_rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// The tensors of neighbouring channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// `[channels, 1, taps]`, the tap of the token itself last.
    pub weight: Parameter,
    /// `[channels]`
    pub bias: Option<Parameter>,
}

/// A depthwise convolution.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Convolution {
    /// The tensors, in the order of the channels.
    pub parts: Vec<Part>,
    /// Tokens that an output sees, itself included.
    pub taps: usize,
    /// Column of the input that the first channel reads; the others follow.
    pub first: usize,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// The convolution of columns of `x`, `[rows, channels]`.
///
/// # Panics
/// If `x` has not the columns.
pub fn convolution(tape: &mut Tape<'_>, x: Value, layer: Convolution) -> Value {
    let tensors = Tensors::gather(&layer, |p| tape.parameter(p));
    assert!(layer.first + tensors.channels <= tape.width(x), "the input has too few columns");
    let mut y = tape.output(tensors.channels);
    let input = Input { x: tape.get(x), width: tape.width(x), first: layer.first, steps: tape.setting.steps };
    let (isa, rows) = (tape.setting.isa, task_rows(tensors.channels));
    y.par_chunks_mut(rows * tensors.channels).enumerate().for_each(|(task, y)| {
        launch(isa, Forward { input, tensors: &tensors, begin: task * rows, y });
        if layer.silu {
            launch(isa, Silu { x: y });
        }
    });
    tape.push(y, |y| Record { x, y, layer })
}

/// The tensors of all parts side by side.
struct Tensors {
    channels: usize,
    /// `[taps, channels]`
    weights: Vec<f32>,
    /// `[channels]`, 0 where there is no bias.
    bias: Vec<f32>,
}

impl Tensors {
    fn gather<'a>(layer: &Convolution, values: impl Fn(Parameter) -> &'a [f32]) -> Self {
        let taps = layer.taps;
        let rows = || layer.parts.iter().flat_map(|part| values(part.weight).chunks_exact(taps));
        let weights: Vec<f32> = (0..taps).flat_map(|j| rows().map(move |row| row[j])).collect();
        let bias = |part: &Part| match part.bias {
            Some(bias) => values(bias).to_vec(),
            None => vec![0.0; values(part.weight).len() / taps],
        };
        let bias: Vec<f32> = layer.parts.iter().flat_map(bias).collect();
        Self { channels: bias.len(), weights, bias }
    }
}

/// Columns of the input, and where its sequences begin.
#[derive(Clone, Copy)]
struct Input<'a> {
    x: &'a [f32],
    width: usize,
    first: usize,
    steps: usize,
}

impl<'a> Input<'a> {
    /// The channels of a row.
    #[inline(always)]
    fn row(self, row: usize, channels: usize) -> &'a [f32] {
        &self.x[row * self.width + self.first..][..channels]
    }
}

struct Forward<'a> {
    input: Input<'a>,
    tensors: &'a Tensors,
    /// Row of the first of `y`.
    begin: usize,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let channels = self.tensors.channels;
        for (row, y) in (self.begin..).zip(self.y.chunks_exact_mut(channels)) {
            y.copy_from_slice(&self.tensors.bias);
            // From the token itself back to the beginning of its sequence.
            let weights = self.tensors.weights.rchunks_exact(channels).take(row % self.input.steps + 1);
            for (back, w) in weights.enumerate() {
                let x = self.input.row(row - back, channels);
                y.iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y = x.mul_add(*w, *y));
            }
        }
    }
}

struct Silu<'a> {
    x: &'a mut [f32],
}

impl Kernel for Silu<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for x in self.x {
            *x *= sigmoids(*x).0;
        }
    }
}

struct Record {
    x: Value,
    y: Value,
    layer: Convolution,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(mut dy) = back.gradient(self.y) else { return };
        let tensors = Tensors::gather(&self.layer, |p| back.parameter(p));
        if self.layer.silu {
            self.through_silu(back, &tensors, &mut dy);
        }
        self.inputs(back, &tensors, &dy);
        self.parameters(back, &tensors, &dy);
        back.recycle(dy);
    }
}

impl Record {
    fn input<'a>(&self, back: &'a Back<'_, '_>) -> Input<'a> {
        let steps = back.setting().steps;
        Input { x: back.get(self.x), width: back.width(self.x), first: self.layer.first, steps }
    }

    /// `dp = dy silu'(p)`, where `p`, what SiLU was applied to, is computed again.
    fn through_silu(&self, back: &mut Back<'_, '_>, tensors: &Tensors, dy: &mut [f32]) {
        let mut p = back.buffer(dy.len());
        let (isa, input, rows) = (back.setting().isa, self.input(back), task_rows(tensors.channels));
        let task = rows * tensors.channels;
        p.par_chunks_mut(task).zip(dy.par_chunks_mut(task)).enumerate().for_each(|(task, (p, dy))| {
            launch(isa, Forward { input, tensors, begin: task * rows, y: p });
            launch(isa, ThroughSilu { p, dy });
        });
        back.recycle(p);
    }

    /// `dx_t = Σ_j w_j ⊙ dy_{t + taps - 1 - j}`. Columns that were not read have no gradient from here.
    fn inputs(&self, back: &mut Back<'_, '_>, tensors: &Tensors, dy: &[f32]) {
        let (isa, steps, width) = (back.setting().isa, back.setting().steps, back.width(self.x));
        let (store, mut dx) = back.open(self.x);
        let rows = task_rows(width);
        dx.par_chunks_mut(rows * width).enumerate().for_each(|(task, dx)| {
            let (begin, first) = (task * rows, self.layer.first);
            launch(isa, Inputs { tensors, dy, steps, begin, width, first, store, dx });
        });
        back.close(self.x, dx);
    }

    /// `dw_j = Σ_t dy_t ⊙ x_{t - taps + 1 + j}` and `db = Σ_t dy_t`.
    fn parameters(&self, back: &mut Back<'_, '_>, tensors: &Tensors, dy: &[f32]) {
        let (isa, channels, taps) = (back.setting().isa, tensors.channels, self.layer.taps);
        let mut sums = back.buffer((taps + 1) * channels);
        let input = self.input(back);
        sum_over_rows(Store::Set, back.setting().rows(), &mut sums, |row, sums| {
            let dy = &dy[row * channels..][..channels];
            launch(isa, Weights { input, row, dy, sums });
        });
        let mut begin = 0;
        for part in &self.layer.parts {
            let (store, mut dw) = back.open_parameter(part.weight);
            let own = begin..begin + dw.len() / taps;
            for (channel, dw) in own.clone().zip(dw.chunks_exact_mut(taps)) {
                dw.iter_mut().enumerate().for_each(|(j, dw)| put(store, dw, sums[j * channels + channel]));
            }
            back.close_parameter(part.weight, dw);
            if let Some(bias) = part.bias {
                let (store, mut db) = back.open_parameter(bias);
                let sums = &sums[taps * channels..][own.clone()];
                db.iter_mut().zip(sums).for_each(|(db, sum)| put(store, db, *sum));
                back.close_parameter(bias, db);
            }
            begin = own.end;
        }
        back.recycle(sums);
    }
}

fn put(store: Store, out: &mut f32, value: f32) {
    *out = if store == Store::Add { *out + value } else { value };
}

struct ThroughSilu<'a> {
    p: &'a [f32],
    dy: &'a mut [f32],
}

impl Kernel for ThroughSilu<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (dy, &p) in self.dy.iter_mut().zip(self.p) {
            let (open, closed) = sigmoids(p);
            *dy *= open * p.mul_add(closed, 1.0);
        }
    }
}

struct Inputs<'a> {
    tensors: &'a Tensors,
    dy: &'a [f32],
    steps: usize,
    /// Row of the first of `dx`.
    begin: usize,
    width: usize,
    first: usize,
    store: Store,
    dx: &'a mut [f32],
}

impl Kernel for Inputs<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let channels = self.tensors.channels;
        for (row, dx) in (self.begin..).zip(self.dx.chunks_exact_mut(self.width)) {
            if self.store == Store::Set {
                dx.fill(0.0);
            }
            let dx = &mut dx[self.first..][..channels];
            let left = self.steps - row % self.steps;
            for (ahead, w) in self.tensors.weights.rchunks_exact(channels).take(left).enumerate() {
                let dy = &self.dy[(row + ahead) * channels..][..channels];
                dx.iter_mut().zip(dy).zip(w).for_each(|((dx, dy), w)| *dx = dy.mul_add(*w, *dx));
            }
        }
    }
}

/// One row's part of the gradients of the weights `[taps, channels]` and of the bias `[channels]`.
struct Weights<'a> {
    input: Input<'a>,
    row: usize,
    dy: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Weights<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let channels = self.dy.len();
        let (weights, bias) = self.sums.split_at_mut(self.sums.len() - channels);
        bias.iter_mut().zip(self.dy).for_each(|(sum, dy)| *sum += dy);
        let weights = weights.rchunks_exact_mut(channels).take(self.row % self.input.steps + 1);
        for (back, sums) in weights.enumerate() {
            let x = self.input.row(self.row - back, channels);
            sums.iter_mut().zip(x).zip(self.dy).for_each(|((sum, x), dy)| *sum = x.mul_add(*dy, *sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, same_bits, setting};

    /// Columns of `x` that nothing reads, before and after.
    const BESIDE: usize = 2;

    /// The definition, over `weights [channels, taps]`.
    fn twin(silu: bool, steps: usize, x: &[f64], weights: &[f64], bias: &[f64]) -> Vec<f64> {
        let channels = bias.len();
        let (taps, width) = (weights.len() / channels, channels + 2 * BESIDE);
        let one = |n: usize| {
            let (row, c) = (n / channels, n % channels);
            let seen = (0..taps.min(row % steps + 1))
                .map(|back| weights[c * taps + taps - 1 - back] * x[(row - back) * width + BESIDE + c]);
            let p = bias[c] + seen.sum::<f64>();
            if silu { p / (1.0 + (-p).exp()) } else { p }
        };
        (0..x.len() / width * channels).map(one).collect()
    }

    #[test]
    fn output_and_gradients_are_the_definitions() {
        // Sequences shorter and longer than the taps; two tensors side by side, one of them without a bias.
        for (batch, steps, taps, silu) in
            [(2, 1, 4, false), (3, 3, 4, true), (2, 9, 4, true), (1, 5, 1, true)]
        {
            let (one, other) = (3, 4);
            let case = Case {
                setting: setting(batch, steps),
                inputs: &[normal(batch * steps * (one + other + 2 * BESIDE), 1.0, 1)],
                parameters: &[
                    normal(one * taps, 1.0, 2),
                    normal(other * taps, 1.0, 3),
                    normal(other, 1.0, 4),
                ],
                tolerance: 1e-6,
            };
            hold(
                &case,
                |tape, x, p| {
                    let parts =
                        vec![Part { weight: p[0], bias: None }, Part { weight: p[1], bias: Some(p[2]) }];
                    convolution(tape, x[0], Convolution { parts, taps, first: BESIDE, silu })
                },
                |x, p| {
                    let weights = [&p[0][..], &p[1]].concat();
                    twin(silu, steps, &x[0], &weights, &[&vec![0.0; one][..], &p[2]].concat())
                },
            );
        }
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let (batch, steps, channels, taps) = (3, 130, 96, 4);
        let case = Case {
            setting: setting(batch, steps),
            inputs: &[normal(batch * steps * channels, 1.0, 1)],
            parameters: &[normal(channels * taps, 1.0, 2), normal(channels, 1.0, 3)],
            tolerance: 0.0,
        };
        same_bits(&case, |tape, x, p| {
            let parts = vec![Part { weight: p[0], bias: Some(p[1]) }];
            convolution(tape, x[0], Convolution { parts, taps, first: 0, silu: true })
        });
    }
}
