//! Rows divided among heads, so that each task writes columns of its own.

use crate::ops::blocks::{bounds, column_blocks};

/// Blocks of `dim` columns of each sequence, one slice a step: block `j` of sequence `b` has place `b * width / dim + j`.
pub(super) fn blocks(x: &mut [f32], steps: usize, width: usize, dim: usize) -> Vec<Vec<&mut [f32]>> {
    let bounds = bounds(width, dim);
    x.chunks_exact_mut(steps * width)
        .flat_map(|x| column_blocks(x.chunks_exact_mut(width), &bounds))
        .collect()
}

/// The blocks of `[u | z | i]` that belong together, in the order of sequences and heads.
pub(super) fn thirds(blocks: Vec<Vec<&mut [f32]>>, heads: usize) -> Vec<[Vec<&mut [f32]>; 3]> {
    let mut all = Vec::with_capacity(blocks.len() / 3);
    let mut blocks = blocks.into_iter();
    while blocks.len() > 0 {
        let mut third = || blocks.by_ref().take(heads).collect::<Vec<_>>();
        let (u, z, i) = (third(), third(), third());
        all.extend(u.into_iter().zip(z).zip(i).map(|((u, z), i)| [u, z, i]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_belongs_to_one_head() {
        // Two sequences of two steps, two heads of one channel.
        let mut x: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let heads = thirds(blocks(&mut x, 2, 6, 1), 2);
        assert_eq!(heads[1], [[[1.0], [7.0]], [[3.0], [9.0]], [[5.0], [11.0]]]);
        assert_eq!(heads[2], [[[12.0], [18.0]], [[14.0], [20.0]], [[16.0], [22.0]]]);
    }
}
