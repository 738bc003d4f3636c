//! Products inside one head, on the calling thread.

use bheval_kernels::elementwise::lane_sum;
use bheval_kernels::gemm::Store;
use bheval_kernels::product::{Precision, View, ViewMut, product_serial};
use bheval_kernels::{Isa, Kernel, LANES, launch};

/// `c = a b`, or added, in f32 whatever the setting: what a recurrence remembers must not be rounded.
pub(super) fn multiply(isa: Isa, a: View<'_>, b: View<'_>, store: Store, c: &mut [f32]) {
    let c = ViewMut::new(c, a.rows, b.columns);
    product_serial(isa, Precision::F32, a, b, store, c);
}

/// `out[i] = a_i · b_i`, row by row.
pub(super) fn dots(isa: Isa, a: View<'_>, b: View<'_>, out: &mut [f32]) {
    launch(isa, Dots { a, b, out });
}

/// One row for all rows.
pub(super) fn repeated(x: &[f32], rows: usize) -> View<'_> {
    View::with_stride(x, rows, x.len(), 0)
}

/// A row of a view whose columns lie side by side.
#[inline(always)]
pub(super) fn row<'a>(view: &View<'a>, row: usize) -> &'a [f32] {
    &view.data[row * view.row_stride..][..view.columns]
}

struct Dots<'a> {
    a: View<'a>,
    b: View<'a>,
    out: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (i, out) in self.out.iter_mut().enumerate() {
            *out = lane_dot(row(&self.a, i), row(&self.b, i));
        }
    }
}

#[inline(always)]
fn lane_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    lane_sum(&sums, |sum, x| sum + x) as f32
}
