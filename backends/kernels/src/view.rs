//! Matrices as they lie in memory: a slice, a shape and how far apart neighbours are.

use std::ops::Range;

/// A view of a matrix: `at(i, j) = data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The elements, from `(0, 0)` to at least the last one.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix without gaps.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows * columns` elements.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "{rows} x {columns} is not the size of the matrix");
        Self::with_stride(data, rows, columns, columns)
    }

    /// A row-major matrix whose rows begin `row_stride` elements apart.
    ///
    /// # Panics
    /// If `data` ends before the last element.
    #[must_use]
    pub fn with_stride(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let view = Self { data, rows, columns, row_stride, column_stride: 1 };
        view.check();
        view
    }

    /// The transpose; nothing moves.
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

    /// Only these rows.
    ///
    /// # Panics
    /// If they are not there.
    #[must_use]
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "no rows {range:?} of {}", self.rows);
        let data = &self.data[(range.start * self.row_stride).min(self.data.len())..];
        Self { data, rows: range.len(), ..self }
    }

    /// Only these columns.
    ///
    /// # Panics
    /// If they are not there.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        self.t().rows(range).t()
    }

    /// Element `(i, j)`.
    #[inline]
    #[must_use]
    pub fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row_stride + j * self.column_stride]
    }

    /// # Panics
    /// If the last element lies beyond the data.
    pub(crate) fn check(&self) {
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride;
            assert!(
                last < self.data.len(),
                "the matrix is larger than its data: {last} >= {}",
                self.data.len()
            );
        }
    }
}

/// A row-major matrix to be written, its rows `row_stride` elements apart; what lies between rows is left alone.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// The elements, from `(0, 0)` to at least the last one.
    pub data: &'a mut [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Elements from one row to the next, at least `columns`.
    pub row_stride: usize,
}

impl<'a> ViewMut<'a> {
    /// A matrix without gaps.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows * columns` elements.
    #[must_use]
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "{rows} x {columns} is not the size of the matrix");
        Self::with_stride(data, rows, columns, columns)
    }

    /// A matrix whose rows begin `row_stride` elements apart.
    ///
    /// # Panics
    /// If `data` ends before the last element or rows overlap.
    #[must_use]
    pub fn with_stride(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let view = Self { data, rows, columns, row_stride };
        view.check();
        view
    }

    /// The same matrix for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { data: self.data, rows: self.rows, columns: self.columns, row_stride: self.row_stride }
    }

    /// The same matrix, to be read.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::with_stride(self.data, self.rows, self.columns, self.row_stride)
    }

    /// Only these rows.
    ///
    /// # Panics
    /// If they are not there.
    #[must_use]
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "no rows {range:?} of {}", self.rows);
        let start = (range.start * self.row_stride).min(self.data.len());
        Self { data: &mut self.data[start..], rows: range.len(), ..self }
    }

    /// Only these columns.
    ///
    /// # Panics
    /// If they are not there.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.columns,
            "no columns {range:?} of {}",
            self.columns
        );
        let start = range.start.min(self.data.len());
        Self { data: &mut self.data[start..], columns: range.len(), ..self }
    }

    /// # Panics
    /// If the last element lies beyond the data, or rows overlap.
    pub(crate) fn check(&self) {
        assert!(self.rows < 2 || self.columns <= self.row_stride, "the rows to be written overlap");
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1) * self.row_stride + self.columns - 1;
            assert!(
                last < self.data.len(),
                "the matrix is larger than its data: {last} >= {}",
                self.data.len()
            );
        }
    }
}
