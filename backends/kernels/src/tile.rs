//! The innermost step of a product: [`STRIP`] rows times [`PANEL`] columns, from packed operands.

use super::{Isa, Kernel, gemm, launch};

/// Rows of `c` that a tile covers: 8 x 32 sums are half of the registers of AVX-512.
pub(crate) const STRIP: usize = 8;
/// Columns of `c` that a tile covers.
pub(crate) const PANEL: usize = 32;
/// Columns in one register of the widest instruction set.
const LANES: usize = super::LANES;

/// The sums of a tile.
pub(crate) type Sums = [[f32; PANEL]; STRIP];

/// How packed operands hold what they hold. A word is 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// A word is an f32.
    F32,
    /// A word is an f32 whose value is a bf16.
    Rounded,
    /// A word is two bf16, neighbours along the inner dimension, the first in the lower half.
    Pairs,
}

impl Format {
    /// Words that `k` elements of the inner dimension take.
    pub(crate) fn depth(self, k: usize) -> usize {
        if self == Format::Pairs { k.div_ceil(2) } else { k }
    }

    /// Elements that this many words hold.
    pub(crate) fn elements(self, words: usize) -> usize {
        if self == Format::Pairs { 2 * words } else { words }
    }
}

/// The rows of a part of `c`.
pub(crate) trait Rows {
    /// The columns of row `i` that belong to the part.
    fn row(&mut self, i: usize) -> &mut [f32];
}

/// Which part of a part of `c` a tile covers, cut off at the edges, and whether `c` is added to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) column: usize,
    pub(crate) columns: usize,
    pub(crate) add: bool,
}

/// Multiplies a strip `a[depth][STRIP]` with a panel `b[depth][PANEL]`: one chain of fused multiply-adds from zero for each
/// [`gemm::BLOCK`] elements of the inner dimension, each then added to `c` (the first one stored, unless `add`). `sums` is
/// room to work in.
#[inline]
pub(crate) fn multiply<C: Rows>(
    isa: Isa,
    format: Format,
    (a, b): (&[f32], &[f32]),
    sums: &mut Sums,
    c: &mut C,
    mut place: Place,
) {
    let block = format.depth(gemm::BLOCK);
    for r in place.row..place.row + place.rows {
        prefetch(&c.row(r)[place.column..][..place.columns]);
    }
    for (a, b) in a.as_chunks().0.chunks(block).zip(b.as_chunks().0.chunks(block)) {
        match format {
            #[cfg(target_arch = "x86_64")]
            Format::Pairs => super::x86::dot_pairs(isa, a, b, sums),
            _ => launch(isa, Block { a, b, sums }),
        }
        launch(isa, Put { sums, c, place });
        place.add = true;
    }
}

/// Asks for the cache lines of `x` to be brought near, where there is a way to.
#[inline(always)]
pub(crate) fn prefetch(x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    super::x86::prefetch(x);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// A kernel of its own, whose result lies in memory: the compiler then keeps the running sums in registers.
struct Block<'a> {
    a: &'a [[f32; STRIP]],
    b: &'a [[f32; PANEL]],
    sums: &'a mut Sums,
}

impl Kernel for Block<'_> {
    #[inline(always)]
    fn run(self, isa: Isa) {
        if isa.is_wide() {
            return block::<STRIP, 2>(self.a, self.b, 0, 0, self.sums);
        }
        // 4 x 16 sums are half of the registers of AVX2.
        for (row, column) in [(0, 0), (0, LANES), (STRIP / 2, 0), (STRIP / 2, LANES)] {
            block::<{ STRIP / 2 }, 1>(self.a, self.b, row, column, self.sums);
        }
    }
}

/// The sums of `R` rows of a strip, from `row` on, and `V · LANES` columns of a panel, from `column` on.
#[inline(always)]
fn block<const R: usize, const V: usize>(
    a: &[[f32; STRIP]],
    b: &[[f32; PANEL]],
    row: usize,
    column: usize,
    out: &mut Sums,
) {
    let mut sums = [[[0.0f32; LANES]; V]; R];
    for (a, b) in a.iter().zip(b) {
        let mut lanes = [[0.0f32; LANES]; V];
        for v in 0..V {
            lanes[v].copy_from_slice(&b[column + v * LANES..][..LANES]);
        }
        for r in 0..R {
            let a = a[row + r];
            for v in 0..V {
                for l in 0..LANES {
                    sums[r][v][l] = a.mul_add(lanes[v][l], sums[r][v][l]);
                }
            }
        }
    }
    for (out, sums) in out[row..].iter_mut().zip(&sums) {
        for (v, sums) in sums.iter().enumerate() {
            out[column + v * LANES..][..LANES].copy_from_slice(sums);
        }
    }
}

/// Stores or adds the sums of a tile, as far as the tile reaches.
struct Put<'a, C> {
    sums: &'a Sums,
    c: &'a mut C,
    place: Place,
}

impl<C: Rows> Kernel for Put<'_, C> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Place { row, rows, column, columns, add } = self.place;
        for (r, sums) in self.sums[..rows].iter().enumerate() {
            let c = &mut self.c.row(row + r)[column..][..columns];
            // A copy cannot overlap with `c`: that lets the compiler use whole registers.
            let sums = *sums;
            match <&mut [f32; PANEL]>::try_from(&mut *c) {
                Ok(c) if add => c.iter_mut().zip(sums).for_each(|(c, s)| *c += s),
                Ok(c) => *c = sums,
                Err(_) => c.iter_mut().zip(sums).for_each(|(c, s)| *c = if add { *c + s } else { s }),
            }
        }
    }
}
