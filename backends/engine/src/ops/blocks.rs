//! Rows divided into blocks of columns, so that each thread writes columns of its own; and gradients of some columns.

use bheval_kernels::gemm::Store;
use bheval_kernels::product::View;
use rayon::prelude::*;

use crate::ops::rows::task_rows;
use crate::ops::selection::Columns;
use crate::tape::Back;

impl Columns {
    /// These columns of `data`, the value's matrix.
    pub(crate) fn view<'a>(&self, data: &'a [f32], rows: usize) -> View<'a> {
        View::with_stride(&data[self.first..], rows, self.width, data.len() / rows)
    }

    /// These columns of `data`, the value's matrix, in blocks of `size`.
    pub(crate) fn blocks<'a>(
        &self,
        data: &'a mut [f32],
        rows: usize,
        size: usize,
    ) -> Vec<Vec<&'a mut [f32]>> {
        let width = data.len() / rows;
        let bounds: Vec<usize> = bounds(self.width, size).into_iter().map(|b| self.first + b).collect();
        column_blocks(data.chunks_exact_mut(width), &bounds)
    }

    /// Opens the value's gradient, of which only these columns are then written or added to; the others are 0 where
    /// nothing was there.
    pub(crate) fn open(&self, back: &mut Back<'_, '_>) -> (Store, Vec<f32>) {
        let (store, mut data) = back.open(self.value);
        let width = back.width(self.value);
        if store == Store::Set && self.width < width {
            data.par_chunks_mut(task_rows(width) * width).for_each(|rows| {
                for row in rows.chunks_exact_mut(width) {
                    row[..self.first].fill(0.0);
                    row[self.first + self.width..].fill(0.0);
                }
            });
        }
        (store, data)
    }
}

/// The part of every row that lies in each block: `blocks[b][row]` has the columns `bounds[b]..bounds[b + 1]`.
///
/// # Panics
/// If the bounds fall or leave the rows.
pub(crate) fn column_blocks<'a>(
    rows: impl Iterator<Item = &'a mut [f32]>,
    bounds: &[usize],
) -> Vec<Vec<&'a mut [f32]>> {
    let count = rows.size_hint().0;
    let mut blocks: Vec<Vec<&mut [f32]>> = bounds.windows(2).map(|_| Vec::with_capacity(count)).collect();
    let first = bounds.first().copied().unwrap_or(0);
    for row in rows {
        let mut rest = &mut row[first..];
        for (block, pair) in blocks.iter_mut().zip(bounds.windows(2)) {
            let (columns, tail) = rest.split_at_mut(pair[1] - pair[0]);
            block.push(columns);
            rest = tail;
        }
    }
    blocks
}

/// Where blocks of `size` columns begin and end, the last one as wide as columns are left.
pub(crate) fn bounds(columns: usize, size: usize) -> Vec<usize> {
    (0..columns).step_by(size).chain([columns]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_belongs_to_one_block() {
        let mut data: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let all = bounds(4, 3);
        assert_eq!(all, [0, 3, 4]);
        let blocks = column_blocks(data.chunks_exact_mut(4), &all);
        assert_eq!(blocks[0], [[0.0, 1.0, 2.0], [4.0, 5.0, 6.0], [8.0, 9.0, 10.0]]);
        assert_eq!(blocks[1], [[3.0], [7.0], [11.0]]);
        assert_eq!(column_blocks(data.chunks_exact_mut(4), &[1, 3, 4])[0][0], [1.0, 2.0]);
    }
}
