//! `c[m, n] = a[m, k] · b[k, n]` for training: any layout of `a` and `b`, f32 or bf16, all threads of the current pool.
//!
//! Each element of `c` is one fixed sum, that of [`gemm::dot`](super::gemm::dot): neither the number of threads nor the
//! blocking can change it. In f32 it is the same on every instruction set too. In bf16 it depends on whether the machine
//! has dot products of bf16: those add two products at a time and take subnormal numbers for zero.
//!
//! The blocking is that of Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication".

use std::ops::Range;

use rayon::prelude::*;

use super::Isa;
use super::buffer::{Buffer, with_buffer};
pub use super::gemm::Store;
use super::pack::pack;
use super::tile::{self, Format, PANEL, Place, Rows, STRIP};
pub use super::view::{View, ViewMut};

/// Words of the inner dimension that are packed at once: a whole number of [`gemm::BLOCK`](super::gemm::BLOCK).
const DEPTH: usize = 512;
/// Columns of `b` that are packed at once.
const WIDTH: usize = 2048;
/// Panels of `b` that one task packs.
const PANELS: usize = 4;
/// Rows of `a` that are packed at once: with [`DEPTH`] words each they take a quarter of a megabyte, beside which there is
/// room for a panel of `b` in the second-level cache.
const HEIGHT: usize = 128;
/// Fewest rows of a task: below, the columns are divided.
const LEAST_HEIGHT: usize = 32;
/// Tasks for each thread: enough that a thread which lags leaves work to the others.
const TASKS: usize = 4;
/// Multiplications below which the threads would cost more than they save.
const SMALL: usize = 1 << 20;

/// What the operands are rounded to before they are multiplied. Sums are f32 either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// Not rounded.
    F32,
    /// Rounded to the nearest bf16, ties to even.
    Bf16,
}

impl Precision {
    fn format(self, isa: Isa) -> Format {
        match self {
            Precision::F32 => Format::F32,
            Precision::Bf16 if isa.has_bf16() => Format::Pairs,
            Precision::Bf16 => Format::Rounded,
        }
    }
}

/// `c = a · b` or `c += a · b`, in parallel on the current rayon pool.
///
/// # Panics
/// If the shapes differ or a view is larger than its data.
pub fn product(isa: Isa, precision: Precision, a: View<'_>, b: View<'_>, store: Store, c: ViewMut<'_>) {
    Job::new(isa, precision, a, b, store).run(c, threads_for(a, b.columns));
}

/// As [`product`] on the calling thread alone: the same bits.
///
/// # Panics
/// As [`product`].
pub fn product_serial(
    isa: Isa,
    precision: Precision,
    a: View<'_>,
    b: View<'_>,
    store: Store,
    c: ViewMut<'_>,
) {
    Job::new(isa, precision, a, b, store).run(c, 1);
}

/// A right-hand side `b[k, n]` that was packed for several products.
///
/// It pays where `a` has few rows and `b` comes back before it changes, as the recurrent weights of a chunk of time do:
/// packing costs about as much as 8 rows of `a`.
#[derive(Clone, Debug)]
pub struct Right {
    isa: Isa,
    format: Format,
    inner: usize,
    columns: usize,
    words: Buffer,
}

impl Right {
    /// Packs `b`, in parallel on the current rayon pool.
    ///
    /// # Panics
    /// If `b` is larger than its data.
    #[must_use]
    pub fn new(isa: Isa, precision: Precision, b: View<'_>) -> Self {
        let mut right =
            Self { isa, format: precision.format(isa), inner: 0, columns: 0, words: Buffer::default() };
        right.set(b);
        right
    }

    /// Packs another `b` into the same memory, if it is large enough.
    ///
    /// # Panics
    /// As [`Right::new`].
    pub fn set(&mut self, b: View<'_>) {
        b.check();
        (self.inner, self.columns) = (b.rows, b.columns);
        let (isa, format, threads) = (self.isa, self.format, threads_for(b.t(), STRIP));
        let mut words = self.words.slice(format.depth(b.rows) * b.columns.next_multiple_of(PANEL));
        let depth = format.elements(DEPTH);
        for k in (0..b.rows).step_by(depth) {
            let block = b.rows(k..(k + depth).min(b.rows));
            let (out, rest) =
                words.split_at_mut(format.depth(block.rows) * b.columns.next_multiple_of(PANEL));
            pack_panels(isa, format, block, out, threads);
            words = rest;
        }
    }

