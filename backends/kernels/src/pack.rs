//! Packing: operands rearranged so that the innermost loop reads them from one end to the other.

use std::ops::Range;

use super::tile::{Format, prefetch};
use super::view::View;
use super::{Isa, Kernel, bf16, launch};

/// Columns that are transposed together.
const SIDE: usize = 8;
/// Contiguous rows of the source that all panels get before the next ones. Where rows lie a power of two apart they share
/// the few places of a cache, which hold 8: these and the next, asked for in advance.
const ROWS: usize = 4;

/// Packs `source[k, n]` into panels of `W` columns, `out[n / W][depth][W]`, the last one padded with zeros.
pub(crate) fn pack<const W: usize>(isa: Isa, format: Format, source: View<'_>, out: &mut [f32]) {
    debug_assert_eq!(out.len(), source.columns.div_ceil(W) * W * format.depth(source.rows));
    if !out.is_empty() {
        launch(isa, Pack::<W> { format, source, out });
    }
}

struct Pack<'a, const W: usize> {
    format: Format,
    source: View<'a>,
    out: &'a mut [f32],
}

impl<const W: usize> Kernel for Pack<'_, W> {
    #[inline(always)]
    fn run(self, isa: Isa) {
        match self.format {
            Format::F32 => panels::<W, 1>(isa, self.source, self.out, |[x]| x),
            Format::Rounded => panels::<W, 1>(isa, self.source, self.out, |[x]| bf16::round(x)),
            Format::Pairs => panels::<W, 2>(isa, self.source, self.out, bf16::pair),
        }
    }
}

/// `P` elements of the inner dimension make one `word`.
#[inline(always)]
fn panels<const W: usize, const P: usize>(
    isa: Isa,
    source: View<'_>,
    out: &mut [f32],
    word: impl Fn([f32; P]) -> f32 + Copy,
) {
    let depth = source.rows.div_ceil(P);
    if source.column_stride != 1 && source.row_stride == 1 {
        for (p, out) in out.chunks_exact_mut(W * depth).enumerate() {
            along::<W, P>(isa, source, p * W, out.as_chunks_mut().0, word);
        }
        return;
    }
    let step = ROWS / P;
    for first in (0..depth).step_by(step) {
        let words = first..(first + step).min(depth);
        for (p, out) in out.chunks_exact_mut(W * depth).enumerate() {
            let out = &mut out.as_chunks_mut().0[words.clone()];
            across::<W, P>(source, first, p * W, out, word);
        }
    }
}

/// Some words of a panel of a source whose rows are contiguous.
#[inline(always)]
fn across<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [[f32; W]],
    word: impl Fn([f32; P]) -> f32 + Copy,
) {
    if source.column_stride != 1 || (first + out.len()) * P > source.rows || column + W > source.columns {
        return one_by_one::<W, P>(source, first, column, 0..W, out, word);
    }
    // The hardware doesn't foresee rows that are far apart.
    for k in (first + out.len()) * P..((first + 2 * out.len()) * P).min(source.rows) {
        prefetch(&source.data[k * source.row_stride + column..][..W]);
    }
    for (d, out) in out.iter_mut().enumerate() {
        let mut rows = [[0.0f32; W]; P];
        for (p, row) in rows.iter_mut().enumerate() {
            let start = ((first + d) * P + p) * source.row_stride + column;
            row.copy_from_slice(&source.data[start..][..W]);
        }
        for (j, out) in out.iter_mut().enumerate() {
            let mut x = [0.0f32; P];
            for (x, row) in x.iter_mut().zip(&rows) {
                *x = row[j];
            }
            *out = word(x);
        }
    }
}

