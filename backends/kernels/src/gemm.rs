//! `y[M, N] = x[M, K] · W[N, K]ᵀ` in f32, with `W` packed once.
//!
//! Each output is one fixed sum, [`dot`]: blocks of [`BLOCK`] products, each a chain of fused multiply-adds from zero, the
//! blocks then added in order. Rows and columns never mix, so a row's result can't depend on its neighbours.

use super::{Isa, Kernel, launch};

/// Products in one chain of fused multiply-adds.
pub const BLOCK: usize = 256;
/// Columns of `y` (rows of `W`) that are packed together.
pub const PANEL: usize = 32;
/// Rows of `x` that a tile covers: 6 x 32 sums fill the registers of AVX-512, 6 x 16 those of AVX2.
const ROWS: usize = 6;
/// Columns in one register of the widest instruction set.
const LANES: usize = super::LANES;

/// A weight matrix `W[N, K]`, stored as panels of [`PANEL`] columns of `y`, `[N / PANEL][K][PANEL]`, padded with zeros.
#[derive(Clone, Debug)]
pub struct Packed {
    columns: usize,
    inner: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs row-major matrices of `inner` columns, one below the other, as if they were a single `W`.
    ///
    /// # Panics
    /// If a matrix is not a whole number of rows.
    #[must_use]
    pub fn new(inner: usize, matrices: &[&[f32]]) -> Self {
        assert!(matrices.iter().all(|m| m.len().is_multiple_of(inner)), "a matrix has ragged rows");
        let columns: usize = matrices.iter().map(|m| m.len() / inner).sum();
        let mut panels = vec![0.0; columns.div_ceil(PANEL) * PANEL * inner];
        for (n, row) in matrices.iter().flat_map(|m| m.chunks_exact(inner)).enumerate() {
            let panel = &mut panels[n / PANEL * PANEL * inner..];
            for (k, &w) in row.iter().enumerate() {
                panel[k * PANEL + n % PANEL] = w;
            }
        }
        Self { columns, inner, panels }
    }

    /// `W [N, K]` as it was before it was packed.
    #[must_use]
    pub fn unpacked(&self) -> Vec<f32> {
        let row = |n: usize| {
            let panel = self.panel(n / PANEL);
            (0..self.inner).map(move |k| panel[k * PANEL + n % PANEL])
        };
        (0..self.columns).flat_map(row).collect()
    }

    /// `N`: how many values a row of `y` has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `K`: how many values a row of `x` has.
    #[must_use]
    pub fn inner(&self) -> usize {
        self.inner
    }

    fn panel(&self, index: usize) -> &[f32] {
        &self.panels[index * PANEL * self.inner..][..PANEL * self.inner]
    }
}

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    /// `y = x · Wᵀ`
    Set,
    /// `y = y + x · Wᵀ`, the block sums added to `y` one by one: the residual connection.
    Add,
}

/// The definition of one output: what [`matmul`] gives, bit for bit, with [`Store::Set`].
#[must_use]
pub fn dot(x: &[f32], w: &[f32]) -> f32 {
    let block = |(x, w): (&[f32], &[f32])| x.iter().zip(w).fold(0.0f32, |sum, (&x, &w)| x.mul_add(w, sum));
    let mut blocks = x.chunks(BLOCK).zip(w.chunks(BLOCK)).map(block);
    let first = blocks.next().unwrap_or(0.0);
    blocks.fold(first, |sum, block| sum + block)
}

/// Multiplies the rows of `x[M, K]` with `w` into `y[M, N]`.
///
/// # Panics
/// If `x` or `y` has not the length that `w` and the other one ask for.
pub fn matmul(isa: Isa, x: &[f32], w: &Packed, store: Store, y: &mut [f32]) {
    matmul_columns(isa, x, w, 0, w.columns, store, y);
}

/// As [`matmul`] for the columns `first..first + width` of `W`'s product only: `y[M, width]`. `first` is a multiple of
/// [`PANEL`].
///
/// # Panics
/// As [`matmul`], and if the columns are not there or do not begin at a panel.
pub fn matmul_columns(
    isa: Isa,
    x: &[f32],
    w: &Packed,
    first: usize,
    width: usize,
    store: Store,
    y: &mut [f32],
) {
    let rows = x.len() / w.inner;
    assert!(rows * w.inner == x.len() && rows * width == y.len(), "x, W and y differ in shape");
    assert!(first.is_multiple_of(PANEL) && first + width <= w.columns, "no such columns of W");
    let mut product = Product { x, w, first, width, store, y };
    if rows > 0 && width > 0 {
        for begin in (0..w.inner).step_by(BLOCK) {
            (0..width.div_ceil(PANEL)).for_each(|panel| product.panel(isa, begin, panel));
        }
    }
}

struct Product<'a> {
    x: &'a [f32],
    w: &'a Packed,
    first: usize,
    width: usize,
    store: Store,
    y: &'a mut [f32],
}

impl Product<'_> {
    /// Adds block `begin..` of the inner dimension to the columns of one panel, for all rows.
    fn panel(&mut self, isa: Isa, begin: usize, panel: usize) {
        let end = (begin + BLOCK).min(self.w.inner);
        let w = &self.w.panel(self.first / PANEL + panel)[begin * PANEL..end * PANEL];
        let rows = self.x.len() / self.w.inner;
        for row in (0..rows).step_by(ROWS) {
            // Beyond the last row the tile repeats it and drops the result.
            let x = std::array::from_fn(|r| &self.x[(row + r).min(rows - 1) * self.w.inner..][begin..end]);
            let mut sums = [[0.0; PANEL]; ROWS];
            launch(isa, Tile { x, w, sums: &mut sums });
            self.put(&sums, row, panel * PANEL, begin);
        }
    }

    fn put(&mut self, sums: &[[f32; PANEL]; ROWS], row: usize, column: usize, begin: usize) {
        let (add, width) = (self.store == Store::Add || begin > 0, self.width);
        let end = (column + PANEL).min(width);
        for (sums, y) in sums.iter().zip(self.y[row * width..].chunks_exact_mut(width)) {
            let y = &mut y[column..end];
            match <&mut [f32; PANEL]>::try_from(&mut *y) {
                Ok(y) if add => y.iter_mut().zip(sums).for_each(|(y, s)| *y += s),
                Ok(y) => *y = *sums,
                Err(_) => y.iter_mut().zip(sums).for_each(|(y, s)| *y = if add { *y + s } else { *s }),
            }
        }
    }
}

