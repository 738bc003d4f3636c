//! Packing: operands rearranged so that the innermost loop reads them from one end to the other.

use super::tile::Format;
use super::view::View;
use super::{Isa, Kernel, bf16, launch};

/// Columns that are transposed together, and words of the inner dimension that all panels get before the next ones.
const SIDE: usize = 8;

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
    for first in (0..depth).step_by(SIDE) {
        let last = (first + SIDE).min(depth);
        for (p, out) in out.chunks_exact_mut(W * depth).enumerate() {
            let (column, out) = (p * W, &mut out.as_chunks_mut().0[first..last]);
            let inside = last * P <= source.rows && column + W <= source.columns;
            if inside && source.column_stride == 1 {
                across::<W, P>(source, first, column, out, word);
            } else if inside && source.row_stride == 1 && out.len() == SIDE {
                along::<W, P>(isa, source, first, column, out, word);
            } else {
                one_by_one::<W, P>(source, first, column, out, word);
            }
        }
    }
}

/// Rows of the source are contiguous.
#[inline(always)]
fn across<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [[f32; W]],
    word: impl Fn([f32; P]) -> f32,
) {
    for (d, out) in out.iter_mut().enumerate() {
        let mut rows = [[0.0f32; W]; P];
        for p in 0..P {
            let start = ((first + d) * P + p) * source.row_stride + column;
            rows[p].copy_from_slice(&source.data[start..][..W]);
        }
        for j in 0..W {
            let mut x = [0.0f32; P];
            for p in 0..P {
                x[p] = rows[p][j];
            }
            out[j] = word(x);
        }
    }
}

/// Columns of the source are contiguous.
#[inline(always)]
fn along<const W: usize, const P: usize>(
    isa: Isa,
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [[f32; W]],
    word: impl Fn([f32; P]) -> f32,
) {
    for j in (0..W).step_by(SIDE) {
        let mut square = [[0.0f32; SIDE]; SIDE];
        for i in 0..SIDE {
            let start = (column + j + i) * source.column_stride + first * P;
            let mut line = [[0.0f32; P]; SIDE];
            line.as_flattened_mut().copy_from_slice(&source.data[start..][..SIDE * P]);
            for d in 0..SIDE {
                square[i][d] = word(line[d]);
            }
        }
        transpose(isa, &mut square);
        for (out, square) in out.iter_mut().zip(&square) {
            out[j..j + SIDE].copy_from_slice(square);
        }
    }
}

#[inline(always)]
fn transpose(isa: Isa, x: &mut [[f32; SIDE]; SIDE]) {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::PORTABLE {
        return super::x86::transpose(isa, x);
    }
    for i in 0..SIDE {
        for j in 0..i {
            (x[i][j], x[j][i]) = (x[j][i], x[i][j]);
        }
    }
}

/// What is ragged, or contiguous in neither direction.
#[inline(always)]
fn one_by_one<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [[f32; W]],
    word: impl Fn([f32; P]) -> f32,
) {
    for (d, out) in out.iter_mut().enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            let mut x = [0.0f32; P];
            for (p, x) in x.iter_mut().enumerate() {
                let (i, j) = ((first + d) * P + p, column + j);
                if i < source.rows && j < source.columns {
                    *x = source.at(i, j);
                }
            }
            *out = word(x);
        }
    }
}
