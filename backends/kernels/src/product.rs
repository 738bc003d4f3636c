//! `c[m, n] = a[m, k] · b[k, n]` for training: any layout of `a` and `b`, f32 or bf16, all threads of the current pool.
//!
//! Each element of `c` is one fixed sum, that of [`gemm::dot`](super::gemm::dot): neither the number of threads nor the
//! blocking can change it. In f32 it is the same on every instruction set too. In bf16 it depends on whether the machine
//! has dot products of bf16: those add two products at a time and take subnormal numbers for zero.
//!
//! The blocking is that of Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication".

use rayon::prelude::*;

use super::Isa;
use super::buffer::with_buffer;
pub use super::gemm::Store;
use super::pack::pack;
use super::tile::{self, Format, PANEL, Place, Rows, STRIP};
pub use super::view::{View, ViewMut};

/// Elements of the inner dimension that are packed at once: a whole number of [`gemm::BLOCK`](super::gemm::BLOCK).
const DEPTH: usize = 512;
/// Columns of `b` that are packed at once.
const WIDTH: usize = 2048;
/// Rows of `a` that are packed at once: with [`DEPTH`] words each they take a quarter of a megabyte, beside which there is
/// room for a panel of `b` in the second-level cache.
const HEIGHT: usize = 128;
/// Fewest rows of a task: below, the columns are divided.
const LEAST_HEIGHT: usize = 32;
/// Tasks for each thread: enough that a thread which lags leaves work to the others.
const TASKS: usize = 4;
/// Multiplications below which the threads would cost more than they save.
const SMALL: usize = 1 << 18;

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
    let job = Job::new(isa, precision, a, b, store, &c);
    match rayon::current_num_threads() {
        threads if threads > 1 && a.rows * a.columns * b.columns > SMALL => job.parallel(c, threads),
        _ => job.serial(c),
    }
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
    Job::new(isa, precision, a, b, store, &c).serial(c);
}

/// A product that is to be computed.
#[derive(Clone, Copy)]
struct Job<'a> {
    isa: Isa,
    format: Format,
    a: View<'a>,
    b: View<'a>,
    store: Store,
}

impl<'a> Job<'a> {
    fn new(isa: Isa, precision: Precision, a: View<'a>, b: View<'a>, store: Store, c: &ViewMut<'_>) -> Self {
        assert_eq!(a.columns, b.rows, "a has another number of columns than b has rows");
        assert_eq!((c.rows, c.columns), (a.rows, b.columns), "c has not the shape of a · b");
        a.check();
        b.check();
        c.check();
        Self { isa, format: precision.format(isa), a, b, store }
    }

    fn serial(self, mut c: ViewMut<'_>) {
        self.blocks(&mut c, |job, mut c| {
            let depth = job.format.depth(job.b.rows);
            with_buffer(job.b.columns.div_ceil(PANEL) * PANEL * depth, |b| {
                pack::<PANEL>(job.isa, job.format, job.b, b);
                for first in (0..job.a.rows).step_by(HEIGHT) {
                    let rows = first..(first + HEIGHT).min(job.a.rows);
                    job.with_rows(rows.clone()).multiply(b, &mut c.reborrow().rows(rows));
                }
            });
        });
    }

    fn parallel(self, mut c: ViewMut<'_>, threads: usize) {
        self.blocks(&mut c, |job, c| {
            let panel = job.format.depth(job.b.rows) * PANEL;
            with_buffer(job.b.columns.div_ceil(PANEL) * panel, |b| {
                b.par_chunks_mut(panel).enumerate().for_each(|(i, out)| {
                    let columns = i * PANEL..((i + 1) * PANEL).min(job.b.columns);
                    pack::<PANEL>(job.isa, job.format, job.b.columns(columns), out);
                });
                job.tasks(b, c, threads);
            });
        });
    }

