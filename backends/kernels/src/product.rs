//! Matrix products for training.

use crate::Isa;
use crate::gemm::Store;

/// How the operands are rounded; sums are f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// Not at all.
    F32,
    /// To bf16, nearest even.
    Bf16,
}

/// `at(i, j) = data[i * row_stride + j * column_stride]`
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Values.
    pub data: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

impl<'a> View<'a> {
    /// Row by row.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Transposed.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix to be written.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    columns: usize,
}

impl<'a> ViewMut<'a> {
    /// Row by row.
    #[must_use]
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Self { data, columns }
    }
}

/// `c = a · b`, or added.
pub fn product(_: Isa, _: Precision, a: View<'_>, b: View<'_>, store: Store, c: ViewMut<'_>) {
    for (i, row) in c.data.chunks_exact_mut(c.columns).enumerate() {
        for (j, c) in row.iter_mut().enumerate() {
            let at = |k: usize| {
                (
                    a.data[i * a.row_stride + k * a.column_stride],
                    b.data[k * b.row_stride + j * b.column_stride],
                )
            };
            let sum = (0..a.columns).map(at).fold(0.0, |sum: f32, (a, b)| a.mul_add(b, sum));
            *c = if store == Store::Add { *c + sum } else { sum };
        }
    }
}
