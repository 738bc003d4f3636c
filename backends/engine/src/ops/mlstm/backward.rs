//! The way back through the cells of one head over one sequence.
//!
//! With `P_tj` the weight of value `j` in the numerator of step `t`, `n_t = Σ_j P_tj` and `d_t = max(|n_t|, exp(−m_t)) + ε`,
//! so that `h_t = Σ_j P_tj v_j / d_t`: `g_t = dh_t / d_t`, `dn_t = −(dh_t · h_t) / d_t` times the slope of the maximum, and
//! `dP_tj = g_t · v_j + dn_t`, which goes to queries and keys, and as `Y_tj = dP_tj P_tj` to the weights' logarithms. What
//! `m_t` changes beyond the weights that follow it is the share of `ε` in `d_t`: `dm_t = −(dh_t · h_t) ε / d_t`, on either
//! side of the maximum. This is what autograd makes of the definition, sums with opposite signs taken out by hand.

use std::ops::Range;

use bheval_kernels::elementwise::lane_sum;
use bheval_kernels::gemm::Store;
use bheval_kernels::product::View;
use bheval_kernels::{Isa, Kernel, launch};

use super::flow::{Flow, TileFlow};
use super::forward::{Head, Room, TILE, tiles};
use super::gates::Gates;
use super::products::{dots, multiply, row};

/// One head over one sequence, with what came out and its gradient.
pub(super) struct HeadBack<'a> {
    pub(super) head: Head<'a>,
    /// `n [T]`
    pub(super) n: &'a [f32],
    /// `[T, V]`
    pub(super) h: View<'a>,
    /// `[T, V]`
    pub(super) dh: View<'a>,
}

/// Room of one thread.
pub(super) struct BackRoom<'a> {
    room: Room<'a>,
    /// `[TILE, chunk]`
    slopes: &'a mut [f32],
    /// `[chunk]`
    columns: &'a mut [f32],
    /// `[TILE, V]`
    g: &'a mut [f32],
    /// `[TILE, K]`
    more: &'a mut [f32],
    /// The gradient of a state.
    back: &'a mut [f32],
    /// The states before all chunks but the first.
    states: &'a mut [f32],
}

impl<'a> BackRoom<'a> {
    /// Numbers that it takes.
    pub(super) fn len(steps: usize, chunk: usize, keys: usize, values: usize) -> usize {
        let states = steps.div_ceil(chunk) * Head::state_len(keys, values);
        Room::len(chunk, keys) + TILE * (chunk + values + keys) + chunk + states
    }

    /// Takes `room` apart.
    pub(super) fn carve(room: &'a mut [f32], chunk: usize, keys: usize, values: usize) -> Self {
        let (room, rest) = Room::carve(room, chunk, keys);
        let (slopes, rest) = rest.split_at_mut(TILE * chunk);
        let (columns, rest) = rest.split_at_mut(chunk);
        let (g, rest) = rest.split_at_mut(TILE * values);
        let (more, rest) = rest.split_at_mut(TILE * keys);
        let (back, states) = rest.split_at_mut(Head::state_len(keys, values));
        Self { room, slopes, columns, g, more, back, states }
    }
}

/// Gradients of one head over one sequence, without gaps.
pub(super) struct Parts<'a> {
    /// `[T, K]`
    pub(super) q: &'a mut [f32],
    /// `[T, K]`
    pub(super) k: &'a mut [f32],
    /// `[T, V]`
    pub(super) v: &'a mut [f32],
}

/// Gradients of the normalisers, and what the numerators' are multiplied by: `1 / d_t`.
struct Quotients {
    n: Vec<f32>,
    factors: Vec<f32>,
}

