//! Mamba-2's recurrence (architectures.md 6), for each head of `P` channels, whose decay is one number a token:
//!
//! ```text
//! Δ = clamp(softplus(δ + b));  H = exp(Δ A) H + (Δ x) ⊗ B;  y = H C + D x;  A = -exp(A_log)
//! ```
//! In chunks of `CHUNK` tokens, with `s` the sum of `Δ A` from the chunk's beginning (Dao and Gu 2024, "Transformers are
//! SSMs", section 6): what a chunk's own tokens bring is a product with `M_ij = (C_i · B_j) exp(s_i - s_j) Δ_j`, `j ≤ i`, what
//! the tokens before it bring one with the state that enters it. All exponents are differences and at most 0. Matrices over
//! all heads of a group are one product, since they share B and C. The way back computes the states again.

mod backward;
mod chunk;
mod forward;
mod kernels;
mod states;

use bheval_candle::models::mamba2::Sizes;
use rayon::prelude::*;

use crate::ops::selection::Columns;
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};
use backward::Gradients;
use chunk::{Gates, Inputs, Plan};

/// Tokens of a chunk.
pub(crate) const CHUNK: usize = 64;

/// A recurrence over all heads.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ssd {
    /// `[x | B | C]`, `[rows, heads P + 2 groups N]`: B of all groups, then C of all.
    pub xbc: Value,
    /// `δ [rows, heads]`
    pub step: Columns,
    /// `b [heads]`
    pub step_bias: Parameter,
    /// `A_log [heads]`
    pub log_rates: Parameter,
    /// `D [heads]`
    pub skip: Parameter,
    /// Heads, channels, states, groups and the range of Δ.
    pub sizes: Sizes,
}

/// The outputs, `[rows, heads P]`.
///
/// # Panics
/// If `xbc` has not the columns that the sizes ask for.
pub fn ssd(tape: &mut Tape<'_>, layer: Ssd) -> Value {
    assert_eq!(tape.width(layer.xbc), layer.sizes.convolved(), "x, B and C have other sizes");
    let plan = Plan { sizes: layer.sizes, setting: tape.setting };
    let mut y = tape.output(layer.sizes.inner());
    let mut states = tape.buffer(plan.states_len());
    let room = [tape.buffer(plan.gates_len()), tape.buffer(plan.gates_len())];
    let gates = Gates::new(plan, layer, room, |v| tape.get(v), |p| tape.parameter(p));
    let inputs = Inputs { plan, xbc: tape.get(layer.xbc), skip: tape.parameter(layer.skip) };
    states::entering(inputs, &gates, &mut states);
    forward::outputs(inputs, &gates, &states, &mut y);
    gates.into_room().into_iter().chain([states]).for_each(|buffer| tape.recycle(buffer));
    tape.push(y, |y| Record { y, layer })
}

struct Record {
    y: Value,
    layer: Ssd,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let layer = self.layer;
        let plan = Plan { sizes: layer.sizes, setting: back.setting() };
        let [mut entering, mut leaving] = [0; 2].map(|_| back.buffer(plan.states_len()));
        let room = [0; 2].map(|_| back.buffer(plan.gates_len()));
        let mut dxbc = back.buffer(plan.setting.rows() * layer.sizes.convolved());
        let mut found = Gradients::new(plan, back);
        let gates = Gates::new(plan, layer, room, |v| back.get(v), |p| back.parameter(p));
        let inputs = Inputs { plan, xbc: back.get(layer.xbc), skip: back.parameter(layer.skip) };
        states::entering(inputs, &gates, &mut entering);
        states::leaving(inputs, &gates, &dy, &mut leaving);
        let task = backward::Task { inputs, gates: &gates, dy: &dy, entering: &entering, leaving: &leaving };
        task.run(&mut dxbc, &mut found);
        found.settle(&gates);
        let buffers = gates.into_room().into_iter().chain([entering, leaving, dy]);
        buffers.for_each(|buffer| back.recycle(buffer));
        back.pass(layer.xbc, dxbc);
        found.finish(back, layer);
        found.into_room().into_iter().for_each(|buffer| back.recycle(buffer));
    }
}

/// Runs `work` on each chunk's part of the rows of `data [rows, width]`, in parallel, with room of the thread's own.
fn each_chunk<S: Default>(
    plan: Plan,
    data: &mut [f32],
    width: usize,
    work: impl Fn(&mut S, chunk::Chunk, &mut [f32]) + Sync,
) {
    let sequences = data.chunks_mut(plan.setting.steps * width);
    let parts: Vec<&mut [f32]> = sequences.flat_map(|rows| rows.chunks_mut(CHUNK * width)).collect();
    parts
        .into_par_iter()
        .enumerate()
        .for_each_init(S::default, |room, (index, part)| work(room, plan.chunk(index), part));
}

#[cfg(test)]
mod tests;
