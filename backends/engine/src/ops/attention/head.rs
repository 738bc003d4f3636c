//! The query heads of one sequence that share a key head, block of queries by block of queries.

use std::cell::RefCell;
use std::ops::Range;

use bheval_kernels::gemm::Store;
use bheval_kernels::product::{View, ViewMut};
use bheval_kernels::small::{multiply, padded};
use bheval_kernels::{Isa, Kernel, LANES, launch};

use super::Attention;
use super::dropout::WeightDropout;
use super::softmax::{Block, Softmax, SoftmaxBack};
use crate::ops::rotary::Rotary;
use crate::tape::Setting;

/// Queries whose probabilities exist together.
const BLOCK: usize = 64;

/// Which heads of which sequence, and what is dropped of their weights.
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub(super) sequence: usize,
    pub(super) shared: usize,
    pub(super) dropout: Option<WeightDropout>,
}

/// Query heads that share keys and values, in one sequence `x [steps, q|k|v]`.
pub(super) struct Group<'a> {
    isa: Isa,
    steps: usize,
    dim: usize,
    /// `dim` in whole tiles.
    wide: usize,
    /// From one row to the next of a matrix with a column for each step.
    stride: usize,
    /// Columns of `x`.
    width: usize,
    /// First columns of the queries, of the key and of the value.
    queries: Vec<usize>,
    key: usize,
    value: usize,
    /// Number of all query heads, and of those before the group.
    all: usize,
    before: usize,
    scale: f32,
    rotary: Option<&'a Rotary>,
    sequence: usize,
    dropout: Option<WeightDropout>,
    x: &'a [f32],
}

/// What the forward pass writes: for each step the columns of the group's heads, and maximum and sum for each head and step.
pub(super) struct Outputs<'a> {
    pub(super) y: Vec<&'a mut [f32]>,
    pub(super) sums: &'a mut [f32],
}

/// What the way back reads, for the whole sequence but for the group's `sums`, and writes, for each step.
pub(super) struct Gradients<'a> {
    pub(super) y: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) sums: &'a [f32],
    /// For each head of the group.
    pub(super) dq: Vec<Vec<&'a mut [f32]>>,
    pub(super) dk: Vec<&'a mut [f32]>,
    pub(super) dv: Vec<&'a mut [f32]>,
}

/// Room of one thread. `_t` are transposed: `[dim, steps]`, of a block `[dim, BLOCK]`; the others have a row for each step.
#[derive(Default)]
struct Room {
    keys: Vec<f32>,
    keys_t: Vec<f32>,
    values: Vec<f32>,
    values_t: Vec<f32>,
    dkeys_t: Vec<f32>,
    dvalues_t: Vec<f32>,
    queries: Vec<f32>,
    queries_t: Vec<f32>,
    dy: Vec<f32>,
    dy_t: Vec<f32>,
    scores: Vec<f32>,
    dw: Vec<f32>,
    out: Vec<f32>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// The first `len` values, whatever they are.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl<'a> Group<'a> {
    pub(super) fn new(setting: Setting, attention: &'a Attention, task: Task, x: &'a [f32]) -> Self {
        let (dim, (queries, key, value)) = (attention.heads.dim, attention.segments(task.shared));
        Self {
            isa: setting.isa,
            steps: setting.steps,
            dim,
            wide: padded(dim),
            // No power of two, which would put all rows into the same few lines of the cache.
            stride: padded(setting.steps) + LANES,
            width: attention.width(),
            before: task.shared * queries.len(),
            queries: queries.map(|segment| segment * dim).collect(),
            key: key * dim,
            value: value * dim,
            all: attention.heads.count,
            scale: attention.scale,
            rotary: attention.rotary.as_deref(),
            sequence: task.sequence,
            dropout: task.dropout,
            x,
        }
    }

    pub(super) fn forward(&self, mut out: Outputs<'_>) {
        ROOM.with_borrow_mut(|r| {
            self.load_keys_and_values(r);
            let (sums, _) = out.sums.as_chunks_mut::<2>();
            for (head, sums) in sums.chunks_exact_mut(self.steps).enumerate() {
                for at in self.blocks() {
                    let sums = &mut sums[at.clone()];
                    self.load_queries(head, at.clone(), r);
                    self.scores(at.clone(), &r.queries, &r.keys_t, &mut r.scores);
                    let scores = &mut r.scores[..at.len() * self.stride];
                    let (block, end) = (self.block(head, &at), at.end);
                    launch(self.isa, Softmax { block, scores, sums });
                    let o = room(&mut r.out, at.len() * self.wide);
                    self.weighted(&r.scores, (at.len(), end), &r.values, o);
                    let to = Rows { rows: &mut out.y[at], column: head * self.dim, dim: self.dim };
                    launch(
                        self.isa,
                        Unload { from: o, wide: self.wide, to, scale: |i: usize| sums[i][1], turn: None },
                    );
                }
            }
        });
    }