impl HeadBack<'_> {
    /// Writes the gradients of queries, keys and values; gives that of the gates.
    pub(super) fn run(&self, room: &mut BackRoom<'_>, out: &mut Parts<'_>) -> Flow {
        let mut flow = Flow::new(self.n.len());
        let quotients = self.quotients(&mut flow.stabiliser);
        self.states(room);
        out.k.fill(0.0);
        out.v.fill(0.0);
        for (start, end) in self.head.chunks().rev() {
            let chunk = start..end;
            self.pass_from_later(room, &chunk, out, &mut flow);
            for tile in tiles(chunk.clone()) {
                self.inside(room, start, &tile, &quotients, out, &mut flow);
            }
            flow.finish(chunk);
        }
        flow
    }

    /// The way back through the quotient.
    fn quotients(&self, stabiliser: &mut [f64]) -> Quotients {
        let (gates, eps) = (self.head.gates, self.head.eps);
        let mut n = vec![0.0; stabiliser.len()];
        let mut factors = vec![];
        dots(self.head.isa, self.dh, self.h, &mut n);
        for (t, (stabiliser, n)) in stabiliser.iter_mut().zip(&mut n).enumerate() {
            let factor = 1.0 / gates.denominator(t, self.n[t], eps);
            let share = -*n * factor;
            *stabiliser = f64::from(share * eps);
            *n = share * gates.normaliser_slope(t, self.n[t]);
            factors.push(factor);
        }
        Quotients { n, factors }
    }

    /// Runs the recurrence again, and keeps its state before each chunk but the first.
    fn states(&self, room: &mut BackRoom<'_>) {
        let len = room.back.len();
        for (c, (start, end)) in self.head.chunks().enumerate().take(self.head.chunks().count() - 1) {
            if c > 0 {
                room.states.copy_within((c - 1) * len..c * len, c * len);
            }
            self.head.advance(&mut room.room, start..end, &mut room.states[c * len..(c + 1) * len]);
        }
        room.back.fill(0.0);
    }

    /// The gradient of the state after a chunk goes to the chunk's keys and values, and to the state before it.
    fn pass_from_later(
        &self,
        room: &mut BackRoom<'_>,
        chunk: &Range<usize>,
        out: &mut Parts<'_>,
        flow: &mut Flow,
    ) {
        let (head, keys, values) = (&self.head, self.head.k.columns, self.head.v.columns);
        if chunk.end == self.n.len() {
            return;
        }
        let (memory, normaliser) = room.back.split_at(keys * values);
        let memory = View::new(memory, keys, values);
        for tile in tiles(chunk.clone()) {
            let weighted = head.weighted_keys(tile.clone(), chunk.end, room.room.keys);
            let dv = &mut out.v[tile.start * values..tile.end * values];
            multiply(head.isa, View::new(weighted, tile.len(), keys), memory, Store::Add, dv);
            let more = &mut room.more[..tile.len() * keys];
            more.chunks_exact_mut(keys).for_each(|more| more.copy_from_slice(normaliser));
            multiply(head.isa, head.v.rows(tile.clone()), memory.t(), Store::Add, more);
            let leaving = &mut room.columns[..tile.len()];
            let rows = (View::new(weighted, tile.len(), keys), View::new(more, tile.len(), keys));
            dots(head.isa, rows.0, rows.1, leaving);
            flow.add_leaving(chunk, &tile, leaving);
            for (j, more) in tile.zip(more.chunks_exact(keys)) {
                let weight = head.gates.gathered(j, chunk.end);
                let dk = &mut out.k[j * keys..(j + 1) * keys];
                dk.iter_mut().zip(more).for_each(|(dk, more)| *dk += weight * more);
            }
        }
        if chunk.start > 0 {
            let left = head.gates.left(chunk.end - 1, chunk.start);
            let before = before(room.states, chunk.start / head.chunk, room.back.len());
            let rows = (View::new(room.back, keys, values + 1), View::new(before, keys, values + 1));
            let sums = &mut room.more[..keys];
            dots(head.isa, rows.0, rows.1, sums);
            flow.add_passing(chunk, sums.iter().map(|&s| f64::from(left * s)).sum());
            room.back.iter_mut().for_each(|g| *g *= left);
        }
    }

    /// The gradients of a tile's outputs, as far as the chunk from `start` on and the state before it go.
    fn inside(
        &self,
        room: &mut BackRoom<'_>,
        start: usize,
        tile: &Range<usize>,
        quotients: &Quotients,
        out: &mut Parts<'_>,
        flow: &mut Flow,
    ) {
        let (head, keys, values) = (&self.head, self.head.k.columns, self.head.v.columns);
        let (rows, columns) = (tile.len(), tile.end - start);
        let g = &mut room.g[..rows * values];
        for (t, g) in tile.clone().zip(g.chunks_exact_mut(values)) {
            let factor = quotients.factors[t];
            g.iter_mut().zip(row(&self.dh, t)).for_each(|(g, dh)| *g = factor * dh);
        }
        let g = View::new(g, rows, values);
        let (q, k, v) =
            (head.q.rows(tile.clone()), head.k.rows(start..tile.end), head.v.rows(start..tile.end));
        let (p, slopes) = (&mut room.room.scores[..rows * columns], &mut room.slopes[..rows * columns]);
        multiply(head.isa, q, k.t(), Store::Set, p);
        multiply(head.isa, g, v.t(), Store::Set, slopes);
        let (sums, n) = (&mut room.columns[..columns], &quotients.n[tile.clone()]);
        let (mut arriving, mut across, mut gathered) = ([0.0; TILE], [0.0; TILE], [0.0; TILE]);
        launch(
            head.isa,
            Slopes {
                gates: head.gates,
                scale: head.scale(),
                start,
                tile: tile.clone(),
                n,
                w: room.room.weights,
                p,
                slopes,
                columns: sums,
                arriving: &mut arriving,
                across: &mut across,
            },
        );
        let (p, slopes) = (View::new(p, rows, columns), View::new(slopes, rows, columns));
        let dq = &mut out.q[tile.start * keys..tile.end * keys];
        multiply(head.isa, slopes, k, Store::Set, dq);
        multiply(head.isa, slopes.t(), q, Store::Add, &mut out.k[start * keys..tile.end * keys]);
        multiply(head.isa, p.t(), g, Store::Add, &mut out.v[start * values..tile.end * values]);
        if start > 0 {
            let before = before(room.states, start / head.chunk, room.back.len());
            let reads = Reads { head, start, tile, g, n, before };
            reads.run(room.room.keys, room.more, dq, room.back, &mut gathered);
        }
        let y = TileFlow { columns: sums, rows: &arriving, across: &across, gathered: &gathered[..rows] };
        flow.add_tile(start, tile, &y);
    }
}

