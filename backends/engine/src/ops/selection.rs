//! Columns of a value: what an operation reads where another one wrote several things side by side.

use bheval_kernels::gemm::Store;
use bheval_kernels::product::View;
use rayon::prelude::*;

use crate::ops::rows::task_rows;
use crate::tape::{Back, Tape, Value};

/// Some columns of a value, `width` of them from `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Columns {
    /// Where they are.
    pub value: Value,
    /// The first one.
    pub first: usize,
    /// How many.
    pub width: usize,
}

impl Columns {
    /// All columns of a value.
    #[must_use]
    pub fn all(tape: &Tape<'_>, value: Value) -> Self {
        Self { value, first: 0, width: tape.width(value) }
    }

    /// Equal shares of a value, side by side: one of them.
    ///
    /// # Panics
    /// If the value does not fall into as many shares, or there is no such one.
    #[must_use]
    pub fn share(tape: &Tape<'_>, value: Value, shares: usize, which: usize) -> Self {
        let all = tape.width(value);
        assert!(
            all.is_multiple_of(shares) && which < shares,
            "no share {which} of {shares} in {all} columns"
        );
        Self { value, first: which * (all / shares), width: all / shares }
    }

    /// The columns of the rows of `x`, which is the value's matrix.
    pub(crate) fn of<'a>(&self, x: &'a [f32], rows: usize) -> Rows<'a> {
        Rows { x, stride: x.len() / rows, first: self.first, width: self.width }
    }

    /// Adds `gradient(row, out)` to the columns' gradient; `gradient` writes the row's whole share.
    pub(crate) fn add_gradient(&self, back: &mut Back<'_, '_>, gradient: impl Fn(usize, &mut [f32]) + Sync) {
        let (store, mut all) = back.open(self.value);
        self.put(store, back.width(self.value), &mut all, gradient);
        back.close(self.value, all);
    }

    /// As [`Columns::add_gradient`], between [`Back::open`] and [`Back::close`] of the value: columns that no operation reads
    /// keep a gradient of 0.
    pub(crate) fn put(
        &self,
        store: Store,
        stride: usize,
        all: &mut [f32],
        gradient: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let some = task_rows(stride);
        all.par_chunks_mut(some * stride).enumerate().for_each(|(block, all)| {
            let mut room = vec![0.0; if store == Store::Add { self.width } else { 0 }];
            for (row, all) in (block * some..).zip(all.chunks_exact_mut(stride)) {
                let own = self.first..self.first + self.width;
                if store == Store::Add {
                    gradient(row, &mut room);
                    all[own].iter_mut().zip(&room).for_each(|(sum, g)| *sum += g);
                } else {
                    all[..own.start].fill(0.0);
                    all[own.end..].fill(0.0);
                    gradient(row, &mut all[own]);
                }
            }
        });
    }
}

/// Rows of some columns.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    x: &'a [f32],
    stride: usize,
    first: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    /// Columns of rows of `stride` values.
    pub(crate) fn new(x: &'a [f32], stride: usize, first: usize, width: usize) -> Self {
        Self { x, stride, first, width }
    }

    /// The columns in one row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.stride + self.first..][..self.width]
    }

    /// Share `which` of `shares` equal ones, in the rows `first..first + rows`.
    pub(crate) fn share(&self, which: usize, shares: usize, first: usize, rows: usize) -> View<'a> {
        let width = self.width / shares;
        let from = first * self.stride + self.first + which * width;
        View::with_stride(&self.x[from..], rows, width, self.stride)
    }
}
