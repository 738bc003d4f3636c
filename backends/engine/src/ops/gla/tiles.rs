//! Small products of operands that lie in cache, unpacked: what a chunk of gated linear attention is made of.

use bheval_kernels::{Isa, Kernel, LANES};

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What `c` holds.
    Sum,
    /// What `c` holds, each column scaled by a factor.
    Scaled(&'a [f32]),
    /// Another matrix, each column scaled by a factor.
    ScaledFrom(&'a [f32], &'a [f32]),
    /// What `c` holds, each row scaled by a factor.
    ScaledRows(&'a [f32]),
}

/// `c[rows, columns] = start + a[rows, inner] · b[inner, columns]`, the products summed in their order first. Rows
/// and columns are multiples of [`LANES`].
pub(super) struct Product<'a> {
    /// `[rows, inner]`, or `[inner, rows]` where it is transposed.
    pub(super) a: &'a [f32],
    pub(super) transposed: bool,
    pub(super) b: &'a [f32],
    pub(super) inner: usize,
    pub(super) start: Start<'a>,
    pub(super) c: &'a mut [f32],
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run(mut self, isa: Isa) {
        let columns = self.b.len() / self.inner;
        let mut column = 0;
        while column < columns {
            let wide = isa.is_wide() && column + 2 * LANES <= columns;
            let mut row = 0;
            while row < self.c.len() / columns {
                if wide {
                    self.tile::<2>(row, column);
                } else {
                    self.tile::<1>(row, column);
                }
                row += ROWS;
            }
            column += if wide { 2 * LANES } else { LANES };
        }
    }
}

/// Rows of a tile: with two registers a row, or one of AVX2's pairs, as many sums as keep its units for multiplication busy.
/// With 8 the compiler gathers down the rows instead, 40 times slower.
const ROWS: usize = 4;

impl Product<'_> {
    /// `V` registers of columns.
    #[inline(always)]
    fn tile<const V: usize>(&mut self, row: usize, column: usize) {
        let columns = self.b.len() / self.inner;
        let rows = self.c.len() / columns;
        let sums = match self.transposed {
            true => sums_down::<V>(&self.a[row..], rows, &self.b[column..], columns, self.inner),
            false => sums_along::<V>(&self.a[row * self.inner..], &self.b[column..], columns, self.inner),
        };
        for r in 0..ROWS {
            for v in 0..V {
                let (row, column) = (row + r, column + v * LANES);
                let at = row * columns + column;
                let old = match self.start {
                    Start::Zero => [0.0; LANES],
                    Start::ScaledFrom(from, _) => lanes(from, at),
                    _ => lanes(self.c, at),
                };
                let sums = begun(self.start, &old, (row, column), sums[r][v]);
                self.c[at..][..LANES].copy_from_slice(&sums);
            }
        }
    }
}

/// The sums of a tile whose rows of `a` begin `inner` apart.
#[inline(always)]
fn sums_along<const V: usize>(
    a: &[f32],
    b: &[f32],
    columns: usize,
    inner: usize,
) -> [[[f32; LANES]; V]; ROWS] {
    let a: [&[f32]; ROWS] = std::array::from_fn(|r| &a[r * inner..][..inner]);
    let mut sums = [[[0.0f32; LANES]; V]; ROWS];
    for k in 0..inner {
        let b: [[f32; LANES]; V] = std::array::from_fn(|v| lanes(b, k * columns + v * LANES));
        for (a, sums) in a.iter().zip(&mut sums) {
            step(a[k], &b, sums);
        }
    }
    sums
}

/// The sums of a tile whose columns of `a` begin `rows` apart.
#[inline(always)]
fn sums_down<const V: usize>(
    a: &[f32],
    rows: usize,
    b: &[f32],
    columns: usize,
    inner: usize,
) -> [[[f32; LANES]; V]; ROWS] {
    let mut sums = [[[0.0f32; LANES]; V]; ROWS];
    for k in 0..inner {
        let a = &a[k * rows..][..ROWS];
        let b: [[f32; LANES]; V] = std::array::from_fn(|v| lanes(b, k * columns + v * LANES));
        for r in 0..ROWS {
            step(a[r], &b, &mut sums[r]);
        }
    }
    sums
}

/// A register of sums added to `old`, what it begins from, as its place asks for.
#[inline(always)]
fn begun(
    start: Start<'_>,
    old: &[f32; LANES],
    (row, column): (usize, usize),
    mut sums: [f32; LANES],
) -> [f32; LANES] {
    let by = match start {
        Start::Zero => return sums,
        Start::Sum => [1.0; LANES],
        Start::Scaled(by) | Start::ScaledFrom(_, by) => lanes(by, column),
        Start::ScaledRows(by) => [by[row]; LANES],
    };
    for l in 0..LANES {
        sums[l] = old[l].mul_add(by[l], sums[l]);
    }
    sums
}

/// Adds an element of `a` times a row of `b`.
#[inline(always)]
fn step<const V: usize>(a: f32, b: &[[f32; LANES]; V], sums: &mut [[f32; LANES]; V]) {
    for v in 0..V {
        for l in 0..LANES {
            sums[v][l] = a.mul_add(b[v][l], sums[v][l]);
        }
    }
}

