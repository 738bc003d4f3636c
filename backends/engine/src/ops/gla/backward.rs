//! Chunk by chunk back through a sequence, for one head (architectures.md 1.7).
//!
//! States are made again, segment by segment, and lie transposed, values by keys: so every product reads its right operand
//! row by row.

use bheval_kernels::{Isa, launch};

use super::chain::{Gather, Gradients, Inputs, Out, Through};
use super::chunk::{CHUNK, Head, ScoreGradients, Scores, Within};
use super::forward::{Chunk, SEGMENT};
use super::room::Carver;
use super::tiles::{Product, Start, Transpose};

/// Values that [`backward`] takes beside the state's gradient, for sequences of `steps` tokens.
pub(super) fn room(padded: usize, steps: usize) -> usize {
    let chunks = SEGMENT.min(steps.div_ceil(CHUNK));
    Chunk::len(padded) + chunks * padded * padded + 2 * CHUNK * CHUNK + 9 * CHUNK * padded + padded
}

/// Where a sequence's gradients go: for each step `[dim]`; the bounds' are added to.
pub(super) struct Outs<'a, 'b> {
    pub(super) u: &'a mut [&'b mut [f32]],
    pub(super) z: &'a mut [&'b mut [f32]],
    pub(super) v: &'a mut [&'b mut [f32]],
    pub(super) bound: &'a mut [f32],
    /// Whether what the other three hold stays.
    pub(super) add: bool,
}

/// Room for what a chunk's way back makes, `[CHUNK, padded]` each but for the scores, `[CHUNK, CHUNK]`.
struct Work<'a> {
    a: &'a mut [f32],
    d_a: &'a mut [f32],
    d_o: &'a mut [f32],
    dq_entry: &'a mut [f32],
    dk_exit: &'a mut [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dg: &'a mut [f32],
    dv: &'a mut [f32],
    /// Transposed.
    k_exit: &'a mut [f32],
    /// Transposed.
    dv_exit: &'a mut [f32],
    /// `[padded]`
    through: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn new(room: &mut Carver<'a>, padded: usize) -> Self {
        let mut rows = |len: usize| room.take(CHUNK * len);
        Self {
            a: rows(CHUNK),
            d_a: rows(CHUNK),
            d_o: rows(padded),
            dq_entry: rows(padded),
            dk_exit: rows(padded),
            dq: rows(padded),
            dk: rows(padded),
            dg: rows(padded),
            dv: rows(padded),
            k_exit: rows(padded),
            dv_exit: rows(padded),
            through: room.take(padded),
        }
    }
}

/// One head back through one sequence. `d_o(step)` is the gradient of its output; `d_state`, transposed, goes from the
/// gradient of the state after the last step to that of the state before the first; `entry(segment, state)` writes the
/// state, transposed, that enters a segment.
pub(super) fn backward<'o>(
    isa: Isa,
    head: Head<'_>,
    mut room: Carver<'_>,
    d_o: impl Fn(usize) -> &'o [f32],
    d_state: &mut [f32],
    entry: impl Fn(usize, &mut [f32]),
    outs: &mut Outs<'_, '_>,
) {
    let (size, chunks) = (head.padded(), head.steps().div_ceil(CHUNK));
    let mut chunk = Chunk::new(&mut room, size);
    let mut work = Work::new(&mut room, size);
    let states = room.take(SEGMENT.min(chunks) * size * size);
    for segment in (0..chunks.div_ceil(SEGMENT)).rev() {
        let first = segment * SEGMENT;
        let here = SEGMENT.min(chunks - first);
        entry(segment, &mut states[..size * size]);
        for index in 1..here {
            chunk.load(isa, head, (first + index - 1) * CHUNK);
            let (before, after) = states.split_at_mut(index * size * size);
            let (before, state) = (&before[(index - 1) * size * size..], &mut after[..size * size]);
            let start = Start::ScaledFrom(before, chunk.whole());
            let Chunk { k_exit, v, .. } = &chunk;
            launch(isa, Product { a: v, transposed: true, b: k_exit, inner: CHUNK, start, c: state });
        }
        for index in (0..here).rev() {
            let begin = (first + index) * CHUNK;
            chunk.load(isa, head, begin);
            let steps = begin..head.steps().min(begin + CHUNK);
            work.d_o.fill(0.0);
            for (row, step) in work.d_o.chunks_exact_mut(size).zip(steps.clone()) {
                row[..head.dim].copy_from_slice(d_o(step));
            }
            work.run(isa, &chunk, &states[index * size * size..][..size * size], d_state);
            for step in steps {
                work.put(isa, head, &chunk, step, outs);
            }
        }
    }
}

impl Work<'_> {
    /// The gradients of a chunk's rows, and of the state that enters it in place of the one that leaves.
    fn run(&mut self, isa: Isa, chunk: &Chunk<'_>, state: &[f32], d_state: &mut [f32]) {
        let Self { a, d_a, d_o, dq_entry, dk_exit, dq, dk, dg, dv, k_exit, dv_exit, through } = self;
        let Chunk { q, k, f, v, entry, exit, .. } = chunk;
        let size = through.len();
        launch(isa, Scores { q, k, f, a });
        launch(isa, ScoreGradients { d_o, v, d_a });
        launch(isa, Within { q, k, f, d_a, dq, dk });
        let zero = Start::Zero;
        launch(isa, Product { a: d_o, transposed: false, b: state, inner: size, start: zero, c: dq_entry });
        launch(isa, Product { a: v, transposed: false, b: d_state, inner: size, start: zero, c: dk_exit });
        launch(isa, Transpose { x: chunk.k_exit, columns: size, y: k_exit });
        launch(
            isa,
            Product { a: d_state, transposed: false, b: k_exit, inner: size, start: zero, c: dv_exit },
        );
        launch(isa, Transpose { x: dv_exit, columns: CHUNK, y: dv });
        let start = Start::Sum;
        launch(isa, Product { a, transposed: false, b: d_o, inner: CHUNK, start, c: dv });
        launch(isa, Through { state, d_state, out: through });
        launch(isa, Gather { q, k, entry, exit, d_a, dq_entry, dk_exit, through, dq, dk, dg });
        let start = Start::Scaled(chunk.whole());
        let b = &*chunk.q_entry;
        launch(isa, Product { a: d_o, transposed: true, b, inner: CHUNK, start, c: d_state });
    }

    /// Writes one step's gradients.
    fn put(&self, isa: Isa, head: Head<'_>, chunk: &Chunk<'_>, step: usize, outs: &mut Outs<'_, '_>) {
        let gradients = Gradients { f: chunk.f, dq: self.dq, dk: self.dk, dg: self.dg, dv: self.dv };
        let out = Out { u: outs.u[step], z: outs.z[step], v: outs.v[step], bound: outs.bound };
        launch(isa, Inputs { head, step, gradients, add: outs.add, out });
    }
}