    /// `c = a · b` or `c += a · b`, in parallel on the current rayon pool, with the bits of [`product`].
    ///
    /// # Panics
    /// If the shapes differ or a view is larger than its data.
    pub fn product(&self, a: View<'_>, store: Store, c: ViewMut<'_>) {
        self.job(a, store).run(c, threads_for(a, self.columns));
    }

    /// As [`Right::product`] on the calling thread alone: the same bits.
    ///
    /// # Panics
    /// As [`Right::product`].
    pub fn product_serial(&self, a: View<'_>, store: Store, c: ViewMut<'_>) {
        self.job(a, store).run(c, 1);
    }

    fn job<'a>(&'a self, a: View<'a>, store: Store) -> Job<'a> {
        let (inner, columns) = (self.inner, self.columns);
        Job { isa: self.isa, format: self.format, a, inner, columns, b: Operand::Packed(&self.words), store }
    }
}

/// Threads that a product with these sizes is worth.
fn threads_for(a: View<'_>, columns: usize) -> usize {
    let small = a.rows.saturating_mul(a.columns).saturating_mul(columns) <= SMALL;
    if small { 1 } else { rayon::current_num_threads() }
}

/// The right-hand side of a product.
#[derive(Clone, Copy)]
enum Operand<'a> {
    View(View<'a>),
    /// Blocks of [`DEPTH`] words of the inner dimension, in each of them all panels.
    Packed(&'a Buffer),
}

/// A product that is to be computed.
#[derive(Clone, Copy)]
struct Job<'a> {
    isa: Isa,
    format: Format,
    a: View<'a>,
    b: Operand<'a>,
    inner: usize,
    columns: usize,
    store: Store,
}

impl<'a> Job<'a> {
    fn new(isa: Isa, precision: Precision, a: View<'a>, b: View<'a>, store: Store) -> Self {
        b.check();
        let format = precision.format(isa);
        Self { isa, format, a, b: Operand::View(b), inner: b.rows, columns: b.columns, store }
    }

    /// Divides the inner dimension and the columns into blocks, one after the other.
    fn run(self, mut c: ViewMut<'_>, threads: usize) {
        assert_eq!(self.a.columns, self.inner, "a has another number of columns than b has rows");
        assert_eq!((c.rows, c.columns), (self.a.rows, self.columns), "c has not the shape of a · b");
        self.a.check();
        c.check();
        if c.rows == 0 || c.columns == 0 {
            return;
        }
        if self.inner == 0 && self.store == Store::Set {
            (0..c.rows).for_each(|i| c.row(i).fill(0.0));
        }
        let depth = self.format.elements(DEPTH);
        for k in (0..self.inner).step_by(depth) {
            let store = if k > 0 { Store::Add } else { self.store };
            let inner = k..(k + depth).min(self.inner);
            let block = Self { a: self.a.columns(inner.clone()), inner: inner.len(), store, ..self };
            for n in (0..self.columns).step_by(WIDTH) {
                let columns = n..(n + WIDTH).min(self.columns);
                let c = c.reborrow().columns(columns.clone());
                self.with_right(inner.clone(), columns, threads, |b| block.rows(b, c, threads));
            }
        }
    }

    /// Lends `work` these rows and columns of `b`, packed.
    fn with_right(
        self,
        inner: Range<usize>,
        columns: Range<usize>,
        threads: usize,
        work: impl FnOnce(&[f32]),
    ) {
        let depth = self.format.depth(inner.len());
        let size = columns.len().next_multiple_of(PANEL) * depth;
        match self.b {
            Operand::View(b) => with_buffer(size, |words| {
                pack_panels(self.isa, self.format, b.rows(inner).columns(columns), words, threads);
                work(words);
            }),
            Operand::Packed(words) => {
                let before = self.format.depth(inner.start) * self.columns.next_multiple_of(PANEL);
                work(&words.get()[before + columns.start * depth..][..size]);
            }
        }
    }

