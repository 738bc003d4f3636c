//! The cells of one head over one sequence: in parallel form inside a chunk, by their state from chunk to chunk.

use std::ops::Range;

use bheval_kernels::elementwise::lane_sum;
use bheval_kernels::gemm::Store;
use bheval_kernels::product::View;
use bheval_kernels::{Isa, Kernel, launch};

use super::gates::Gates;
use super::products::{dots, multiply, repeated, row};

/// Rows whose weights are taken at once.
pub(super) const TILE: usize = 64;
/// Steps of a chunk, at most, where there are several.
const LONGEST: usize = 256;

/// Steps of a chunk. A state costs `4 K V` operations a step, the parallel form `2 (K + V)` for each earlier step: short
/// sequences are one chunk. Else chunks are long enough that their states, one each, take less room than the activations.
pub(super) fn chunk_steps(steps: usize, keys: usize, values: usize) -> usize {
    let size = 2 * keys * values / (keys + values);
    if steps <= 2 * size + TILE { steps } else { (size / 2).next_multiple_of(TILE).clamp(TILE, LONGEST) }
}

/// One head over one sequence.
pub(super) struct Head<'a> {
    pub(super) isa: Isa,
    /// Steps of a chunk.
    pub(super) chunk: usize,
    pub(super) eps: f32,
    /// `[T, K]`
    pub(super) q: View<'a>,
    /// `[T, K]`
    pub(super) k: View<'a>,
    /// `[T, V]`
    pub(super) v: View<'a>,
    pub(super) gates: &'a Gates,
}

/// Room of one thread.
pub(super) struct Room<'a> {
    /// `[TILE, chunk]`
    pub(super) scores: &'a mut [f32],
    /// `[TILE, K]`
    pub(super) keys: &'a mut [f32],
    /// `[chunk]`
    pub(super) weights: &'a mut [f32],
}

impl<'a> Room<'a> {
    /// Numbers that it takes.
    pub(super) fn len(chunk: usize, keys: usize) -> usize {
        TILE * (chunk + keys) + chunk
    }

    /// Takes its part of `room`, and gives back the rest.
    pub(super) fn carve(room: &'a mut [f32], chunk: usize, keys: usize) -> (Self, &'a mut [f32]) {
        let (scores, rest) = room.split_at_mut(TILE * chunk);
        let (keys, rest) = rest.split_at_mut(TILE * keys);
        let (weights, rest) = rest.split_at_mut(chunk);
        (Self { scores, keys, weights }, rest)
    }
}

/// Cuts a range into tiles.
pub(super) fn tiles(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(TILE).map(move |first| first..(first + TILE).min(end))
}

