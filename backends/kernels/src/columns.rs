//! Sums over the rows of a matrix, one for each column: gradients of biases and of a norm's weight.
//!
//! Each is one fixed sum: blocks of [`BLOCK`] rows, each a chain from zero, the blocks then added in order.

use rayon::prelude::*;

use super::buffer::with_buffer;
use super::{Isa, Kernel, Store, launch};

/// Rows in one chain.
pub const BLOCK: usize = 64;

/// `sums[n] = Σ x[m, n]` over the rows, or added, in parallel on the current rayon pool.
///
/// # Panics
/// If `x` is not whole rows.
pub fn column_sums(isa: Isa, x: &[f32], store: Store, sums: &mut [f32]) {
    blocks(isa, x.len(), store, sums, |first, last, sums| {
        for x in x[first..last].chunks_exact(sums.len()) {
            launch(isa, Add { x, sums });
        }
    });
}

/// `sums[n] = Σ x[m, n] · y[m, n]` over the rows, or added, by fused multiply-adds, in parallel on the current rayon pool.
///
/// # Panics
/// If `x` is not whole rows, or `y` has not its shape.
pub fn column_dots(isa: Isa, x: &[f32], y: &[f32], store: Store, sums: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "x and y differ in shape");
    blocks(isa, x.len(), store, sums, |first, last, sums| {
        let rows = x[first..last].chunks_exact(sums.len()).zip(y[first..last].chunks_exact(sums.len()));
        rows.for_each(|(x, y)| launch(isa, MultiplyAdd { x, y, sums }));
    });
}

/// Adds up what `work` adds to zeros for the elements of each block.
fn blocks(
    isa: Isa,
    len: usize,
    store: Store,
    sums: &mut [f32],
    work: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let width = sums.len();
    if width == 0 {
        return assert_eq!(len, 0, "the sums of no columns have no elements");
    }
    assert!(len.is_multiple_of(width), "{len} elements are not whole rows of {width}");
    if store == Store::Set {
        sums.fill(0.0);
    }
    let size = BLOCK * width;
    with_buffer(len.div_ceil(size) * width, |parts| {
        parts.par_chunks_mut(width).enumerate().for_each(|(block, part)| {
            part.fill(0.0);
            work(block * size, ((block + 1) * size).min(len), part);
        });
        parts.chunks_exact(width).for_each(|x| launch(isa, Add { x, sums }));
    });
}

struct Add<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        self.sums.iter_mut().zip(self.x).for_each(|(sum, x)| *sum += x);
    }
}

struct MultiplyAdd<'a> {
    x: &'a [f32],
    y: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for MultiplyAdd<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for ((sum, x), y) in self.sums.iter_mut().zip(self.x).zip(self.y) {
            *sum = x.mul_add(*y, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Numbers;

    /// Rows and columns: ragged against blocks and registers.
    const SHAPES: [(usize, usize); 6] = [(1, 1), (64, 16), (65, 33), (300, 7), (0, 5), (1000, 40)];

    /// In f64, with how far f32 may lie from it: a rounding for each row and block.
    fn twin(x: &[f32], y: &[f32], width: usize, j: usize) -> (f64, f64) {
        let terms = || (j..x.len()).step_by(width).map(|i| f64::from(x[i]) * f64::from(y[i]));
        let roundings = (2 * BLOCK + x.len() / width / BLOCK) as f64;
        (terms().sum(), roundings * 2f64.powi(-24) * (terms().map(f64::abs).sum::<f64>() + 3.0))
    }

    #[test]
    fn sums_agree_with_f64_and_do_not_depend_on_threads_or_instructions() {
        for (m, n) in SHAPES {
            let mut numbers = Numbers::new((m + n) as u64);
            let (x, y, ones) = (numbers.normal(m * n, 1.0), numbers.normal(m * n, 1.0), vec![1.0; m * n]);
            for (store, start) in [(Store::Set, 0.0), (Store::Add, 3.0)] {
                let all = |isa: Isa| {
                    let (mut sums, mut dots) = (vec![3.0; n], vec![3.0; n]);
                    column_sums(isa, &x, store, &mut sums);
                    column_dots(isa, &x, &y, store, &mut dots);
                    (sums, dots)
                };
                let first = all(Isa::best());
                for j in 0..n {
                    for (got, y) in [(first.0[j], &ones), (first.1[j], &y)] {
                        let (exact, bound) = twin(&x, y, n, j);
                        assert!(
                            (f64::from(got) - start - exact).abs() <= bound,
                            "{m} x {n} column {j}: {got}"
                        );
                    }
                }
                for isa in Isa::available() {
                    for threads in [1, 2, 5] {
                        let pool =
                            rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                        assert!(pool.install(|| all(isa)) == first, "{isa:?} on {threads} threads");
                    }
                }
            }
        }
    }

    #[test]
    fn nan_is_not_lost_and_ragged_rows_are_refused() {
        let mut x = vec![1.0; 200 * 3];
        x[150 * 3 + 1] = f32::NAN;
        let mut sums = [0.0; 3];
        column_sums(Isa::best(), &x, Store::Set, &mut sums);
        assert!(sums[0] == 200.0 && sums[1].is_nan() && sums[2] == 200.0);
        let refused =
            std::panic::catch_unwind(|| column_sums(Isa::best(), &[1.0; 7], Store::Set, &mut [0.0; 3]));
        assert!(refused.is_err());
    }
}