/// `ROWS` rows times a panel, over one block of the inner dimension. A kernel of its own: small enough that the compiler
/// keeps the sums in registers.
struct Tile<'a> {
    x: [&'a [f32]; ROWS],
    w: &'a [f32],
    sums: &'a mut [[f32; PANEL]; ROWS],
}

impl Kernel for Tile<'_> {
    #[inline(always)]
    fn run(self, isa: Isa) {
        if isa.is_wide() {
            tile::<2>(self.x, self.w, 0, self.sums);
        } else {
            tile::<1>(self.x, self.w, 0, self.sums);
            tile::<1>(self.x, self.w, LANES, self.sums);
        }
    }
}

/// `V · LANES` columns of a panel, from column `offset` on.
#[inline(always)]
fn tile<const V: usize>(x: [&[f32]; ROWS], w: &[f32], offset: usize, out: &mut [[f32; PANEL]; ROWS]) {
    let inner = w.len() / PANEL;
    let x: [&[f32]; ROWS] = std::array::from_fn(|r| &x[r][..inner]);
    let mut sums = [[[0.0f32; LANES]; V]; ROWS];
    for (k, w) in w.chunks_exact(PANEL).enumerate() {
        let w: [[f32; LANES]; V] = std::array::from_fn(|v| {
            let mut lanes = [0.0; LANES];
            lanes.copy_from_slice(&w[offset + v * LANES..][..LANES]);
            lanes
        });
        for r in 0..ROWS {
            let x = x[r][k];
            for v in 0..V {
                for l in 0..LANES {
                    sums[r][v][l] = x.mul_add(w[v][l], sums[r][v][l]);
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
#[allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.
mod tests {
    use super::*;
    use crate::random::Numbers;

    /// Shapes with ragged rows, columns and blocks.
    const SHAPES: [(usize, usize, usize); 7] =
        [(1, 1, 1), (5, 7, 3), (6, 32, 256), (13, 33, 257), (7, 96, 64), (100, 65, 600), (4, 16, 160)];

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        for (m, n, k) in SHAPES {
            let mut numbers = Numbers::new((m * n * k) as u64);
            let (x, w) = (numbers.normal(m * k, 1.0), numbers.normal(n * k, 1.0));
            let packed = Packed::new(k, &[&w]);
            assert_eq!(packed.unpacked(), w);
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; m * n];
                matmul(isa, &x, &packed, Store::Set, &mut y);
                for (i, y) in y.iter().enumerate() {
                    let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                    assert_eq!(y.to_bits(), dot(x, w).to_bits(), "{isa:?} {m}x{n}x{k} at {i}");
                }
            }
        }
    }

    #[test]
    fn the_definition_is_close_to_f64() {
        let mut numbers = Numbers::new(7);
        let mut worst = 0.0f64;
        for k in [1, 64, 256, 1000, 4096] {
            let (x, w) = (numbers.normal(k, 1.0), numbers.normal(k, 1.0));
            let exact: f64 = x.iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            let size: f64 = x.iter().zip(&w).map(|(&x, &w)| (f64::from(x) * f64::from(w)).abs()).sum();
            worst = worst.max((f64::from(dot(&x, &w)) - exact).abs() / size);
        }
        println!("worst error over the sum of magnitudes: {worst:e}");
        assert!(worst < 1e-6, "{worst:e}");
    }

    #[test]
    fn a_row_does_not_depend_on_how_many_rows_there_are() {
        let (m, n, k) = (29, 70, 300);
        let mut numbers = Numbers::new(3);
        let (x, w) = (numbers.normal(m * k, 1.0), numbers.normal(n * k, 1.0));
        let packed = Packed::new(k, &[&w]);
        let mut all = vec![0.0; m * n];
        matmul(Isa::best(), &x, &packed, Store::Set, &mut all);
        for row in 0..m {
            let mut one = vec![0.0; n];
            matmul(Isa::best(), &x[row * k..][..k], &packed, Store::Set, &mut one);
            assert_eq!(one, all[row * n..][..n]);
        }
    }

    #[test]
    fn columns_and_residual_agree_with_the_whole() {
        let (m, n, k) = (8, 100, 64);
        let mut numbers = Numbers::new(4);
        let (x, w) = (numbers.normal(m * k, 1.0), numbers.normal(n * k, 1.0));
        let packed = Packed::new(k, &[&w[..40 * k], &w[40 * k..]]);
        let (mut whole, mut part, mut added) = (vec![0.0; m * n], vec![0.0; m * 36], vec![2.0; m * n]);
        matmul(Isa::best(), &x, &packed, Store::Set, &mut whole);
        matmul_columns(Isa::best(), &x, &packed, 64, 36, Store::Set, &mut part);
        matmul(Isa::best(), &x, &packed, Store::Add, &mut added);
        for i in 0..m {
            assert_eq!(part[i * 36..][..36], whole[i * n + 64..][..36]);
        }
        assert!(whole.iter().zip(&added).all(|(w, a)| 2.0 + w == *a));
    }
}
