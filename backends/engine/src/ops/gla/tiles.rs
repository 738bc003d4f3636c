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
    /// What `c` holds, each row scaled by a factor.
    ScaledRows(&'a [f32]),
}

/// `c[rows, columns] = start + a[rows, inner] · b[inner, columns]`, every sum in the order of `inner`. Rows and columns are
/// multiples of [`LANES`].
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
        match (isa.is_wide(), self.transposed) {
            (true, false) => self.tiles::<8, 2, false>(),
            (true, true) => self.tiles::<8, 2, true>(),
            (false, false) => self.tiles::<4, 1, false>(),
            (false, true) => self.tiles::<4, 1, true>(),
        }
    }
}

impl Product<'_> {
    /// Tiles of `R` rows and `V` registers: as many sums as the instruction set has registers for.
    #[inline(always)]
    fn tiles<const R: usize, const V: usize, const T: bool>(&mut self) {
        let columns = self.b.len() / self.inner;
        let rows = self.c.len() / columns;
        let mut column = 0;
        while column < columns {
            if column + V * LANES <= columns {
                (0..rows).step_by(R).for_each(|row| self.tile::<R, V, T>(row, column));
                column += V * LANES;
            } else {
                (0..rows).step_by(R).for_each(|row| self.tile::<R, 1, T>(row, column));
                column += LANES;
            }
        }
    }

    #[inline(always)]
    fn tile<const R: usize, const V: usize, const T: bool>(&mut self, row: usize, column: usize) {
        let (inner, columns) = (self.inner, self.b.len() / self.inner);
        let rows = self.c.len() / columns;
        let mut sums = [[[0.0f32; LANES]; V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sums) in sums.iter_mut().enumerate() {
                let at = column + v * LANES;
                let c = lanes(self.c, (row + r) * columns + at);
                *sums = match self.start {
                    Start::Zero => [0.0; LANES],
                    Start::Sum => c,
                    Start::Scaled(by) => {
                        let by = lanes(by, at);
                        std::array::from_fn(|l| c[l] * by[l])
                    }
                    Start::ScaledRows(by) => c.map(|c| c * by[row + r]),
                };
            }
        }
        if T {
            for (a, b) in self.a.chunks_exact(rows).zip(self.b.chunks_exact(columns)) {
                let a: [f32; R] = std::array::from_fn(|r| a[row + r]);
                step(a, b, column, &mut sums);
            }
        } else {
            let a: [&[f32]; R] = std::array::from_fn(|r| &self.a[(row + r) * inner..][..inner]);
            for (k, b) in self.b.chunks_exact(columns).enumerate() {
                step(std::array::from_fn(|r| a[r][k]), b, column, &mut sums);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sums) in sums.iter().enumerate() {
                self.c[(row + r) * columns + column + v * LANES..][..LANES].copy_from_slice(sums);
            }
        }
    }
}

/// Adds one column of `a` times one row of `b`.
#[inline(always)]
fn step<const R: usize, const V: usize>(
    a: [f32; R],
    b: &[f32],
    column: usize,
    sums: &mut [[[f32; LANES]; V]; R],
) {
    let b: [[f32; LANES]; V] = std::array::from_fn(|v| lanes(b, column + v * LANES));
    for r in 0..R {
        for v in 0..V {
            for l in 0..LANES {
                sums[r][v][l] = a[r].mul_add(b[v][l], sums[r][v][l]);
            }
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

/// The sum of a register's lanes, by halves.
#[inline(always)]
pub(super) fn total(x: &[f32; LANES]) -> f32 {
    let mut x = *x;
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            x[l] += x[l + half];
        }
        half /= 2;
    }
    x[0]
}

/// `y[columns, rows] = x[rows, columns]ᵀ`, or added to `y`.
pub(super) struct Transpose<'a> {
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
    pub(super) add: bool,
    pub(super) y: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.x.len() / self.columns;
        for row in (0..rows).step_by(LANES) {
            for column in (0..self.columns).step_by(LANES) {
                let block: [[f32; LANES]; LANES] =
                    std::array::from_fn(|r| lanes(self.x, (row + r) * self.columns + column));
                for c in 0..LANES {
                    let y = &mut self.y[(column + c) * rows + row..][..LANES];
                    for (r, y) in y.iter_mut().enumerate() {
                        *y = if self.add { *y + block[r][c] } else { block[r][c] };
                    }
                }
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
            let (by_row, by_column) = (normal(rows, 1.0, 4), normal(columns, 1.0, 5));
            for transposed in [false, true] {
                let at = |i: usize, k: usize| if transposed { a[k * rows + i] } else { a[i * inner + k] };
                for (which, start) in
                    [Start::Zero, Start::Sum, Start::Scaled(&by_column), Start::ScaledRows(&by_row)]
                        .into_iter()
                        .enumerate()
                {
                    for isa in Isa::available() {
                        let mut out = c.clone();
                        launch(isa, Product { a: &a, transposed, b: &b, inner, start, c: &mut out });
                        for (n, out) in out.iter().enumerate() {
                            let (i, j) = (n / columns, n % columns);
                            let factor = [0.0, 1.0, by_column[j], by_row[i]][which];
                            let exact = f64::from(factor) * f64::from(c[n]) + definition(at, &b, inner, i, j);
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
    fn a_transpose_moves_and_adds() {
        let x = normal(32 * 48, 1.0, 1);
        let mut y = vec![1.0; x.len()];
        launch(Isa::best(), Transpose { x: &x, columns: 48, add: true, y: &mut y });
        assert!((0..x.len()).all(|n| y[n] == 1.0 + x[n % 32 * 48 + n / 32]));
        launch(Isa::best(), Transpose { x: &x, columns: 48, add: false, y: &mut y });
        assert!((0..x.len()).all(|n| y[n] == x[n % 32 * 48 + n / 32]));
    }
}
