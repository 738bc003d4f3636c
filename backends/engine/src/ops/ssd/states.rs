//! The states between chunks, and their gradients: what each chunk adds, and then the sums with their decays.

use bheval_kernels::elementwise::exp;
use bheval_kernels::gemm::Store;
use bheval_kernels::product::{Precision, View, ViewMut, product_serial};
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use super::CHUNK;
use super::chunk::{Chunk, Gates, Inputs, Plan};
use super::kernels::{Scale, Tokens};
use crate::ops::blocks::column_blocks;

/// The state that enters each chunk, `[chunks, heads, P, N]`.
pub(super) fn entering(inputs: Inputs<'_>, gates: &Gates<'_>, out: &mut [f32]) {
    let plan = inputs.plan;
    let each = out.par_chunks_mut(plan.state_len()).enumerate();
    each.for_each_init(Vec::new, |room, (index, out)| {
        if plan.chunk(index).place == 0 {
            return out.fill(0.0);
        }
        let before = plan.chunk(index - 1);
        for group in 0..plan.sizes.groups {
            let factors = group_factors(plan, group, |head| {
                let (delta, sums) = (gates.delta(before, head), gates.sums(before, head));
                std::array::from_fn(|j| delta[j] * exp(sums[CHUNK - 1] - sums[j]))
            });
            let (x, b) = (inputs.x(before, group), inputs.b(before, group));
            outer(plan, group, x, &factors, b, room, out);
        }
    });
    carry(plan, out, |heads| {
        for place in 1..heads.len() {
            let [before, here] = neighbours(heads, place - 1);
            add(plan, gates, before, here);
        }
    });
}

/// The gradient of the state that leaves each chunk, from those of later outputs.
pub(super) fn leaving(inputs: Inputs<'_>, gates: &Gates<'_>, dy: &[f32], out: &mut [f32]) {
    let (plan, inner) = (inputs.plan, inputs.plan.sizes.inner());
    let each = out.par_chunks_mut(plan.state_len()).enumerate();
    each.for_each_init(Vec::new, |room, (index, out)| {
        if plan.chunk(index).place + 1 == plan.chunks() {
            return out.fill(0.0);
        }
        let after = plan.chunk(index + 1);
        for group in 0..plan.sizes.groups {
            let factors = group_factors(plan, group, |head| gates.sums(after, head).map(exp));
            let columns = &dy[after.first * inner + group * plan.group_width()..];
            let dy = View::with_stride(columns, after.rows, plan.group_width(), inner);
            outer(plan, group, dy, &factors, inputs.c(after, group), room, out);
        }
    });
    carry(plan, out, |heads| {
        for place in (1..heads.len()).rev() {
            let [here, after] = neighbours(heads, place - 1);
            add(plan, gates, after, here);
        }
    });
}

/// One head's state at one chunk.
type Head<'a> = (Chunk, usize, &'a mut [f32]);

/// Two neighbours.
fn neighbours<'s, 'a>(heads: &'s mut [Head<'a>], first: usize) -> [&'s mut Head<'a>; 2] {
    let [a, b] = &mut heads[first..first + 2] else { unreachable!("a slice of two") };
    [a, b]
}

/// `to += from · exp(s)`, with the decay over the whole chunk of `from`.
fn add(plan: Plan, gates: &Gates<'_>, from: &mut Head<'_>, to: &mut Head<'_>) {
    let decay = exp(gates.sums(from.0, from.1)[CHUNK - 1]);
    launch(plan.setting.isa, AddScaled { x: from.2, factor: decay, sum: to.2 });
}

struct AddScaled<'a> {
    x: &'a [f32],
    factor: f32,
    sum: &'a mut [f32],
}

impl Kernel for AddScaled<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        self.sum.iter_mut().zip(self.x).for_each(|(sum, x)| *sum = self.factor.mul_add(*x, *sum));
    }
}

/// Runs `work` on the states of each head and sequence, in the order of the chunks.
fn carry(plan: Plan, states: &mut [f32], work: impl Fn(&mut [Head<'_>]) + Sync) {
    let size = plan.sizes.head_dim * plan.sizes.states;
    let bounds: Vec<usize> = (0..=plan.sizes.heads).map(|head| head * size).collect();
    let blocks = column_blocks(states.chunks_exact_mut(plan.state_len()), &bounds);
    blocks.into_par_iter().enumerate().for_each(|(head, rows)| {
        let all = rows.into_iter().enumerate();
        let mut heads: Vec<Head<'_>> = all.map(|(index, state)| (plan.chunk(index), head, state)).collect();
        heads.par_chunks_mut(plan.chunks()).for_each(&work);
    });
}

/// Factors of each head of a group.
pub(super) fn group_factors(plan: Plan, group: usize, of: impl Fn(usize) -> Tokens) -> Vec<Tokens> {
    plan.group_heads().map(|h| of(group * plan.group_heads().len() + h)).collect()
}

/// The group's part of `out = (factors ⊙ x)ᵀ w`.
fn outer(
    plan: Plan,
    group: usize,
    x: View<'_>,
    factors: &[Tokens],
    w: View<'_>,
    room: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (isa, width, states) = (plan.setting.isa, plan.group_width(), plan.sizes.states);
    room.resize(x.rows * width, 0.0);
    launch(isa, Scale { x, factors, out: room });
    let out = &mut out[group * width * states..][..width * states];
    let c = ViewMut::new(out, width, states);
    product_serial(isa, Precision::F32, View::new(room, x.rows, width).t(), w, Store::Set, c);
}