    pub(super) fn backward(&self, mut g: Gradients<'_>) {
        ROOM.with_borrow_mut(|r| {
            self.load_keys_and_values(r);
            let len = self.dim * self.stride;
            self.transpose(&r.values, self.steps, room(&mut r.values_t, len), self.stride);
            room(&mut r.dkeys_t, len).fill(0.0);
            room(&mut r.dvalues_t, len).fill(0.0);
            let (sums, _) = g.sums.as_chunks::<2>();
            for (head, (dq, sums)) in g.dq.iter_mut().zip(sums.chunks_exact(self.steps)).enumerate() {
                for at in self.blocks() {
                    self.load_queries(head, at.clone(), r);
                    self.block_back(head, at.clone(), (g.y, g.dy), &sums[at.clone()], r);
                    self.unload(&r.out, at.start, self.scale, self.rotary, &mut dq[at]);
                }
            }
            self.transpose_back(&r.dkeys_t, room(&mut r.keys, self.steps * self.wide));
            self.unload(&r.keys, 0, 1.0, self.rotary, &mut g.dk);
            self.transpose_back(&r.dvalues_t, room(&mut r.values, self.steps * self.wide));
            self.unload(&r.values, 0, 1.0, None, &mut g.dv);
        });
    }

    /// One block of queries on the way back: adds to the gradients of keys and values, and leaves in `out` that of the
    /// queries, before their scale.
    fn block_back(
        &self,
        head: usize,
        at: Range<usize>,
        (y, dy): (&[f32], &[f32]),
        sums: &[[f32; 2]],
        r: &mut Room,
    ) {
        let (len, stride) = (at.len(), self.stride);
        let of_head =
            |data| Part { data, width: self.all * self.dim, column: (self.before + head) * self.dim };
        self.load(of_head(dy), at.clone(), None, 1.0, room(&mut r.dy, len * self.wide));
        self.transpose(&r.dy, len, room(&mut r.dy_t, self.dim * BLOCK), BLOCK);
        self.transpose(&r.queries, len, room(&mut r.queries_t, self.dim * BLOCK), BLOCK);
        let mut delta = [0.0; BLOCK];
        launch(
            self.isa,
            Along { a: of_head(y), b: of_head(dy), dim: self.dim, first: at.start, out: &mut delta[..len] },
        );
        self.scores(at.clone(), &r.queries, &r.keys_t, &mut r.scores);
        self.scores(at.clone(), &r.dy, &r.values_t, &mut r.dw);
        let (scores, dw) = (&mut r.scores[..len * stride], &mut r.dw[..len * stride]);
        let block = self.block(head, &at);
        launch(self.isa, SoftmaxBack { block, scores, dw, sums, delta: &delta[..len] });
        let seen = block.seen;
        for (a, b, c) in [(&r.dy_t, &r.scores, &mut r.dvalues_t), (&r.queries_t, &r.dw, &mut r.dkeys_t)] {
            let a = View::with_stride(a, self.dim, len, BLOCK);
            let c = ViewMut::with_stride(c, self.dim, seen, stride);
            multiply(self.isa, a, View::with_stride(b, len, seen, stride), Store::Add, c);
        }
        self.weighted(&r.dw, (len, at.end), &r.keys, room(&mut r.out, len * self.wide));
    }

