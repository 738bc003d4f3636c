//! The outputs of each chunk, from its own tokens and from the state that enters it.

use bheval_kernels::elementwise::exp;
use bheval_kernels::gemm::Store;
use bheval_kernels::launch;
use bheval_kernels::product::{Precision, View, ViewMut, product_serial};

use super::chunk::{Chunk, Gates, Inputs};
use super::kernels::{Decays, Mix, Start, Tokens};
use super::{CHUNK, each_chunk};

/// Room of one thread.
pub(super) struct Scratch {
    pub(super) scores: Vec<Tokens>,
    pub(super) mix: Vec<Tokens>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { scores: vec![[0.0; CHUNK]; CHUNK], mix: vec![[0.0; CHUNK]; CHUNK] }
    }
}

/// `y`, `[rows, heads P]`.
pub(super) fn outputs(inputs: Inputs<'_>, gates: &Gates<'_>, states: &[f32], y: &mut [f32]) {
    let plan = inputs.plan;
    each_chunk(plan, y, plan.sizes.inner(), |scratch: &mut Scratch, chunk, y| {
        let state = &states[chunk.index * plan.state_len()..][..plan.state_len()];
        for group in 0..plan.sizes.groups {
            one_group(inputs, gates, state, chunk, group, scratch, y);
        }
    });
}

fn one_group(
    inputs: Inputs<'_>,
    gates: &Gates<'_>,
    state: &[f32],
    chunk: Chunk,
    group: usize,
    scratch: &mut Scratch,
    y: &mut [f32],
) {
    let plan = inputs.plan;
    let (isa, inner, width, head_dim) =
        (plan.setting.isa, plan.sizes.inner(), plan.group_width(), plan.sizes.head_dim);
    scores(inputs, chunk, group, &mut scratch.scores);
    if chunk.place > 0 {
        let y = ViewMut::with_stride(&mut y[group * width..], chunk.rows, width, inner);
        from_state(inputs, chunk, group, state, y);
    }
    for h in plan.group_heads() {
        let (head, x) = (
            group * plan.group_heads().len() + h,
            inputs.x(chunk, group).columns(h * head_dim..(h + 1) * head_dim),
        );
        let (sums, delta) = (gates.sums(chunk, head), gates.delta(chunk, head));
        let (skip, y) = (inputs.skip[head], &mut y[head * head_dim..]);
        let entered = sums.map(exp);
        let factors = (chunk.place > 0).then_some(&entered);
        launch(isa, Start { x, skip, factors, y, stride: inner });
        let decays = Decays { sums, delta, rows: chunk.rows };
        launch(isa, Mix { decays, scores: &scratch.scores, mix: &mut scratch.mix });
        let y = ViewMut::with_stride(y, chunk.rows, head_dim, inner);
        product_serial(isa, Precision::F32, square(&scratch.mix, chunk).t(), x, Store::Add, y);
    }
}

/// The chunk's part of a matrix over pairs of tokens.
pub(super) fn square(matrix: &[Tokens], chunk: Chunk) -> View<'_> {
    View::with_stride(matrix.as_flattened(), chunk.rows, chunk.rows, CHUNK)
}

/// `scores[j][i] = B_j · C_i`
pub(super) fn scores(inputs: Inputs<'_>, chunk: Chunk, group: usize, scores: &mut [Tokens]) {
    let (b, c) = (inputs.b(chunk, group), inputs.c(chunk, group));
    let out = ViewMut::with_stride(scores.as_flattened_mut(), chunk.rows, chunk.rows, CHUNK);
    product_serial(inputs.plan.setting.isa, Precision::F32, b, c.t(), Store::Set, out);
}

/// `out[i, h p] = C_i · H[h p]`, what the state alone would give.
pub(super) fn from_state(inputs: Inputs<'_>, chunk: Chunk, group: usize, state: &[f32], out: ViewMut<'_>) {
    let h = group_state(inputs, group, state);
    let c = inputs.c(chunk, group);
    product_serial(inputs.plan.setting.isa, Precision::F32, c, h.t(), Store::Set, out);
}

/// A group's part of a state, `[heads P, N]`.
pub(super) fn group_state<'a>(inputs: Inputs<'_>, group: usize, state: &'a [f32]) -> View<'a> {
    let (width, states) = (inputs.plan.group_width(), inputs.plan.sizes.states);
    View::new(&state[group * width * states..][..width * states], width, states)
}
