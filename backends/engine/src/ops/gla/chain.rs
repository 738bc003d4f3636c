//! From the gradients of a chunk's queries and keys to those of its gates, and on to what the gates were made of
//! (architectures.md 1.7 and 1.8).

use bheval_kernels::elementwise::sigmoids;
use bheval_kernels::{Isa, Kernel, LANES};

use super::chunk::{CHUNK, Head};
use super::tiles::lanes;

/// Adds up the gradients of queries and keys, and makes that of the gates' logarithms,
///
/// ```text
/// dg_t = Σ_{u>=t} (q_u ⊙ dq_u − k_u ⊙ dk_u) + Σ_{u<t} k_u ⊙ dk_exit_u + exp(G_C) ⊙ Σ_v (S ⊙ Ŝ)
/// ```
///
/// where the first sum is over the chunk's own pairs and entries. A step's pair with itself cancels in it and is left out,
/// and keys that leave the chunk are summed from the left: both would drown the small gradient of a closed gate in rounding.
pub(super) struct Gather<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) entry: &'a [f32],
    pub(super) exit: &'a [f32],
    pub(super) d_a: &'a [f32],
    /// `dO Sᵀ`
    pub(super) dq_entry: &'a [f32],
    /// `v Ŝᵀ`
    pub(super) dk_exit: &'a [f32],
    /// `Σ_v (S ⊙ Ŝ)`, `[padded]`
    pub(super) through: &'a [f32],
    /// In: what pairs of different steps give; out: all.
    pub(super) dq: &'a mut [f32],
    /// As `dq`.
    pub(super) dk: &'a mut [f32],
    pub(super) dg: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.q.len() / CHUNK;
        for c in (0..size).step_by(LANES) {
            let mut after = [0.0f32; LANES];
            for t in (0..CHUNK).rev() {
                let at = t * size + c;
                let (q, k, own) = (lanes(self.q, at), lanes(self.k, at), self.d_a[t * CHUNK + t]);
                let (entry, dq_entry) = (lanes(self.entry, at), lanes(self.dq_entry, at));
                let (mut dq, mut dk) = (lanes(self.dq, at), lanes(self.dk, at));
                for l in 0..LANES {
                    dq[l] = entry[l].mul_add(dq_entry[l], dq[l]);
                    after[l] = q[l].mul_add(dq[l], after[l]) - k[l] * dk[l];
                    dq[l] = own.mul_add(k[l], dq[l]);
                    dk[l] = own.mul_add(q[l], dk[l]);
                }
                self.dq[at..][..LANES].copy_from_slice(&dq);
                self.dk[at..][..LANES].copy_from_slice(&dk);
                self.dg[at..][..LANES].copy_from_slice(&after);
            }
            let (whole, mut before) = (lanes(self.entry, (CHUNK - 1) * size + c), lanes(self.through, c));
            for l in 0..LANES {
                before[l] *= whole[l];
            }
            for t in 0..CHUNK {
                let at = t * size + c;
                let (k, exit, dk_exit) = (lanes(self.k, at), lanes(self.exit, at), lanes(self.dk_exit, at));
                let (mut dg, mut dk) = (lanes(self.dg, at), lanes(self.dk, at));
                for l in 0..LANES {
                    dg[l] += before[l];
                    let leaving = exit[l] * dk_exit[l];
                    dk[l] += leaving;
                    before[l] = k[l].mul_add(leaving, before[l]);
                }
                self.dg[at..][..LANES].copy_from_slice(&dg);
                self.dk[at..][..LANES].copy_from_slice(&dk);
            }
        }
    }
}

/// `Σ_v (S ⊙ Ŝ)` of transposed states `[V, K]`.
pub(super) struct Through<'a> {
    pub(super) state: &'a [f32],
    pub(super) d_state: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Through<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.out.len();
        for c in (0..size).step_by(LANES) {
            let mut sum = [0.0f32; LANES];
            for (s, d) in self.state.chunks_exact(size).zip(self.d_state.chunks_exact(size)) {
                let (s, d) = (lanes(s, c), lanes(d, c));
                for l in 0..LANES {
                    sum[l] = s[l].mul_add(d[l], sum[l]);
                }
            }
            self.out[c..][..LANES].copy_from_slice(&sum);
        }
    }
}

/// The chunk's gradients, `[CHUNK, padded]` each.
#[derive(Clone, Copy)]
pub(super) struct Gradients<'a> {
    pub(super) f: &'a [f32],
    pub(super) dq: &'a [f32],
    pub(super) dk: &'a [f32],
    pub(super) dg: &'a [f32],
    pub(super) dv: &'a [f32],
}

/// Where a row's gradients go, `[dim]` each.
pub(super) struct Out<'a> {
    pub(super) u: &'a mut [f32],
    pub(super) z: &'a mut [f32],
    pub(super) v: &'a mut [f32],
    /// Added to.
    pub(super) bound: &'a mut [f32],
}

/// One step's gradients of `u`, `z`, `v` and, summed over the steps, `β`.
pub(super) struct Inputs<'a, 'b> {
    pub(super) head: Head<'a>,
    pub(super) step: usize,
    pub(super) gradients: Gradients<'a>,
    /// Whether what `out` holds stays.
    pub(super) add: bool,
    pub(super) out: Out<'b>,
}

impl Kernel for Inputs<'_, '_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Self { head, step, gradients: Gradients { f, dq, dk, dg, dv }, add, out } = self;
        let at = step % CHUNK * head.padded()..step % CHUNK * head.padded() + head.dim;
        let ([u, z, _], scale) = (head.row(step), head.scale());
        let put = |out: &mut f32, x: f32| *out = if add { *out + x } else { x };
        for ((out, dv), ((du, u), dq)) in
            out.v.iter_mut().zip(&dv[at.clone()]).zip(out.u.iter_mut().zip(u).zip(&dq[at.clone()]))
        {
            put(out, *dv);
            let (open, closed) = sigmoids(*u);
            put(du, scale * dq * open * u.mul_add(closed, 1.0));
        }
        let bounds = head.bound.iter().zip(head.complement);
        let gradients = f[at.clone()].iter().zip(&dg[at.clone()]).zip(&dk[at]);
        let outs = out.z.iter_mut().zip(out.bound.iter_mut());
        for (((dz, d_bound), z), ((bound, complement), ((f, dg), dk))) in
            outs.zip(z).zip(bounds.zip(gradients))
        {
            let (open, closed) = sigmoids(*z);
            let (part, bounded) = (complement * open, *bound > 0.0);
            // `dg / f`, but where there is no bound `dg`, and `part / f` is 1: both may be 0. A bound of 0 has no gradient: it
            // is none, or comes from weights that are 0, through which nothing goes further.
            let per_f = dg / if bounded { *f } else { 1.0 };
            put(dz, (per_f * if bounded { part } else { 1.0 } - dk * part) * closed);
            *d_bound += if bounded { (per_f - dk) * closed } else { 0.0 };
        }
    }
}