/// A panel of a source whose columns are contiguous.
#[inline(always)]
fn along<const W: usize, const P: usize>(
    isa: Isa,
    source: View<'_>,
    column: usize,
    out: &mut [[f32; W]],
    word: impl Fn([f32; P]) -> f32 + Copy,
) {
    let words = source.rows / (SIDE * P) * SIDE;
    let columns = W.min(source.columns - column) / SIDE * SIDE;
    let (squares, rest) = out.split_at_mut(words);
    for j in (0..columns).step_by(SIDE) {
        for (s, out) in squares.chunks_exact_mut(SIDE).enumerate() {
            let mut square = [[0.0f32; SIDE]; SIDE];
            for (i, square) in square.iter_mut().enumerate() {
                let start = (column + j + i) * source.column_stride + s * SIDE * P;
                let mut line = [[0.0f32; P]; SIDE];
                line.as_flattened_mut().copy_from_slice(&source.data[start..][..SIDE * P]);
                for (out, &x) in square.iter_mut().zip(&line) {
                    *out = word(x);
                }
            }
            transpose(isa, &mut square);
            for (out, square) in out.iter_mut().zip(&square) {
                out[j..j + SIDE].copy_from_slice(square);
            }
        }
    }
    one_by_one::<W, P>(source, 0, column, columns..W, squares, word);
    one_by_one::<W, P>(source, words, column, 0..W, rest, word);
}

#[inline(always)]
fn transpose(isa: Isa, x: &mut [[f32; SIDE]; SIDE]) {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::PORTABLE {
        return super::x86::transpose(isa, x);
    }
    let old = *x;
    for (i, x) in x.iter_mut().enumerate() {
        for (x, old) in x.iter_mut().zip(&old) {
            *x = old[i];
        }
    }
}

/// Some columns of some words of a panel: what is ragged, or contiguous in neither direction.
#[inline(always)]
fn one_by_one<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    columns: Range<usize>,
    out: &mut [[f32; W]],
    word: impl Fn([f32; P]) -> f32,
) {
    for (d, out) in out.iter_mut().enumerate() {
        for j in columns.clone() {
            let mut x = [0.0f32; P];
            for (p, x) in x.iter_mut().enumerate() {
                let (i, j) = ((first + d) * P + p, column + j);
                if i < source.rows && j < source.columns {
                    *x = source.at(i, j);
                }
            }
            out[j] = word(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Numbers;

    /// The obvious twin.
    fn word(format: Format, source: View<'_>, d: usize, j: usize) -> f32 {
        let at = |i| if i < source.rows && j < source.columns { source.at(i, j) } else { 0.0 };
        match format {
            Format::F32 => at(d),
            Format::Rounded => bf16::round(at(d)),
            Format::Pairs => bf16::pair([at(2 * d), at(2 * d + 1)]),
        }
    }

    fn check<const W: usize>(source: View<'_>) {
        for format in [Format::F32, Format::Rounded, Format::Pairs] {
            let depth = format.depth(source.rows);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; source.columns.next_multiple_of(W) * depth];
                pack::<W>(isa, format, source, &mut out);
                for (i, out) in out.iter().enumerate() {
                    let (j, d) = (i / (W * depth) * W + i % W, i / W % depth);
                    let expected = word(format, source, d, j);
                    assert_eq!(
                        out.to_bits(),
                        expected.to_bits(),
                        "{isa:?} {format:?} {W} word {d} of column {j}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_layout_is_packed_alike() {
        for (k, n) in [(1, 1), (8, 8), (16, 32), (17, 33), (40, 70), (3, 100), (100, 5), (0, 9), (9, 0)] {
            let data = Numbers::new((k * 1000 + n) as u64).normal((2 * k + 3) * (2 * n + 3), 1.0);
            let rows = View::with_stride(&data, k, n, n + 3);
            let columns = View::with_stride(&data, n, k, k + 1).t();
            let neither = View { data: &data, rows: k, columns: n, row_stride: 2 * n + 1, column_stride: 2 };
            for source in [rows, columns, neither] {
                check::<8>(source);
                check::<32>(source);
            }
        }
    }
}
