//! What flows back to the gates of one head.
//!
//! Let `Y_tj` be the gradient of the logarithm of step `j`'s weight in step `t`. Then `dĩ_j = Σ_t Y_tj`, and `d ln σ(f̃_s)` is
//! the sum over all pairs that `s` lies between, `j < s ≤ t`. Those are summed as they are: the difference of a sum over
//! rows and one over columns, which is the same, would lose the digits of gates that are nearly closed.

use std::ops::Range;

use super::forward::{TILE, tiles};

/// Gradients of the gates' logarithms, step by step.
pub(super) struct Flow {
    /// Of `ĩ`, but for its part in `m`.
    pub(super) input: Vec<f64>,
    /// Of `ln σ(f̃)`, likewise.
    pub(super) decay: Vec<f64>,
    /// Of `m`, with all weights `exp(... − m)` following it.
    pub(super) stabiliser: Vec<f64>,
    /// `Y` of pairs that begin in a step and end in a later tile.
    leaving: Vec<f64>,
    /// `Y` of pairs that end in a step and begin in an earlier tile.
    arriving: Vec<f64>,
    /// `Y` of pairs that pass over a whole tile of the chunk.
    passing: Vec<f64>,
}

/// `Y` of the rows of one tile with the steps of its chunk up to there.
pub(super) struct TileFlow<'a> {
    /// Sums over the tile's rows, for each step from the chunk's first on.
    pub(super) columns: &'a [f32],
    /// Sums over the chunk's earlier tiles, for each row.
    pub(super) rows: &'a [f32],
    /// Pairs inside the tile with each step between.
    pub(super) across: &'a [f32],
    /// Pairs with what was gathered before the chunk, for each row.
    pub(super) gathered: &'a [f32],
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum()
}

impl Flow {
    /// Nothing yet, for so many steps.
    pub(super) fn new(steps: usize) -> Self {
        let zeros = || vec![0.0; steps];
        Self {
            input: zeros(),
            decay: zeros(),
            stabiliser: zeros(),
            leaving: zeros(),
            arriving: zeros(),
            passing: zeros(),
        }
    }

    /// Adds a tile of the chunk that begins at `start`.
    pub(super) fn add_tile(&mut self, start: usize, tile: &Range<usize>, y: &TileFlow<'_>) {
        let (early, near) = y.columns.split_at(tile.start - start);
        let mut begun = 0.0;
        for (columns, passed) in early.chunks(TILE).zip(1..) {
            begun += sum(columns);
            if passed * TILE < early.len() {
                self.passing[start / TILE + passed] += begun;
            }
        }
        let from_before = sum(y.gathered);
        self.passing[start / TILE..tile.start / TILE].iter_mut().for_each(|p| *p += from_before);
        self.leaving[start..tile.start].iter_mut().zip(early).for_each(|(l, y)| *l += f64::from(*y));
        for (i, t) in tile.clone().enumerate() {
            self.input[t] += f64::from(near[i]);
            self.decay[t] += f64::from(y.across[i]);
            self.arriving[t] += f64::from(y.rows[i]) + f64::from(y.gathered[i]);
        }
    }

    /// Adds pairs that begin in a tile and end beyond its chunk, for each of its steps.
    pub(super) fn add_leaving(&mut self, chunk: &Range<usize>, tile: &Range<usize>, y: &[f32]) {
        self.leaving[tile.clone()].iter_mut().zip(y).for_each(|(l, y)| *l += f64::from(*y));
        let all = sum(y);
        let later = tile.end.div_ceil(TILE)..chunk.end.div_ceil(TILE);
        self.passing[later].iter_mut().for_each(|p| *p += all);
    }

    /// Adds pairs that pass over the whole chunk.
    pub(super) fn add_passing(&mut self, chunk: &Range<usize>, y: f64) {
        self.passing[chunk.start / TILE..chunk.end.div_ceil(TILE)].iter_mut().for_each(|p| *p += y);
    }

    /// Shares out what was gathered for a chunk.
    pub(super) fn finish(&mut self, chunk: Range<usize>) {
        for tile in tiles(chunk) {
            let passing = self.passing[tile.start / TILE];
            let mut begun = 0.0;
            for t in tile.clone() {
                self.decay[t] += passing + begun;
                begun += self.leaving[t];
                self.input[t] += self.leaving[t];
            }
            let mut ending = 0.0;
            for t in tile.rev() {
                ending += self.arriving[t];
                self.decay[t] += ending;
            }
        }
    }
}