    /// Divides the rows of a block of `c`, and the columns if there are few rows, among the threads. `b` is the block's
    /// right-hand side, packed.
    fn rows(self, b: &[f32], c: ViewMut<'_>, threads: usize) {
        let (rows, stride, columns) = (c.rows, c.row_stride.max(1), c.columns);
        let c = &mut c.data[..(rows - 1) * stride + columns];
        let part = |i: usize, height: usize| self.with_rows(i * height..((i + 1) * height).min(rows));
        let whole = |(job, c): (Self, &'_ mut [f32])| {
            job.multiply(b, &mut ViewMut { data: c, rows: job.a.rows, columns, row_stride: stride });
        };
        if threads == 1 {
            let blocks = c.chunks_mut(HEIGHT * stride).enumerate();
            return blocks.map(|(i, c)| (part(i, HEIGHT), c)).for_each(whole);
        }
        let tasks = threads * TASKS;
        let height = rows.div_ceil(tasks).next_multiple_of(STRIP).clamp(LEAST_HEIGHT, HEIGHT);
        let blocks = c.par_chunks_mut(height * stride).enumerate().map(|(i, c)| (part(i, height), c));
        match tasks.div_ceil(blocks.len()).min(columns.div_ceil(PANEL)) {
            1 => blocks.for_each(whole),
            parts => {
                let width = columns.div_ceil(parts).next_multiple_of(PANEL);
                blocks.for_each(|(job, c)| job.columns(b, split_columns(c, stride, columns, width), width));
            }
        }
    }

    /// Multiplies `a` with the packed panels `b` in parallel, each part of `c` being `width` columns.
    fn columns(self, b: &[f32], mut parts: Vec<Part<'_>>, width: usize) {
        let b = b.par_chunks(width * self.format.depth(self.inner));
        parts.par_iter_mut().zip(b).for_each(|(c, b)| self.multiply(b, c));
    }

    fn with_rows(self, rows: Range<usize>) -> Self {
        Self { a: self.a.rows(rows), ..self }
    }

    /// Multiplies `a`, packing it, with the packed panels `b` into `c`.
    fn multiply(self, b: &[f32], c: &mut impl Rows) {
        let (rows, columns) = (self.a.rows, c.row(0).len());
        let depth = self.format.depth(self.inner);
        with_buffer(rows.next_multiple_of(STRIP) * depth, |a| {
            pack::<STRIP>(self.isa, self.format, self.a.t(), a);
            let mut sums = [[0.0; PANEL]; STRIP];
            for (j, b) in b.chunks_exact(PANEL * depth).enumerate() {
                for (i, a) in a.chunks_exact(STRIP * depth).enumerate() {
                    let (row, column) = (i * STRIP, j * PANEL);
                    let (rows, columns) = ((rows - row).min(STRIP), (columns - column).min(PANEL));
                    let place = Place { row, rows, column, columns, add: self.store == Store::Add };
                    tile::multiply(self.isa, self.format, (a, b), &mut sums, c, place);
                }
            }
        });
    }
}

/// Packs all panels of a right-hand side.
fn pack_panels(isa: Isa, format: Format, b: View<'_>, out: &mut [f32], threads: usize) {
    if threads == 1 {
        return pack::<PANEL>(isa, format, b, out);
    }
    let width = PANELS * PANEL;
    out.par_chunks_mut(width * format.depth(b.rows)).enumerate().for_each(|(i, out)| {
        pack::<PANEL>(isa, format, b.columns(i * width..((i + 1) * width).min(b.columns)), out);
    });
}

/// Parts of `width` columns of a block of rows, each row `columns` long and `stride` apart.
fn split_columns(c: &mut [f32], stride: usize, columns: usize, width: usize) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = (0..columns.div_ceil(width)).map(|_| Part(Vec::new())).collect();
    for row in c.chunks_mut(stride) {
        parts.iter_mut().zip(row[..columns].chunks_mut(width)).for_each(|(part, row)| part.0.push(row));
    }
    parts
}

impl Rows for ViewMut<'_> {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.row_stride..][..self.columns]
    }
}

/// Some columns of some rows, where whole rows belong to several tasks.
struct Part<'a>(Vec<&'a mut [f32]>);

impl Rows for Part<'_> {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        self.0[i]
    }
}
