//! Packing: operands rearranged so that the innermost loop reads them from one end to the other.

use std::cell::RefCell;

use super::tile::Format;
use super::view::View;
use super::{Isa, Kernel, bf16, launch};

/// Rows of the source that are packed before the next panel's, and the side of a transposed square.
const SQUARE: usize = 8;

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
    fn run(self, _: Isa) {
        match self.format {
            Format::F32 => words::<W, 1>(self.source, self.out, |[x]| x),
            Format::Rounded => words::<W, 1>(self.source, self.out, |[x]| bf16::round(x)),
            Format::Pairs => words::<W, 2>(self.source, self.out, bf16::pair),
        }
    }
}

/// `P` elements of the inner dimension make one `word`.
#[inline(always)]
fn words<const W: usize, const P: usize>(source: View<'_>, out: &mut [f32], word: impl Fn([f32; P]) -> f32) {
    let depth = source.rows.div_ceil(P);
    let panel = depth * W;
    let mut first = 0;
    while first < depth {
        let last = (first + SQUARE).min(depth);
        for (p, out) in out.chunks_exact_mut(panel).enumerate() {
            let part = &mut out[first * W..last * W];
            let columns = W.min(source.columns - p * W);
            let whole = last * P <= source.rows && columns == W;
            if whole && source.column_stride == 1 {
                copy::<W, P>(source, first, p * W, part, &word);
            } else if whole && last - first == SQUARE && source.row_stride == 1 {
                transposed::<W, P>(source, first, p * W, part, &word);
            } else {
                one_by_one::<W, P>(source, first, p * W, part, &word);
            }
        }
        first = last;
    }
}

#[inline(always)]
fn copy<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [f32],
    word: impl Fn([f32; P]) -> f32,
) {
    for (d, out) in out.as_chunks_mut::<W>().0.iter_mut().enumerate() {
        let rows: [&[f32; W]; P] = std::array::from_fn(|p| {
            let start = ((first + d) * P + p) * source.row_stride + column;
            source.data[start..].first_chunk().expect("the view was checked")
        });
        for (j, out) in out.iter_mut().enumerate() {
            *out = word(std::array::from_fn(|p| rows[p][j]));
        }
    }
}

#[inline(always)]
fn transposed<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [f32],
    word: impl Fn([f32; P]) -> f32,
) {
    let out = out.as_chunks_mut::<W>().0;
    for j in (0..W).step_by(SQUARE) {
        let square: [[f32; SQUARE]; SQUARE] = std::array::from_fn(|i| {
            let start = (column + j + i) * source.column_stride + first * P;
            let line = &source.data[start..][..SQUARE * P];
            let line: &[[f32; P]; SQUARE] = line.as_chunks().0.first_chunk().expect("the view was checked");
            std::array::from_fn(|d| word(line[d]))
        });
        for (d, line) in transpose(square).iter().enumerate() {
            out[d][j..j + SQUARE].copy_from_slice(line);
        }
    }
}

#[inline(always)]
fn transpose(x: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    std::array::from_fn(|i| std::array::from_fn(|j| x[j][i]))
}

/// What is ragged, or contiguous in neither direction.
#[inline(always)]
fn one_by_one<const W: usize, const P: usize>(
    source: View<'_>,
    first: usize,
    column: usize,
    out: &mut [f32],
    word: impl Fn([f32; P]) -> f32,
) {
    for (d, out) in out.as_chunks_mut::<W>().0.iter_mut().enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            *out = word(std::array::from_fn(|p| {
                let (i, j) = ((first + d) * P + p, column + j);
                if i < source.rows && j < source.columns { source.at(i, j) } else { 0.0 }
            }));
        }
    }
}

thread_local! {
    /// Buffers that are not in use on this thread.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lends `work` a buffer of this many words, its content left over from earlier, at the beginning of a cache line.
///
/// A buffer stays with its thread, so that its pages are touched for the first time once. While `work` waits for other
/// threads its own may run another product: that one takes another buffer.
pub(crate) fn with_buffer<R>(words: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let room = words + LINE / size_of::<f32>();
    let mut buffer = FREE.with_borrow_mut(|free| take(free, room));
    if buffer.len() < room {
        buffer = vec![0.0; room];
    }
    let start = buffer.as_ptr().align_offset(LINE).min(room - words);
    let result = work(&mut buffer[start..][..words]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// The smallest that is large enough, else the largest, to be replaced.
fn take(free: &mut Vec<Vec<f32>>, room: usize) -> Vec<f32> {
    let fits = |v: &Vec<f32>| v.len() >= room;
    let best = (0..free.len()).min_by_key(|&i| {
        let len = free[i].len();
        if fits(&free[i]) { (0, len) } else { (1, usize::MAX - len) }
    });
    best.map_or_else(Vec::new, |i| free.swap_remove(i))
}