    /// Blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let steps = self.steps;
        (0..steps).step_by(BLOCK).map(move |begin| begin..(begin + BLOCK).min(steps))
    }

    fn block(&self, head: usize, at: &Range<usize>) -> Block {
        let number = (self.sequence * self.all + self.before + head) * self.steps + at.start;
        let dropout = self.dropout.map(|dropout| (dropout, number as u64));
        Block { stride: self.stride, seen: self.seen(at), first: at.start, dropout }
    }

    /// Columns of the scores of a block, in whole tiles.
    fn seen(&self, at: &Range<usize>) -> usize {
        padded(at.end)
    }

    fn load_keys_and_values(&self, r: &mut Room) {
        let len = self.steps * self.wide;
        let part = |column| Part { data: self.x, width: self.width, column };
        self.load(part(self.key), 0..self.steps, self.rotary, 1.0, room(&mut r.keys, len));
        self.load(part(self.value), 0..self.steps, None, 1.0, room(&mut r.values, len));
        self.transpose(&r.keys, self.steps, room(&mut r.keys_t, self.dim * self.stride), self.stride);
    }

    fn load_queries(&self, head: usize, at: Range<usize>, r: &mut Room) {
        let part = Part { data: self.x, width: self.width, column: self.queries[head] };
        let out = room(&mut r.queries, at.len() * self.wide);
        self.load(part, at, self.rotary, self.scale, out);
    }

    fn load(&self, from: Part<'_>, at: Range<usize>, turn: Option<&Rotary>, scale: f32, out: &mut [f32]) {
        launch(self.isa, Load { from, first: at.start, dim: self.dim, wide: self.wide, turn, scale, out });
    }

    fn unload(&self, from: &[f32], first: usize, scale: f32, turn: Option<&Rotary>, rows: &mut [&mut [f32]]) {
        let to = Rows { rows, column: 0, dim: self.dim };
        let turn = turn.map(|rotary| (rotary, first));
        launch(self.isa, Unload { from, wide: self.wide, to, scale: |_| scale, turn });
    }

    /// `c[block, seen] = a[block, dim] · b[dim, seen]`
    fn scores(&self, at: Range<usize>, a: &[f32], b: &[f32], c: &mut Vec<f32>) {
        let c = room(c, at.len() * self.stride);
        let a = View::with_stride(a, at.len(), self.dim, self.wide);
        let b = View::with_stride(b, self.dim, self.seen(&at), self.stride);
        let c = ViewMut::with_stride(c, at.len(), self.seen(&at), self.stride);
        multiply(self.isa, a, b, Store::Set, c);
    }

    /// `c[rows, dim] = a[rows, end] · b[end, dim]`
    fn weighted(&self, a: &[f32], (rows, end): (usize, usize), b: &[f32], c: &mut [f32]) {
        let a = View::with_stride(a, rows, end, self.stride);
        let b = View::with_stride(b, end, self.wide, self.wide);
        multiply(self.isa, a, b, Store::Set, ViewMut::new(c, rows, self.wide));
    }

    /// `[rows, dim]` to `[dim, rows]`, whose rows lie `stride` apart.
    fn transpose(&self, from: &[f32], rows: usize, to: &mut [f32], stride: usize) {
        let from = View::with_stride(from, rows, self.dim, self.wide);
        launch(self.isa, Transpose { from, to, stride });
    }

    /// `[dim, steps]` to `[steps, dim]`.
    fn transpose_back(&self, from: &[f32], to: &mut [f32]) {
        let from = View::with_stride(from, self.dim, self.steps, self.stride);
        launch(self.isa, Transpose { from, to, stride: self.wide });
    }
}

/// Columns, from `column` on, of rows that lie `width` apart.
#[derive(Clone, Copy)]
struct Part<'a> {
    data: &'a [f32],
    width: usize,
    column: usize,
}

impl<'a> Part<'a> {
    #[inline(always)]
    fn row(self, t: usize, dim: usize) -> &'a [f32] {
        &self.data[t * self.width + self.column..][..dim]
    }
}

/// `out[i] = scale · turn(from[first + i])`
struct Load<'a> {
    from: Part<'a>,
    first: usize,
    dim: usize,
    wide: usize,
    turn: Option<&'a Rotary>,
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Load<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (i, out) in self.out.chunks_exact_mut(self.wide).enumerate() {
            let out = &mut out[..self.dim];
            let from = self.from.row(self.first + i, self.dim);
            out.iter_mut().zip(from).for_each(|(o, x)| *o = x * self.scale);
            if let Some(rotary) = self.turn {
                rotary.turn(self.first + i, out);
            }
        }
    }
}

/// Columns of rows that are written.
struct Rows<'a, 'b> {
    rows: &'a mut [&'b mut [f32]],
    column: usize,
    dim: usize,
}

/// `to[i] = turn back(scale(i) · from[i])`, the first row at the step that stands beside the rotation.
struct Unload<'a, 'b, F> {
    from: &'a [f32],
    wide: usize,
    to: Rows<'a, 'b>,
    scale: F,
    turn: Option<(&'a Rotary, usize)>,
}

impl<F: Fn(usize) -> f32> Kernel for Unload<'_, '_, F> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Rows { rows, column, dim } = self.to;
        for (i, (to, from)) in rows.iter_mut().zip(self.from.chunks_exact(self.wide)).enumerate() {
            let (to, scale) = (&mut to[column..column + dim], (self.scale)(i));
            to.iter_mut().zip(from).for_each(|(y, x)| *y = x * scale);
            if let Some((rotary, first)) = self.turn {
                rotary.turn_back(first + i, to);
            }
        }
    }
}

/// `out[i] = a[first + i] · b[first + i]`
struct Along<'a> {
    a: Part<'a>,
    b: Part<'a>,
    dim: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Along<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (i, out) in self.out.iter_mut().enumerate() {
            let (a, b) = (self.a.row(self.first + i, self.dim), self.b.row(self.first + i, self.dim));
            let mut sums = [0.0f32; LANES];
            for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
            *out = sums.iter().map(|&s| f64::from(s)).sum::<f64>() as f32;
        }
    }
}

/// `to[j][i] = from[i][j]`, the rows of `to` being `stride` apart.
struct Transpose<'a> {
    from: View<'a>,
    to: &'a mut [f32],
    stride: usize,
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let View { data, rows, columns, row_stride, .. } = self.from;
        for begin in (0..rows).step_by(LANES) {
            let len = LANES.min(rows - begin);
            for j in 0..columns {
                let to = &mut self.to[j * self.stride + begin..][..len];
                for (i, to) in to.iter_mut().enumerate() {
                    *to = data[(begin + i) * row_stride + j];
                }
            }
        }
    }
}
