//! `c[m, n] = a[m, k] · b[k, n]` for small matrices that lie in cache, on the calling thread and without packing: the
//! products inside attention.
//!
//! Columns come in whole tiles, which callers pad to; rows as they are. Each output is one chain of fused multiply-adds
//! from zero, then set or added.

use crate::gemm::Store;
use crate::view::{View, ViewMut};
use crate::{Isa, Kernel, launch};

/// Columns of `c` are a multiple of this.
pub const COLUMNS: usize = 32;
/// Rows of a tile: 6 x 32 sums fill the registers of AVX-512, 6 x 16 those of AVX2. No power of two: the compiler would
/// then vectorise down the rows.
const ROWS: usize = 6;
/// Columns in one register of the widest instruction set.
const LANES: usize = crate::LANES;

/// `len` rounded up to whole tiles.
#[must_use]
pub const fn padded(len: usize) -> usize {
    len.div_ceil(COLUMNS) * COLUMNS
}

/// `c = a · b`, or added; both lie row by row.
///
/// # Panics
/// If the shapes differ, columns are not whole tiles, or a view does not lie row by row.
pub fn multiply(isa: Isa, a: View<'_>, b: View<'_>, store: Store, mut c: ViewMut<'_>) {
    let (rows, columns) = (a.rows, b.columns);
    assert!(a.columns == b.rows && c.rows == rows && c.columns == columns, "a, b and c differ in shape");
    assert!(columns.is_multiple_of(COLUMNS), "columns must be whole tiles");
    assert!(a.column_stride == 1 && b.column_stride == 1, "a and b must lie row by row");
    a.check();
    b.check();
    c.check();
    if rows == 0 || a.columns == 0 {
        return if store == Store::Set {
            clear(c)
        };
    }
    for column in (0..columns).step_by(COLUMNS) {
        for row in (0..rows).step_by(ROWS) {
            // Beyond the last row the tile repeats it and drops the result.
            let x = |r: usize| &a.data[(row + r).min(rows - 1) * a.row_stride..][..a.columns];
            let mut sums = [[0.0; COLUMNS]; ROWS];
            let (x, right) = (std::array::from_fn(x), &b.data[column..]);
            launch(isa, Tile { x, b: right, stride: b.row_stride, sums: &mut sums });
            put(&sums, store, &mut c, row, column);
        }
    }
}

fn clear(c: ViewMut<'_>) {
    c.data.chunks_mut(c.row_stride).take(c.rows).for_each(|row| row[..c.columns].fill(0.0));
}

/// Writes a tile to `c` at `(row, column)`, but for rows beyond the last one.
fn put(sums: &[[f32; COLUMNS]; ROWS], store: Store, c: &mut ViewMut<'_>, row: usize, column: usize) {
    let rows = c.data[row * c.row_stride + column..].chunks_mut(c.row_stride).take(c.rows - row);
    for (c, sums) in rows.zip(sums) {
        let c = &mut c[..COLUMNS];
        match store {
            Store::Set => c.copy_from_slice(sums),
            Store::Add => c.iter_mut().zip(sums).for_each(|(c, s)| *c += s),
        }
    }
}

/// `ROWS` rows times [`COLUMNS`] columns. A kernel of its own: small enough that the compiler keeps the sums in registers.
struct Tile<'a> {
    x: [&'a [f32]; ROWS],
    b: &'a [f32],
    stride: usize,
    sums: &'a mut [[f32; COLUMNS]; ROWS],
}

impl Kernel for Tile<'_> {
    #[inline(always)]
    fn run(self, isa: Isa) {
        if isa.is_wide() {
            tile::<2>(self.x, self.b, self.stride, 0, self.sums);
        } else {
            tile::<1>(self.x, self.b, self.stride, 0, self.sums);
            tile::<1>(self.x, self.b, self.stride, LANES, self.sums);
        }
    }
}

/// `V · LANES` columns of a tile, from column `offset` on.
#[inline(always)]
fn tile<const V: usize>(
    x: [&[f32]; ROWS],
    b: &[f32],
    stride: usize,
    offset: usize,
    out: &mut [[f32; COLUMNS]; ROWS],
) {
    let inner = x[0].len();
    let x: [&[f32]; ROWS] = std::array::from_fn(|r| &x[r][..inner]);
    let mut sums = [[[0.0f32; LANES]; V]; ROWS];
    for k in 0..inner {
        let b: [[f32; LANES]; V] = std::array::from_fn(|v| {
            let mut lanes = [0.0; LANES];
            lanes.copy_from_slice(&b[k * stride + offset + v * LANES..][..LANES]);
            lanes
        });
        for r in 0..ROWS {
            let x = x[r][k];
            for v in 0..V {
                for l in 0..LANES {
                    sums[r][v][l] = x.mul_add(b[v][l], sums[r][v][l]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (v, sums) in sums.iter().enumerate() {
            out[offset + v * LANES..][..LANES].copy_from_slice(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Numbers;

    /// Set and added, with gaps between rows that stay as they are.
    #[test]
    fn agrees_with_f64_and_over_instruction_sets() {
        for (m, n, k) in [(1, 32, 1), (64, 96, 64), (43, 64, 37), (6, 32, 300), (32, 32, 0)] {
            let mut numbers = Numbers::new((m * n + k) as u64);
            let (x, w) = (numbers.normal(m * (k + 5), 1.0), numbers.normal(k * (n + 16), 1.0));
            let (a, b) = (View::with_stride(&x, m, k, k + 5), View::with_stride(&w, k, n, n + 16));
            for store in [Store::Set, Store::Add] {
                let run = |isa| {
                    let mut c = vec![2.0; m * (n + 3)];
                    multiply(isa, a, b, store, ViewMut::with_stride(&mut c, m, n, n + 3));
                    c
                };
                let first = run(Isa::PORTABLE);
                assert!(Isa::available().into_iter().all(|isa| run(isa) == first));
                check(a, b, if store == Store::Add { 2.0 } else { 0.0 }, &first);
            }
        }
    }

    fn check(a: View<'_>, b: View<'_>, start: f64, c: &[f32]) {
        let width = b.columns + 3;
        for (i, row) in c.chunks(width).enumerate() {
            for (j, &c) in row.iter().enumerate() {
                let products = (0..a.columns).map(|k| f64::from(a.at(i, k)) * f64::from(b.at(k, j)));
                let exact = if j < b.columns { start + products.sum::<f64>() } else { 2.0 };
                assert!((f64::from(c) - exact).abs() < 3e-5, "{i}, {j}: {c} {exact}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "whole tiles")]
    fn ragged_columns_are_refused() {
        let x = [0.0; 64];
        let (a, b) = (View::new(&x[..7], 7, 1), View::new(&x[..31], 1, 31));
        multiply(Isa::best(), a, b, Store::Set, ViewMut::new(&mut [0.0; 7 * 31], 7, 31));
    }
}
