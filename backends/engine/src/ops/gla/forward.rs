//! Chunk by chunk through a sequence, for one head (architectures.md 1.5).

use bheval_kernels::{Isa, launch};

use super::chunk::{CHUNK, Decay, Head, Load, Rows, Scores};
use super::room::Carver;
use super::tiles::{Product, Start};

/// Chunks between two states that the way back begins from: it makes those in between again.
pub(super) const SEGMENT: usize = 16;

/// A chunk's rows and what its decays make of them, `[CHUNK, padded]` each.
pub(super) struct Chunk<'a> {
    pub(super) q: &'a mut [f32],
    pub(super) k: &'a mut [f32],
    pub(super) f: &'a mut [f32],
    pub(super) v: &'a mut [f32],
    pub(super) entry: &'a mut [f32],
    pub(super) exit: &'a mut [f32],
    pub(super) q_entry: &'a mut [f32],
    pub(super) k_exit: &'a mut [f32],
}

impl<'a> Chunk<'a> {
    /// Values that a chunk takes.
    pub(super) fn len(padded: usize) -> usize {
        8 * CHUNK * padded
    }

    pub(super) fn new(room: &mut Carver<'a>, padded: usize) -> Self {
        let mut rows = || room.take(CHUNK * padded);
        Self {
            q: rows(),
            k: rows(),
            f: rows(),
            v: rows(),
            entry: rows(),
            exit: rows(),
            q_entry: rows(),
            k_exit: rows(),
        }
    }

    /// Reads the chunk that begins at step `begin`.
    pub(super) fn load(&mut self, isa: Isa, head: Head<'_>, begin: usize) {
        let Self { q, k, f, v, entry, exit, q_entry, k_exit } = self;
        launch(isa, Load { head, begin, rows: Rows { q, k, f, v } });
        launch(isa, Decay { q, k, f, entry, exit, q_entry, k_exit });
    }

    /// `exp(G_C)`, the whole chunk's decay, `[padded]`.
    pub(super) fn whole(&self) -> &[f32] {
        &self.entry[self.entry.len() / CHUNK * (CHUNK - 1)..]
    }
}

/// Values that [`forward`] takes beside the state.
pub(super) fn room(padded: usize) -> usize {
    Chunk::len(padded) + CHUNK * CHUNK + CHUNK * padded
}

/// One head through one sequence: `state [padded, padded]` from the first step's to the last one's, keys by values, and
/// `out[step] = o`, `[dim]` each. `keep(segment, state)` sees the state that enters each segment but the first.
pub(super) fn forward(
    isa: Isa,
    head: Head<'_>,
    mut room: Carver<'_>,
    state: &mut [f32],
    out: &mut [&mut [f32]],
    mut keep: impl FnMut(usize, &[f32]),
) {
    let size = head.padded();
    let mut chunk = Chunk::new(&mut room, size);
    let (a, o) = (room.take(CHUNK * CHUNK), room.take(CHUNK * size));
    for (index, out) in out.chunks_mut(CHUNK).enumerate() {
        if index > 0 && index % SEGMENT == 0 {
            keep(index / SEGMENT, state);
        }
        chunk.load(isa, head, index * CHUNK);
        launch(isa, Scores { q: chunk.q, k: chunk.k, f: chunk.f, a });
        let Chunk { q_entry, k_exit, v, .. } = &chunk;
        let entered =
            Product { a: q_entry, transposed: false, b: state, inner: size, start: Start::Zero, c: o };
        launch(isa, entered);
        launch(isa, Product { a, transposed: true, b: v, inner: CHUNK, start: Start::Sum, c: o });
        let start = Start::ScaledRows(chunk.whole());
        launch(isa, Product { a: k_exit, transposed: true, b: v, inner: CHUNK, start, c: state });
        out.iter_mut().zip(o.chunks_exact(size)).for_each(|(out, o)| out.copy_from_slice(&o[..head.dim]));
    }
}