impl Head<'_> {
    /// Numbers of a state: `C [K, V]`, then `n [K]`.
    pub(super) fn state_len(keys: usize, values: usize) -> usize {
        keys * (values + 1)
    }

    /// What products `q · k` are multiplied by: `1 / √K`.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.k.columns as f32).sqrt()
    }

    /// Writes `h [T, V]` and `n [T]`, what the normaliser is taken from; `state` is left as it is before the last chunk.
    pub(super) fn forward(&self, room: &mut Room<'_>, state: &mut [f32], h: &mut [f32], n: &mut [f32]) {
        let values = self.v.columns;
        for (start, end) in self.chunks() {
            for tile in tiles(start..end) {
                let h = &mut h[tile.start * values..tile.end * values];
                self.read(room, state, start, tile.clone(), h, &mut n[tile]);
            }
            if end < self.gates.len() {
                self.advance(room, start..end, state);
            }
        }
    }

    /// Where the chunks begin and end.
    pub(super) fn chunks(&self) -> impl DoubleEndedIterator<Item = (usize, usize)> {
        let (steps, chunk) = (self.gates.len(), self.chunk);
        (0..steps.div_ceil(chunk)).map(move |c| (c * chunk, ((c + 1) * chunk).min(steps)))
    }

    /// Output and normalisers of a tile in the chunk from `start` on.
    fn read(
        &self,
        room: &mut Room<'_>,
        state: &[f32],
        start: usize,
        tile: Range<usize>,
        h: &mut [f32],
        n: &mut [f32],
    ) {
        let (rows, columns) = (tile.len(), tile.end - start);
        let p = &mut room.scores[..rows * columns];
        multiply(self.isa, self.q.rows(tile.clone()), self.k.rows(start..tile.end).t(), Store::Set, p);
        let (gates, scale, w) = (self.gates, self.scale(), &mut *room.weights);
        launch(self.isa, Weigh { gates, scale, start, tile: tile.clone(), w, p, n });
        multiply(self.isa, View::new(p, rows, columns), self.v.rows(start..tile.end), Store::Set, h);
        if start > 0 {
            let (memory, normaliser) = state.split_at(self.k.columns * self.v.columns);
            let queries = self.scaled_queries(start, tile.clone(), room.keys);
            let queries = View::new(queries, rows, self.k.columns);
            let mut more = [0.0; TILE];
            dots(self.isa, queries, repeated(normaliser, rows), &mut more[..rows]);
            n.iter_mut().zip(more).for_each(|(n, more)| *n += more);
            let memory = View::new(memory, self.k.columns, self.v.columns);
            multiply(self.isa, queries, memory, Store::Add, h);
        }
        for ((t, h), n) in tile.zip(h.chunks_exact_mut(self.v.columns)).zip(n) {
            let factor = 1.0 / self.gates.denominator(t, *n, self.eps);
            h.iter_mut().for_each(|h| *h *= factor);
        }
    }

    /// The queries of a tile, times `1 / √K` and what is left of the state before the chunk.
    pub(super) fn scaled_queries<'r>(
        &self,
        start: usize,
        tile: Range<usize>,
        room: &'r mut [f32],
    ) -> &'r [f32] {
        let queries = &mut room[..tile.len() * self.k.columns];
        for (t, out) in tile.zip(queries.chunks_exact_mut(self.k.columns)) {
            let factor = self.scale() * self.gates.left(t, start);
            out.iter_mut().zip(row(&self.q, t)).for_each(|(out, q)| *out = factor * q);
        }
        queries
    }

    /// The keys of a tile, each with its weight at the end of the chunk.
    pub(super) fn weighted_keys<'r>(&self, tile: Range<usize>, end: usize, room: &'r mut [f32]) -> &'r [f32] {
        let keys = &mut room[..tile.len() * self.k.columns];
        for (j, out) in tile.zip(keys.chunks_exact_mut(self.k.columns)) {
            let weight = self.gates.gathered(j, end);
            out.iter_mut().zip(row(&self.k, j)).for_each(|(out, k)| *out = weight * k);
        }
        keys
    }

    /// Brings the state from before a chunk to its end.
    pub(super) fn advance(&self, room: &mut Room<'_>, chunk: Range<usize>, state: &mut [f32]) {
        if chunk.start == 0 {
            state.fill(0.0);
        } else {
            let left = self.gates.left(chunk.end - 1, chunk.start);
            state.iter_mut().for_each(|s| *s *= left);
        }
        let (memory, normaliser) = state.split_at_mut(self.k.columns * self.v.columns);
        for tile in tiles(chunk.clone()) {
            let keys = self.weighted_keys(tile.clone(), chunk.end, room.keys);
            for k in keys.chunks_exact(self.k.columns) {
                normaliser.iter_mut().zip(k).for_each(|(n, k)| *n += k);
            }
            let keys = View::new(keys, tile.len(), self.k.columns);
            multiply(self.isa, keys.t(), self.v.rows(tile), Store::Add, memory);
        }
    }
}

/// Turns products `q · k` of a tile's rows with the steps from `start` on into their weights in the output, and sums each
/// row.
struct Weigh<'a> {
    gates: &'a Gates,
    scale: f32,
    start: usize,
    tile: Range<usize>,
    w: &'a mut [f32],
    p: &'a mut [f32],
    n: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (first, columns) = (self.tile.start, self.tile.end - self.start);
        let before = first - self.start;
        for (w, j) in self.w.iter_mut().zip(self.start..first) {
            *w = self.gates.gathered(j, first);
        }
        for ((t, p), n) in self.tile.zip(self.p.chunks_exact_mut(columns)).zip(self.n) {
            let (early, near) = p.split_at_mut(before);
            let factor = self.scale * self.gates.left(t, first);
            for (p, w) in early.iter_mut().zip(&*self.w) {
                *p *= factor * w;
            }
            let (near, later) = near.split_at_mut(t + 1 - first);
            for (p, j) in near.iter_mut().zip(first..) {
                *p *= self.scale * self.gates.weight(t, j);
            }
            later.fill(0.0);
            *n = lane_sum(p, |sum, p| sum + p) as f32;
        }
    }
}