    /// Divides the inner dimension and the columns into blocks, one after the other.
    fn blocks(self, c: &mut ViewMut<'_>, mut work: impl FnMut(Self, ViewMut<'_>)) {
        if self.a.rows == 0 || self.b.columns == 0 {
            return;
        }
        if self.a.columns == 0 && self.store == Store::Set {
            c.data
                .chunks_mut(c.row_stride.max(1))
                .take(c.rows)
                .for_each(|row| row[..self.b.columns].fill(0.0));
        }
        for k in (0..self.a.columns).step_by(DEPTH) {
            let inner = k..(k + DEPTH).min(self.a.columns);
            for n in (0..self.b.columns).step_by(WIDTH) {
                let columns = n..(n + WIDTH).min(self.b.columns);
                let store = if k > 0 { Store::Add } else { self.store };
                let a = self.a.columns(inner.clone());
                let b = self.b.rows(inner.clone()).columns(columns.clone());
                work(Self { a, b, store, ..self }, c.reborrow().columns(columns));
            }
        }
    }

    /// Divides a block of `c` among the threads. `b` is the block's right-hand side, packed.
    fn tasks(self, b: &[f32], c: ViewMut<'_>, threads: usize) {
        let (rows, stride, columns) = (c.rows, c.row_stride.max(1), c.columns);
        let wanted = threads * TASKS;
        let height = rows.div_ceil(wanted).next_multiple_of(STRIP).clamp(LEAST_HEIGHT, HEIGHT);
        let parts = wanted.div_ceil(rows.div_ceil(height)).min(columns.div_ceil(PANEL));
        let c = &mut c.data[..(rows - 1) * stride + columns];
        let blocks = c.par_chunks_mut(height * stride).enumerate().map(|(i, c)| {
            let first = i * height;
            (self.with_rows(first..(first + height).min(rows)), c)
        });
        if parts == 1 {
            return blocks.for_each(|(job, c)| {
                job.multiply(b, &mut ViewMut { data: c, rows: job.a.rows, columns, row_stride: stride });
            });
        }
        let width = columns.div_ceil(parts).next_multiple_of(PANEL);
        let panel = self.format.depth(self.a.columns) * PANEL;
        blocks.for_each(|(job, c)| {
            let mut parts: Vec<Part<'_>> = (0..columns.div_ceil(width)).map(|_| Part(Vec::new())).collect();
            for row in c.chunks_mut(stride) {
                parts
                    .iter_mut()
                    .zip(row[..columns].chunks_mut(width))
                    .for_each(|(part, row)| part.0.push(row));
            }
            let b = b.par_chunks(width / PANEL * panel);
            parts.par_iter_mut().zip(b).for_each(|(c, b)| job.multiply(b, c));
        });
    }

    fn with_rows(self, rows: std::ops::Range<usize>) -> Self {
        Self { a: self.a.rows(rows), ..self }
    }

    /// Multiplies `a`, packing it, with the packed panels `b` into as many columns as `c` has.
    fn multiply(self, b: &[f32], c: &mut impl Rows) {
        let (rows, columns) = (self.a.rows, c.row(0).len());
        let depth = self.format.depth(self.a.columns);
        with_buffer(rows.div_ceil(STRIP) * STRIP * depth, |a| {
            pack::<STRIP>(self.isa, self.format, self.a.t(), a);
            for (j, b) in b.chunks_exact(PANEL * depth).take(columns.div_ceil(PANEL)).enumerate() {
                for (i, a) in a.chunks_exact(STRIP * depth).enumerate() {
                    let (row, column) = (i * STRIP, j * PANEL);
                    let (rows, columns) = ((rows - row).min(STRIP), (columns - column).min(PANEL));
                    let place = Place { row, rows, column, columns, add: self.store == Store::Add };
                    tile::multiply(self.isa, self.format, a, b, c, place);
                }
            }
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Numbers;

    #[test]
    fn agrees_with_f64_in_every_layout() {
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (64, 40, 300), (100, 65, 600), (3, 4, 0)] {
            let mut numbers = Numbers::new((m * n + k) as u64);
            let (x, w) = (numbers.normal(m * k, 1.0), numbers.normal(k * n, 1.0));
            for layout in 0..4 {
                let a = if layout & 1 == 0 { View::new(&x, m, k) } else { View::new(&x, k, m).t() };
                let b = if layout & 2 == 0 { View::new(&w, k, n) } else { View::new(&w, n, k).t() };
                for store in [Store::Set, Store::Add] {
                    let start = if store == Store::Add { 2.0 } else { 0.0 };
                    let mut c = vec![2.0; m * (n + 3)];
                    product(
                        Isa::best(),
                        Precision::F32,
                        a,
                        b,
                        store,
                        ViewMut::with_stride(&mut c, m, n, n + 3),
                    );
                    for i in 0..m {
                        for j in 0..n {
                            let exact: f64 =
                                (0..k).map(|l| f64::from(a.at(i, l)) * f64::from(b.at(l, j))).sum();
                            let got = f64::from(c[i * (n + 3) + j]);
                            assert!((got - start - exact).abs() < 1e-4, "{m} {n} {k} {layout} {got} {exact}");
                        }
                        assert_eq!(c[i * (n + 3) + n..][..3], [2.0; 3]);
                    }
                }
            }
        }
    }
}