/// A register's worth of values from `at` on.
#[inline(always)]
pub(super) fn lanes(x: &[f32], at: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&x[at..][..LANES]);
    lanes
}

/// As many registers as they have lanes, where the processor loads them whole.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Block(pub(super) [[f32; LANES]; LANES]);

impl Block {
    /// Nothing but zeros.
    pub(super) const ZERO: Self = Self([[0.0; LANES]; LANES]);

    /// `LANES` columns from `column` on of as many rows, which are `stride` apart.
    #[inline(always)]
    pub(super) fn read(x: &[f32], stride: usize, column: usize) -> Self {
        let mut block = Self::ZERO;
        for (r, row) in block.0.iter_mut().enumerate() {
            *row = lanes(x, r * stride + column);
        }
        block
    }

    /// Writes what [`Block::read`] reads.
    #[inline(always)]
    pub(super) fn write(&self, x: &mut [f32], stride: usize, column: usize) {
        for (r, row) in self.0.iter().enumerate() {
            x[r * stride + column..][..LANES].copy_from_slice(row);
        }
    }

    /// The sums of each register's lanes: by halves, which takes half as many registers each time.
    #[inline(always)]
    pub(super) fn totals(&self) -> [f32; LANES] {
        let mut x = self.0;
        fold::<8>(&mut x);
        fold::<4>(&mut x);
        fold::<2>(&mut x);
        fold::<1>(&mut x);
        x[0]
    }
}

/// Adds the upper half of every group of `2 H` lanes to the lower one, and puts the halves of two registers into one.
#[inline(always)]
fn fold<const H: usize>(x: &mut [[f32; LANES]; LANES]) {
    for r in 0..H {
        let (a, b) = (x[2 * r], x[2 * r + 1]);
        let mut sum = [0.0; LANES];
        for l in 0..LANES / 2 {
            let at = l / H * 2 * H + l % H;
            sum[l] = a[at] + a[at + H];
            sum[l + LANES / 2] = b[at] + b[at + H];
        }
        x[r] = sum;
    }
}

/// `y[columns, rows] = x[rows, columns]ᵀ`
pub(super) struct Transpose<'a> {
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
    pub(super) y: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.x.len() / self.columns;
        for (r, x) in self.x.chunks_exact(self.columns).enumerate() {
            for (x, y) in x.iter().zip(self.y.chunks_exact_mut(rows)) {
                y[r] = *x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::normal;
    use bheval_kernels::launch;

    /// Product and sum of magnitudes, each from its definition in f64.
    fn definition(a: impl Fn(usize, usize) -> f32, b: &[f32], inner: usize, i: usize, j: usize) -> f64 {
        let columns = b.len() / inner;
        (0..inner).map(|k| f64::from(a(i, k)) * f64::from(b[k * columns + j])).sum()
    }

    #[test]
    fn products_are_their_definition_on_every_instruction_set() {
        for (rows, inner, columns) in [(16, 16, 16), (16, 48, 48), (48, 16, 48), (16, 7, 80)] {
            let (a, b, c) = (
                normal(rows * inner, 1.0, 1),
                normal(inner * columns, 1.0, 2),
                normal(rows * columns, 1.0, 3),
            );
            let from = normal(rows * columns, 1.0, 6);
            let (by_row, by_column) = (normal(rows, 1.0, 4), normal(columns, 1.0, 5));
            for transposed in [false, true] {
                let at = |i: usize, k: usize| if transposed { a[k * rows + i] } else { a[i * inner + k] };
                let starts = [
                    (Start::Zero, None),
                    (Start::Sum, Some(&c)),
                    (Start::Scaled(&by_column), Some(&c)),
                    (Start::ScaledFrom(&from, &by_column), Some(&from)),
                    (Start::ScaledRows(&by_row), Some(&c)),
                ];
                for (which, (start, old)) in starts.into_iter().enumerate() {
                    for isa in Isa::available() {
                        let mut out = c.clone();
                        launch(isa, Product { a: &a, transposed, b: &b, inner, start, c: &mut out });
                        for (n, out) in out.iter().enumerate() {
                            let (i, j) = (n / columns, n % columns);
                            let factor = [0.0, 1.0, by_column[j], by_column[j], by_row[i]][which];
                            let begun = old.map_or(0.0, |old| f64::from(factor) * f64::from(old[n]));
                            let exact = begun + definition(at, &b, inner, i, j);
                            assert!(
                                (f64::from(*out) - exact).abs() < 2e-5,
                                "{isa:?} {rows} {inner} {columns}: {out} {exact}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_transpose_moves() {
        let x = normal(32 * 48, 1.0, 1);
        let mut y = vec![0.0; x.len()];
        launch(Isa::best(), Transpose { x: &x, columns: 48, y: &mut y });
        assert!((0..x.len()).all(|n| y[n] == x[n % 32 * 48 + n / 32]));
    }

    #[test]
    fn totals_are_of_each_register() {
        let x = Block(std::array::from_fn(|r| std::array::from_fn(|l| (r * 100 + l) as f32)));
        assert_eq!(x.totals(), std::array::from_fn(|r| (r * 1600 + 120) as f32));
    }
}
