//! Loops over the tokens of a chunk, for one head or all heads of a group.

use bheval_kernels::elementwise::exp;
use bheval_kernels::product::View;
use bheval_kernels::{Isa, Kernel, LANES};

use super::CHUNK;

/// Numbers for each token of a chunk.
pub(super) type Tokens = [f32; CHUNK];

/// `out[i, h p] = x[i, h p] · factors[h][i]`; `out` has as many columns as `x`, without gaps.
pub(super) struct Scale<'a> {
    pub(super) x: View<'a>,
    pub(super) factors: &'a [Tokens],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.x.columns / self.factors.len();
        let rows = self.out.chunks_exact_mut(self.x.columns).zip(self.x.data.chunks(self.x.row_stride));
        for (i, (out, x)) in rows.enumerate() {
            let heads = out.chunks_exact_mut(size).zip(x.chunks_exact(size));
            for ((out, x), factors) in heads.zip(self.factors) {
                out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factors[i]);
            }
        }
    }
}

/// `out[h][i] = Σ_p a[i, h p] b[i, h p]`
pub(super) struct Dots<'a> {
    pub(super) a: View<'a>,
    pub(super) b: View<'a>,
    pub(super) out: &'a mut [Tokens],
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.a.columns / self.out.len();
        for i in 0..self.a.rows {
            let a = &self.a.data[i * self.a.row_stride..][..self.a.columns];
            let b = &self.b.data[i * self.b.row_stride..][..self.a.columns];
            let heads = a.chunks_exact(size).zip(b.chunks_exact(size));
            for ((a, b), out) in heads.zip(self.out.iter_mut()) {
                out[i] = dot(a, b);
            }
        }
    }
}

/// `Σ a b`, in lanes.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, ra), (b, rb)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            lanes[l] = a[l].mul_add(b[l], lanes[l]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(ra).zip(rb) {
        *lane = a.mul_add(*b, *lane);
    }
    total(&lanes)
}

/// The sum, halves added to each other.
#[inline(always)]
fn total<const N: usize>(x: &[f32; N]) -> f32 {
    let (mut x, mut half) = (*x, N / 2);
    while half > 0 {
        for l in 0..half {
            x[l] += x[l + half];
        }
        half /= 2;
    }
    x[0]
}

/// `Σ a ⊙ b` of whole slices.
pub(super) struct Product<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) out: &'a mut f32,
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        *self.out = dot(self.a, self.b);
    }
}

/// `y[i] = factors[i] y[i] + skip x[i]` for one head, or `skip x[i]` where there are no factors.
pub(super) struct Start<'a> {
    pub(super) x: View<'a>,
    pub(super) skip: f32,
    pub(super) factors: Option<&'a Tokens>,
    /// Rows `stride` apart.
    pub(super) y: &'a mut [f32],
    pub(super) stride: usize,
}

impl Kernel for Start<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Self { x, skip, .. } = self;
        let rows = self.y.chunks_mut(self.stride).zip(x.data.chunks(x.row_stride)).take(x.rows);
        for (i, (y, x_row)) in rows.enumerate() {
            let pairs = y[..x.columns].iter_mut().zip(x_row);
            match self.factors {
                Some(factors) => pairs.for_each(|(y, x)| *y = factors[i].mul_add(*y, skip * x)),
                None => pairs.for_each(|(y, x)| *y = skip * x),
            }
        }
    }
}

/// Decays of one head from each token to each later one.
#[derive(Clone, Copy)]
pub(super) struct Decays<'a> {
    /// `s`
    pub(super) sums: &'a Tokens,
    /// Δ
    pub(super) delta: &'a Tokens,
    pub(super) rows: usize,
}

impl Decays<'_> {
    /// `exp(s_i - s_j)` for all `i`, 0 before `j` and beyond the last token.
    #[inline(always)]
    fn onward(self, j: usize) -> Tokens {
        let mut decays = [0.0; CHUNK];
        for (i, decay) in decays.iter_mut().enumerate() {
            let value = exp(self.sums[i] - self.sums[j]);
            *decay = if i >= j && i < self.rows { value } else { 0.0 };
        }
        decays
    }
}

/// `mix[j][i] = scores[j][i] exp(s_i - s_j) Δ_j`, 0 for `i < j`.
pub(super) struct Mix<'a> {
    pub(super) decays: Decays<'a>,
    /// `B_j · C_i`
    pub(super) scores: &'a [Tokens],
    pub(super) mix: &'a mut [Tokens],
}

impl Kernel for Mix<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.mix.iter_mut().zip(self.scores).take(self.decays.rows);
        for (j, (mix, scores)) in rows.enumerate() {
            let (decays, delta) = (self.decays.onward(j), self.decays.delta[j]);
            for i in 0..CHUNK {
                mix[i] = scores[i] * decays[i] * delta;
            }
        }
    }
}

/// The way back through [`Mix`], and `mix` once more.
pub(super) struct Unmix<'a> {
    pub(super) decays: Decays<'a>,
    pub(super) scores: &'a [Tokens],
    /// Gradient of `mix`.
    pub(super) dmix: &'a [Tokens],
    pub(super) mix: &'a mut [Tokens],
    /// Gradient of `scores`, which is added to.
    pub(super) dscores: &'a mut [Tokens],
    /// Gradient of Δ, which is added to.
    pub(super) ddelta: &'a mut Tokens,
    /// Gradient of each token's `Δ A`, which is added to: the sum of `mix dmix` over all pairs `j < t ≤ i`. Pairs that a
    /// token does not lie between are never added, so nothing cancels.
    pub(super) dlog: &'a mut Tokens,
}

impl Kernel for Unmix<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        // Σ_{j' ≤ j} mix dmix for each i > j
        let mut passing = [0.0; CHUNK];
        for j in 0..self.decays.rows {
            let (decays, delta) = (self.decays.onward(j), self.decays.delta[j]);
            let (scores, dmix) = (&self.scores[j], &self.dmix[j]);
            let (mix, dscores) = (&mut self.mix[j], &mut self.dscores[j]);
            let mut own = [0.0; CHUNK];
            for i in 0..CHUNK {
                let weighted = scores[i] * decays[i];
                mix[i] = weighted * delta;
                own[i] = weighted * dmix[i];
                dscores[i] = (decays[i] * delta).mul_add(dmix[i], dscores[i]);
                passing[i] = own[i].mul_add(delta, passing[i]);
            }
            passing[j] = 0.0;
            self.ddelta[j] += total(&own);
            if j + 1 < self.decays.rows {
                self.dlog[j + 1] += total(&passing);
            }
        }
    }
}
