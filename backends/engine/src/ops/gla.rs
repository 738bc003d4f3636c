//! Gated linear attention as HGRN2 has it (architectures.md 1.2 to 1.8): gates, recurrence and way back in one operation.
//!
//! ```text
//! q = silu(u)   f = β + (1 - β) σ(z)   k = (1 - β) σ(-z)   v = i
//! S_t = diag(f_t) S_{t-1} + k_t ⊗ v_t        o_t = (K^{-1/2} q_t)ᵀ S_t
//! ```
//! Everything is f32 whatever the precision of large products is, and a head of a sequence is one task, so that no sum
//! depends on the number of threads. What the way back needs, it makes again from the input: of states it keeps one in
//! `forward::SEGMENT` chunks.

mod backward;
mod chain;
mod chunk;
mod forward;
mod heads;
mod room;
#[cfg(test)]
mod tests;
mod tiles;

use bheval_kernels::gemm::Store;
use bheval_kernels::launch;
use rayon::prelude::*;

use self::backward::{Outs, backward};
use self::chunk::{CHUNK, Head, padded};
use self::forward::{SEGMENT, forward};
use self::heads::{blocks, thirds};
use self::room::Rooms;
use self::tiles::Transpose;
use crate::ops::lower_bounds::Bound;
use crate::tape::{Back, Operation, Setting, Tape, Value};

/// `o [rows, D]` from `x = [u | z | i]`, `[rows, 3D]`, every sequence from an empty state, in `heads` heads that lie side by
/// side in each part.
///
/// # Panics
/// If the columns do not divide so.
pub fn gla(tape: &mut Tape<'_>, x: Value, heads: usize, bound: &Bound) -> Value {
    let (setting, sizes) = (tape.setting, Sizes::new(tape.width(x), heads));
    assert_eq!(bound.values().bound.len(), sizes.width, "the bound has not the width of the gates");
    let square = sizes.padded() * sizes.padded();
    let mut y = tape.output(sizes.width);
    let rooms = Rooms::new(square + forward::room(sizes.padded()), |len| tape.buffer(len));
    let each = if tape.recording() { kept_states(setting.steps) * square } else { 0 };
    let mut kept = if each > 0 { tape.buffer(setting.batch * heads * each) } else { vec![] };
    let mut states: Vec<&mut [f32]> = match each {
        0 => (0..setting.batch * heads).map(|_| Default::default()).collect(),
        _ => kept.chunks_exact_mut(each).collect(),
    };
    let data = tape.get(x);
    let tasks = blocks(&mut y, setting.steps, sizes.width, sizes.dim).into_par_iter().zip(&mut states);
    tasks.enumerate().for_each(|(place, (mut out, states))| {
        rooms.with(|mut room| {
            let state = room.take(square);
            state.fill(0.0);
            let head = sizes.head(setting, data, bound, place);
            forward(setting.isa, head, room, state, &mut out, |segment, state| {
                if let Some(kept) = states.chunks_exact_mut(square).nth(segment - 1) {
                    kept.copy_from_slice(state);
                }
            });
        });
    });
    rooms.into_buffers().for_each(|room| tape.recycle(room));
    let bound = bound.clone();
    tape.push(y, |y| Record { x, y, sizes, bound, kept })
}

/// States of a head that are kept: those that enter a segment, but for the first, which is empty.
fn kept_states(steps: usize) -> usize {
    steps.div_ceil(CHUNK * SEGMENT) - 1
}

/// Channels, of all heads and of one.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    dim: usize,
}

impl Sizes {
    fn new(columns: usize, heads: usize) -> Self {
        assert!(columns.is_multiple_of(3 * heads), "[u | z | i] does not divide into {heads} heads");
        Self { width: columns / 3, dim: columns / 3 / heads }
    }

    fn heads(self) -> usize {
        self.width / self.dim
    }

    fn padded(self) -> usize {
        padded(self.dim)
    }

    /// What head `place` of all sequences' heads reads.
    fn head<'a>(self, setting: Setting, x: &'a [f32], bound: &'a Bound, place: usize) -> Head<'a> {
        let (sequence, first) = (place / self.heads(), place % self.heads() * self.dim);
        let rows = setting.steps * 3 * self.width;
        let channels = first..first + self.dim;
        Head {
            x: &x[sequence * rows..][..rows],
            width: self.width,
            first,
            dim: self.dim,
            bound: &bound.values().bound[channels.clone()],
            complement: &bound.values().complement[channels],
        }
    }
}

struct Record {
    x: Value,
    y: Value,
    sizes: Sizes,
    bound: Bound,
    /// States that enter segments, `[sequence, head, segment, padded, padded]`.
    kept: Vec<f32>,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (setting, sizes) = (back.setting(), self.sizes);
        let square = sizes.padded() * sizes.padded();
        let (store, mut dx) = back.open(self.x);
        let rooms =
            Rooms::new(square + backward::room(sizes.padded(), setting.steps), |len| back.buffer(len));
        let mut d_bound = back.buffer(setting.batch * sizes.width);
        d_bound.fill(0.0);
        let data = back.get(self.x);
        let tasks = thirds(blocks(&mut dx, setting.steps, 3 * sizes.width, sizes.dim), sizes.heads());
        tasks.into_par_iter().zip(d_bound.par_chunks_exact_mut(sizes.dim)).enumerate().for_each(
            |(place, ([mut u, mut z, mut v], bound))| {
                rooms.with(|mut room| {
                    let d_state = room.take(square);
                    d_state.fill(0.0);
                    let head = sizes.head(setting, data, &self.bound, place);
                    let first = place / sizes.heads() * setting.steps;
                    let d_o = |step: usize| &dy[(first + step) * sizes.width + head.first..][..sizes.dim];
                    let add = store == Store::Add;
                    let mut outs = Outs { u: &mut u, z: &mut z, v: &mut v, bound, add };
                    let entry = |segment: usize, out: &mut [f32]| self.entry(setting, place, segment, out);
                    backward(setting.isa, head, room, d_o, d_state, entry, &mut outs);
                });
            },
        );
        back.close(self.x, dx);
        self.bound.add_gradient(d_bound.chunks_exact(sizes.width));
        rooms.into_buffers().chain([d_bound, dy, self.kept]).for_each(|buffer| back.recycle(buffer));
    }
}

impl Record {
    /// Writes the state, transposed, that enters a segment of head `place`.
    fn entry(&self, setting: Setting, place: usize, segment: usize, out: &mut [f32]) {
        if segment == 0 {
            return out.fill(0.0);
        }
        let at = (place * kept_states(setting.steps) + segment - 1) * out.len();
        let x = &self.kept[at..][..out.len()];
        launch(setting.isa, Transpose { x, columns: self.sizes.padded(), y: out });
    }
}