/// The state before a chunk that is not the first.
fn before(states: &[f32], chunk: usize, len: usize) -> &[f32] {
    &states[(chunk - 1) * len..chunk * len]
}

/// What a tile read from the state before its chunk.
struct Reads<'a> {
    head: &'a Head<'a>,
    start: usize,
    tile: &'a Range<usize>,
    g: View<'a>,
    /// Gradients of the normalisers.
    n: &'a [f32],
    before: &'a [f32],
}

impl Reads<'_> {
    /// Adds to the queries' gradient `dq` and the state's, `back`; `gathered` is `Y`, row by row.
    fn run(self, room: &mut [f32], more: &mut [f32], dq: &mut [f32], back: &mut [f32], gathered: &mut [f32]) {
        let (head, keys, values) = (self.head, self.head.k.columns, self.head.v.columns);
        let (memory, normaliser) = self.before.split_at(keys * values);
        let more = &mut more[..self.tile.len() * keys];
        multiply(head.isa, self.g, View::new(memory, keys, values).t(), Store::Set, more);
        let rows = more.chunks_exact_mut(keys).zip(dq.chunks_exact_mut(keys));
        for (i, (more, dq)) in rows.enumerate() {
            let t = self.tile.start + i;
            let factor = head.scale() * head.gates.left(t, self.start);
            for ((more, dq), normaliser) in more.iter_mut().zip(dq).zip(normaliser) {
                *more = factor * (self.n[i] * normaliser + *more);
                *dq += *more;
            }
        }
        let rows = self.tile.len();
        dots(head.isa, View::new(more, rows, keys), head.q.rows(self.tile.clone()), &mut gathered[..rows]);
        let queries = head.scaled_queries(self.start, self.tile.clone(), room);
        let (memory, normaliser) = back.split_at_mut(keys * values);
        for (q, n) in queries.chunks_exact(keys).zip(self.n) {
            normaliser.iter_mut().zip(q).for_each(|(sum, q)| *sum += q * n);
        }
        let queries = View::new(queries, self.tile.len(), keys);
        multiply(head.isa, queries.t(), self.g, Store::Add, memory);
    }
}

/// From products `q · k` in `p` and `g · v` in `slopes` to the weights `P` and the gradients of the products, with the sums of
/// `Y` that [`TileFlow`] names. Rows are taken from the last one up.
struct Slopes<'a> {
    gates: &'a Gates,
    scale: f32,
    start: usize,
    tile: Range<usize>,
    n: &'a [f32],
    w: &'a mut [f32],
    p: &'a mut [f32],
    slopes: &'a mut [f32],
    columns: &'a mut [f32],
    arriving: &'a mut [f32],
    across: &'a mut [f32],
}

impl Kernel for Slopes<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (first, columns) = (self.tile.start, self.tile.end - self.start);
        let before = first - self.start;
        for (w, j) in self.w.iter_mut().zip(self.start..first) {
            *w = self.gates.gathered(j, first);
        }
        self.columns.fill(0.0);
        let (early, near) = self.columns.split_at_mut(before);
        let (w, near_w) = self.w.split_at_mut(before);
        for (i, t) in self.tile.enumerate().rev() {
            let (p, p_near) = self.p[i * columns..(i + 1) * columns].split_at_mut(before);
            let (slopes, slopes_near) = self.slopes[i * columns..(i + 1) * columns].split_at_mut(before);
            let factor = self.scale * self.gates.left(t, first);
            self.arriving[i] = weights(self.n[i], factor, w, p, slopes, early);
            for (w, j) in near_w[..=i].iter_mut().zip(first..) {
                *w = self.gates.weight(t, j);
            }
            weights(self.n[i], self.scale, &near_w[..=i], p_near, slopes_near, near);
            p_near[i + 1..].fill(0.0);
            slopes_near[i + 1..].fill(0.0);
            self.across[i] = lane_sum(&near[..i], |sum, y| sum + y) as f32;
        }
    }
}

/// One row; adds `Y` to `columns`, and gives its sum.
#[inline(always)]
fn weights(n: f32, factor: f32, w: &[f32], p: &mut [f32], slopes: &mut [f32], columns: &mut [f32]) -> f32 {
    const LANES: usize = bheval_kernels::LANES;
    let mut sums = [0.0f32; LANES];
    let outputs = p.chunks_mut(LANES).zip(slopes.chunks_mut(LANES)).zip(columns.chunks_mut(LANES));
    for (w, ((p, slopes), columns)) in w.chunks(LANES).zip(outputs) {
        let all = p.iter_mut().zip(slopes).zip(columns).zip(&mut sums);
        for (w, (((p, slope), column), sum)) in w.iter().zip(all) {
            let weight = factor * w;
            let upstream = *slope + n;
            *p *= weight;
            *slope = upstream * weight;
            let y = upstream * *p;
            *column += y;
            *sum += y;
        }
    }
    lane_sum(&sums, |sum, x| sum + x) as f32
}
