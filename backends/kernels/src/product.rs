//! `c[m, n] = a[m, k] · b[k, n]` for training: any layout of `a` and `b`, f32 or bf16, all threads of the current pool.
//!
//! Each element of `c` is one fixed sum, that of [`gemm::dot`](super::gemm::dot): the number of threads cannot change it.

use rayon::prelude::*;

use super::Isa;
pub use super::gemm::Store;
use super::gemm::{Packed, matmul};
pub use super::view::{View, ViewMut};

/// What the operands are rounded to before they are multiplied. Sums are f32 either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// Not rounded.
    F32,
    /// Rounded to the nearest bf16, ties to even.
    Bf16,
}

/// `c = a · b` or `c += a · b`, in parallel on the current rayon pool.
///
/// # Panics
/// If the shapes differ or a view is larger than its data.
pub fn product(isa: Isa, precision: Precision, a: View<'_>, b: View<'_>, store: Store, c: ViewMut<'_>) {
    run(isa, precision, a, b, store, c, true);
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
    run(isa, precision, a, b, store, c, false);
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
#[must_use]
pub fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000;
    f32::from_bits(if x.is_nan() { (bits | 0x0040_0000) & 0xFFFF_0000 } else { rounded })
}

/// Rows of `c` that one task computes.
const ROWS: usize = 48;

fn run(
    isa: Isa,
    precision: Precision,
    a: View<'_>,
    b: View<'_>,
    store: Store,
    c: ViewMut<'_>,
    parallel: bool,
) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k && c.rows == m && c.columns == n, "a, b and c differ in shape");
    a.check();
    b.check();
    c.check();
    if m == 0 || n == 0 {
        return;
    }
    let round = |x: f32| if precision == Precision::Bf16 { round_bf16(x) } else { x };
    let gather = |v: View<'_>| -> Vec<f32> {
        (0..v.rows).flat_map(|i| (0..v.columns).map(move |j| round(v.at(i, j)))).collect()
    };
    let inner = k.max(1);
    let (x, w) = if k == 0 { (vec![0.0; m], vec![0.0; n]) } else { (gather(a), gather(b.t())) };
    let packed = Packed::new(inner, &[&w]);
    let stride = c.row_stride.max(1);
    let work = |(c, x): (&mut [f32], &[f32])| {
        let mut y = Vec::with_capacity(ROWS * n);
        c.chunks(stride).take(x.len() / inner).for_each(|row| y.extend_from_slice(&row[..n]));
        matmul(isa, x, &packed, store, &mut y);
        c.chunks_mut(stride).zip(y.chunks_exact(n)).for_each(|(row, y)| row[..n].copy_from_slice(y));
    };
    let last = (m - 1) * stride + n;
    let (c, x) = (&mut c.data[..last], &x[..]);
    if parallel {
        c.par_chunks_mut(ROWS * stride).zip(x.par_chunks(ROWS * inner)).for_each(work);
    } else {
        c.chunks_mut(ROWS * stride).zip(x.chunks(ROWS * inner)).for_each(work);
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
