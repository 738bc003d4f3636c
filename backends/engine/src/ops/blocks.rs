//! Rows divided into blocks of columns, so that each thread writes columns of its own.

/// The part of every row that lies in each block: `blocks[b][row]` has the columns `bounds[b]..bounds[b + 1]`.
///
/// # Panics
/// If the bounds fall or leave the rows.
pub(crate) fn column_blocks<'a>(
    rows: impl Iterator<Item = &'a mut [f32]>,
    bounds: &[usize],
) -> Vec<Vec<&'a mut [f32]>> {
    let mut blocks: Vec<Vec<&mut [f32]>> =
        bounds.windows(2).map(|_| Vec::with_capacity(rows.size_hint().0)).collect();
    for row in rows {
        let mut rest = &mut row[bounds.first().copied().unwrap_or(0)..];
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
        let bounds = bounds(4, 3);
        assert_eq!(bounds, [0, 3, 4]);
        let blocks = column_blocks(data.chunks_exact_mut(4), &bounds);
        assert_eq!(blocks[0], [[0.0, 1.0, 2.0], [4.0, 5.0, 6.0], [8.0, 9.0, 10.0]]);
        assert_eq!(blocks[1], [[3.0], [7.0], [11.0]]);
    }
}
