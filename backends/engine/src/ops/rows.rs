//! Rows in parallel, and sums over rows, in an order that does not depend on the number of threads.

use bheval_kernels::gemm::Store;
use rayon::prelude::*;

/// Values that one task handles.
const TASK: usize = 1 << 14;
/// Rows whose sum over rows is taken by one task.
const BLOCK: usize = 64;

/// Rows that one task handles when a row has `width` values.
#[must_use]
pub fn task_rows(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// `sum = sum + x`
///
/// # Panics
/// If the lengths differ.
pub fn add(sum: &mut [f32], x: &[f32]) {
    assert_eq!(sum.len(), x.len(), "gradients of one value have one shape");
    sum.par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK))
        .for_each(|(sum, x)| sum.iter_mut().zip(x).for_each(|(s, x)| *s += x));
}

/// Writes `x` to `out`, or adds it.
///
/// # Panics
/// If the lengths differ.
pub fn put(store: Store, out: &mut [f32], x: &[f32]) {
    match store {
        Store::Set => out.copy_from_slice(x),
        Store::Add => add(out, x),
    }
}

/// Sums `contribute(row, sums)` over all rows into `out`, block by block, the blocks in order. `contribute` adds to `sums`,
/// which is as long as `out`.
pub fn sum_over_rows(
    store: Store,
    rows: usize,
    out: &mut [f32],
    contribute: impl Fn(usize, &mut [f32]) + Sync,
) {
    let width = out.len();
    let block = |b: usize| {
        let mut sums = vec![0.0; width];
        (b * BLOCK..((b + 1) * BLOCK).min(rows)).for_each(|row| contribute(row, &mut sums));
        sums
    };
    let blocks: Vec<Vec<f32>> = (0..rows.div_ceil(BLOCK)).into_par_iter().map(block).collect();
    if store == Store::Set {
        out.fill(0.0);
    }
    for sums in &blocks {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}
