//! How sequences fall into chunks, and the decays inside them.

use bheval_candle::models::mamba2::Sizes;
use bheval_kernels::cells::softplus;
use bheval_kernels::elementwise::sigmoids;
use bheval_kernels::product::View;
use rayon::prelude::*;

use super::{CHUNK, Ssd};
use crate::ops::selection::Rows;
use crate::parameters::Parameter;
use crate::tape::{Setting, Value};

/// Sizes of a pass.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) sizes: Sizes,
    pub(super) setting: Setting,
}

/// One chunk of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Its place among all.
    pub(super) index: usize,
    /// Its place in its sequence.
    pub(super) place: usize,
    /// Its first row.
    pub(super) first: usize,
    pub(super) rows: usize,
}

impl Plan {
    /// Chunks of a sequence.
    pub(super) fn chunks(&self) -> usize {
        self.setting.steps.div_ceil(CHUNK)
    }

    /// A chunk by its place among all.
    pub(super) fn chunk(&self, index: usize) -> Chunk {
        let (sequence, place) = (index / self.chunks(), index % self.chunks());
        let rows = CHUNK.min(self.setting.steps - place * CHUNK);
        Chunk { index, place, first: sequence * self.setting.steps + place * CHUNK, rows }
    }

    /// Values of one state of all heads, `[heads, P, N]`.
    pub(super) fn state_len(&self) -> usize {
        self.sizes.inner() * self.sizes.states
    }

    /// Values of a state for each chunk.
    pub(super) fn states_len(&self) -> usize {
        self.setting.batch * self.chunks() * self.state_len()
    }

    /// Values of a number for each head and token, `[chunks, heads, CHUNK]`.
    pub(super) fn gates_len(&self) -> usize {
        self.setting.batch * self.chunks() * self.sizes.heads * CHUNK
    }

    /// Channels of a group.
    pub(super) fn group_width(&self) -> usize {
        self.sizes.inner() / self.sizes.groups
    }

    /// Heads of a group.
    pub(super) fn group_heads(&self) -> std::ops::Range<usize> {
        0..self.sizes.heads / self.sizes.groups
    }
}

/// What all chunks read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) plan: Plan,
    pub(super) xbc: &'a [f32],
    /// `D`
    pub(super) skip: &'a [f32],
}

impl<'a> Inputs<'a> {
    fn columns(&self, chunk: Chunk, first: usize, width: usize) -> View<'a> {
        let stride = self.plan.sizes.convolved();
        View::with_stride(&self.xbc[chunk.first * stride + first..], chunk.rows, width, stride)
    }

    /// `x` of a group's heads.
    pub(super) fn x(&self, chunk: Chunk, group: usize) -> View<'a> {
        let width = self.plan.group_width();
        self.columns(chunk, group * width, width)
    }

    /// `B` of a group.
    pub(super) fn b(&self, chunk: Chunk, group: usize) -> View<'a> {
        let Sizes { states, .. } = self.plan.sizes;
        self.columns(chunk, self.plan.sizes.inner() + group * states, states)
    }

    /// `C` of a group.
    pub(super) fn c(&self, chunk: Chunk, group: usize) -> View<'a> {
        let Sizes { states, groups, .. } = self.plan.sizes;
        self.columns(chunk, self.plan.sizes.inner() + (groups + group) * states, states)
    }
}

/// Δ and the sums of `Δ A` for each head of each chunk. Beyond the last token Δ is 0 and the sum stays.
pub(super) struct Gates<'a> {
    plan: Plan,
    /// `[chunks, heads, CHUNK]`
    delta: Vec<f32>,
    /// `[chunks, heads, CHUNK]`
    sums: Vec<f32>,
    /// `A`
    pub(super) rates: Vec<f32>,
    raw: Rows<'a>,
    bias: &'a [f32],
}

impl<'a> Gates<'a> {
    pub(super) fn new(
        plan: Plan,
        layer: Ssd,
        room: [Vec<f32>; 2],
        value: impl Fn(Value) -> &'a [f32],
        parameter: impl Fn(Parameter) -> &'a [f32],
    ) -> Self {
        let rates = parameter(layer.log_rates).iter().map(|&log| -f64::from(log).exp() as f32).collect();
        let raw = layer.step.of(value(layer.step.value), plan.setting.rows());
        let [delta, sums] = room;
        let mut gates = Self { plan, delta, sums, rates, raw, bias: parameter(layer.step_bias) };
        gates.fill();
        gates
    }

    fn fill(&mut self) {
        let (plan, raw, bias, rates) = (self.plan, self.raw, self.bias, &self.rates);
        let len = plan.sizes.heads * CHUNK;
        let (low, high) = plan.sizes.limit;
        let parts = self.delta.par_chunks_mut(len).zip(self.sums.par_chunks_mut(len));
        parts.enumerate().for_each(|(index, (delta, sums))| {
            let chunk = plan.chunk(index);
            let heads = delta.as_chunks_mut::<CHUNK>().0.iter_mut().zip(sums.as_chunks_mut::<CHUNK>().0);
            for (head, (delta, sums)) in heads.enumerate() {
                let mut sum = 0.0;
                for t in 0..CHUNK {
                    delta[t] = match t < chunk.rows {
                        true => clamp(softplus(raw.row(chunk.first + t)[head] + bias[head]), low, high),
                        false => 0.0,
                    };
                    sum += delta[t] * rates[head];
                    sums[t] = sum;
                }
            }
        });
    }

    /// Δ of a head.
    pub(super) fn delta(&self, chunk: Chunk, head: usize) -> &[f32; CHUNK] {
        &self.delta.as_chunks().0[chunk.index * self.plan.sizes.heads + head]
    }

    /// `s` of a head.
    pub(super) fn sums(&self, chunk: Chunk, head: usize) -> &[f32; CHUNK] {
        &self.sums.as_chunks().0[chunk.index * self.plan.sizes.heads + head]
    }

    /// `∂Δ/∂δ`: 0 where Δ was clamped, as PyTorch has it.
    pub(super) fn slope(&self, row: usize, head: usize) -> f32 {
        let raw = self.raw.row(row)[head] + self.bias[head];
        let (delta, (low, high)) = (softplus(raw), self.plan.sizes.limit);
        if (low..=high).contains(&delta) { sigmoids(raw).0 } else { 0.0 }
    }

    /// The buffers, to be used again.
    pub(super) fn into_room(self) -> [Vec<f32>; 2] {
        [self.delta, self.sums]
    }
}

/// By comparisons that NaN passes.
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}
