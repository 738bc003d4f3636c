//! Rows of heads, copied to and from where products need them: turned to their positions, scaled, transposed.

use bheval_kernels::product::View;
use bheval_kernels::{Isa, Kernel, LANES};

use crate::ops::rotary::Rotary;

/// Columns, from `column` on, of rows that lie `width` apart.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) data: &'a [f32],
    pub(super) width: usize,
    pub(super) column: usize,
}

impl<'a> Part<'a> {
    #[inline(always)]
    fn row(self, t: usize, dim: usize) -> &'a [f32] {
        &self.data[t * self.width + self.column..][..dim]
    }
}

/// `out[i] = scale · turn(from[first + i])`
pub(super) struct Load<'a> {
    pub(super) from: Part<'a>,
    pub(super) first: usize,
    pub(super) dim: usize,
    pub(super) wide: usize,
    pub(super) turn: Option<&'a Rotary>,
    pub(super) scale: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Load<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (i, out) in self.out.chunks_exact_mut(self.wide).enumerate() {
            let out = &mut out[..self.dim];
            let from = self.from.row(self.first + i, self.dim);
            out.iter_mut().zip(from).for_each(|(o, x)| *o = x * self.scale);
            if let Some(rotary) = self.turn {
                rotary.turn(self.first + i, out);
            }
        }
    }
}

/// Columns of rows that are written.
pub(super) struct Rows<'a, 'b> {
    pub(super) rows: &'a mut [&'b mut [f32]],
    pub(super) column: usize,
    pub(super) dim: usize,
}

/// `to[i] = turn back(scale(i) · from[i])`, the first row at the step that stands beside the rotation.
pub(super) struct Unload<'a, 'b, F> {
    pub(super) from: &'a [f32],
    pub(super) wide: usize,
    pub(super) to: Rows<'a, 'b>,
    pub(super) scale: F,
    pub(super) turn: Option<(&'a Rotary, usize)>,
}

impl<F: Fn(usize) -> f32> Kernel for Unload<'_, '_, F> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Rows { rows, column, dim } = self.to;
        for (i, (to, from)) in rows.iter_mut().zip(self.from.chunks_exact(self.wide)).enumerate() {
            let (to, scale) = (&mut to[column..column + dim], (self.scale)(i));
            to.iter_mut().zip(from).for_each(|(y, x)| *y = x * scale);
            if let Some((rotary, first)) = self.turn {
                rotary.turn_back(first + i, to);
            }
        }
    }
}

/// `out[i] = a[first + i] · b[first + i]`
pub(super) struct Along<'a> {
    pub(super) a: Part<'a>,
    pub(super) b: Part<'a>,
    pub(super) dim: usize,
    pub(super) first: usize,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Along<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (i, out) in self.out.iter_mut().enumerate() {
            let (a, b) = (self.a.row(self.first + i, self.dim), self.b.row(self.first + i, self.dim));
            let mut sums = [0.0f32; LANES];
            for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
            *out = sums.iter().map(|&s| f64::from(s)).sum::<f64>() as f32;
        }
    }
}

/// `to[j][i] = from[i][j]`, the rows of `to` being `stride` apart.
pub(super) struct Transpose<'a> {
    pub(super) from: View<'a>,
    pub(super) to: &'a mut [f32],
    pub(super) stride: usize,
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let View { data, rows, columns, row_stride, .. } = self.from;
        for begin in (0..rows).step_by(LANES) {
            let len = LANES.min(rows - begin);
            for j in 0..columns {
                let to = &mut self.to[j * self.stride + begin..][..len];
                for (i, to) in to.iter_mut().enumerate() {
                    *to = data[(begin + i) * row_stride + j];
                }
            }
        }
    }
}
