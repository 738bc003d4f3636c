//! What happens inside a chunk of steps: gates, decays, and pairs of steps.
//!
//! A decay between two steps is the product of the gates between them: `exp(G_i - G_j) = f_{j+1} ⋯ f_i` (architectures.md
//! 1.5). Products of numbers from 0 to 1 neither overflow nor cancel, whatever the gates are, and need no exponential.

use bheval_kernels::elementwise::{sigmoids, silu};
use bheval_kernels::{Isa, Kernel, LANES};

use super::tiles::{Block, lanes};

/// Steps of a chunk. Reading and updating the state costs the same for any length; what pairs of steps cost grows with it.
pub(super) const CHUNK: usize = 16;

/// Rows `[u | z | i]` of one sequence, as one head sees them, and the bounds of its gates.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    /// `[steps, 3 · width]`
    pub(super) x: &'a [f32],
    /// Channels of all heads.
    pub(super) width: usize,
    /// The head's first channel.
    pub(super) first: usize,
    /// Channels of the head.
    pub(super) dim: usize,
    /// `β [dim]`
    pub(super) bound: &'a [f32],
    /// `1 - β [dim]`
    pub(super) complement: &'a [f32],
}

impl<'a> Head<'a> {
    /// `u`, `z` and `i` of a step.
    #[inline(always)]
    pub(super) fn row(&self, step: usize) -> [&'a [f32]; 3] {
        let row = &self.x[step * 3 * self.width..][..3 * self.width];
        std::array::from_fn(|part| &row[part * self.width + self.first..][..self.dim])
    }

    pub(super) fn steps(&self) -> usize {
        self.x.len() / (3 * self.width)
    }

    /// Channels with padding.
    pub(super) fn padded(&self) -> usize {
        padded(self.dim)
    }

    /// `K^{-1/2}`
    pub(super) fn scale(&self) -> f32 {
        (self.dim as f64).powf(-0.5) as f32
    }
}

/// Channels of a head, filled up to whole registers.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// A chunk's rows, `[CHUNK, padded]` each. Steps after the last and channels after the last are closed (`k = q = v = 0`) and
/// forget nothing (`f = 1`), so that they change nothing.
pub(super) struct Rows<'a> {
    /// `K^{-1/2} silu(u)`
    pub(super) q: &'a mut [f32],
    /// `(1 - β) σ(-z)`, which keeps its digits where `1 - f` loses them.
    pub(super) k: &'a mut [f32],
    /// `β + (1 - β) σ(z)`
    pub(super) f: &'a mut [f32],
    /// `i`
    pub(super) v: &'a mut [f32],
}

/// Reads the chunk that begins at step `begin`.
pub(super) struct Load<'a, 'b> {
    pub(super) head: Head<'a>,
    pub(super) begin: usize,
    pub(super) rows: Rows<'b>,
}

impl Kernel for Load<'_, '_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (head, size, scale) = (self.head, self.head.padded(), self.head.scale());
        let Rows { q, k, f, v } = self.rows;
        let steps = self.begin..head.steps().min(self.begin + CHUNK);
        let used = steps.len() * size;
        for (rows, filler) in [(&mut *q, 0.0), (&mut *k, 0.0), (&mut *f, 1.0), (&mut *v, 0.0)] {
            rows[used..].fill(filler);
            if size > head.dim {
                for row in rows[..used].chunks_exact_mut(size) {
                    row[head.dim..].fill(filler);
                }
            }
        }
        for (t, step) in steps.enumerate() {
            let ([u, z, i], at) = (head.row(step), t * size..t * size + head.dim);
            v[at.clone()].copy_from_slice(i);
            for (q, u) in q[at.clone()].iter_mut().zip(u) {
                *q = silu(*u) * scale;
            }
            let gates = f[at.clone()].iter_mut().zip(&mut k[at]).zip(z);
            for (((f, k), z), (bound, complement)) in gates.zip(head.bound.iter().zip(head.complement)) {
                let (open, closed) = sigmoids(*z);
                *f = complement.mul_add(open, *bound);
                *k = complement * closed;
            }
        }
    }
}

/// Decays from the chunk's entry to each step and from each step to its end, applied to queries and keys.
pub(super) struct Decay<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) f: &'a [f32],
    /// `exp(G_t)`, `[CHUNK, padded]`; its last row is the whole chunk's decay.
    pub(super) entry: &'a mut [f32],
    /// `exp(G_C - G_t)`, `[CHUNK, padded]`
    pub(super) exit: &'a mut [f32],
    /// `q ⊙ exp(G_t)`
    pub(super) q_entry: &'a mut [f32],
    /// `k ⊙ exp(G_C - G_t)`
    pub(super) k_exit: &'a mut [f32],
}

impl Kernel for Decay<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.f.len() / CHUNK;
        for c in (0..size).step_by(LANES) {
            let mut product = [1.0f32; LANES];
            for t in 0..CHUNK {
                let at = t * size + c;
                times(&mut product, &self.f[at..]);
                self.entry[at..][..LANES].copy_from_slice(&product);
                put_product(&mut self.q_entry[at..], &product, &self.q[at..]);
            }
            let mut product = [1.0f32; LANES];
            for t in (0..CHUNK).rev() {
                let at = t * size + c;
                self.exit[at..][..LANES].copy_from_slice(&product);
                put_product(&mut self.k_exit[at..], &product, &self.k[at..]);
                times(&mut product, &self.f[at..]);
            }
        }
    }
}

/// `x = x ⊙ y`
#[inline(always)]
fn times(x: &mut [f32; LANES], y: &[f32]) {
    let y = lanes(y, 0);
    for l in 0..LANES {
        x[l] *= y[l];
    }
}

/// `out = x ⊙ y`
#[inline(always)]
fn put_product(out: &mut [f32], x: &[f32; LANES], y: &[f32]) {
    let mut product = *x;
    times(&mut product, y);
    out[..LANES].copy_from_slice(&product);
}

/// `A_ij = Σ_k q_ik k_jk f_{j+1,k} ⋯ f_ik` for `j <= i`, else 0: `[CHUNK, CHUNK]`, transposed.
pub(super) struct Scores<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) f: &'a [f32],
    pub(super) a: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Self { q, k, f, a } = self;
        let size = f.len() / CHUNK;
        for (j, a) in a.chunks_exact_mut(CHUNK).enumerate() {
            let mut sums = Block::ZERO;
            let mut c = 0;
            while c + 4 * LANES <= size {
                add_scores::<4>([q, k, f], size, (j, c), &mut sums);
                c += 4 * LANES;
            }
            while c < size {
                add_scores::<1>([q, k, f], size, (j, c), &mut sums);
                c += LANES;
            }
            a.copy_from_slice(&sums.totals());
        }
    }
}

/// Adds `N` registers of channels, from `c` on, to each lane's part of `A_ij`, `i` from `j` on.
#[inline(always)]
fn add_scores<const N: usize>([q, k, f]: [&[f32]; 3], size: usize, (j, c): (usize, usize), sums: &mut Block) {
    let mut key = registers::<N>(k, j * size + c);
    for i in j..CHUNK {
        let mut sum = sums.0[i];
        let (f, q) = (registers::<N>(f, i * size + c), registers::<N>(q, i * size + c));
        for n in 0..N {
            for l in 0..LANES {
                key[n][l] *= if i > j { f[n][l] } else { 1.0 };
                sum[l] = q[n][l].mul_add(key[n][l], sum[l]);
            }
        }
        sums.0[i] = sum;
    }
}

/// `N` registers from `at` on.
#[inline(always)]
fn registers<const N: usize>(x: &[f32], at: usize) -> [[f32; LANES]; N] {
    std::array::from_fn(|n| lanes(x, at + n * LANES))
}

/// `dA_ij = dO_i · v_j` for `j <= i`, else 0: `[CHUNK, CHUNK]`, transposed.
pub(super) struct ScoreGradients<'a> {
    pub(super) d_o: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) d_a: &'a mut [f32],
}

impl Kernel for ScoreGradients<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.v.len() / CHUNK;
        for (j, d_a) in self.d_a.chunks_exact_mut(CHUNK).enumerate() {
            let mut sums = Block::ZERO;
            for i in j..CHUNK {
                let mut sum = [0.0f32; LANES];
                for c in (0..size).step_by(LANES) {
                    let (v, d_o) = (lanes(self.v, j * size + c), lanes(self.d_o, i * size + c));
                    for l in 0..LANES {
                        sum[l] = d_o[l].mul_add(v[l], sum[l]);
                    }
                }
                sums.0[i] = sum;
            }
            d_a.copy_from_slice(&sums.totals());
        }
    }
}

/// What pairs of different steps give to queries and keys: `dq_i = Σ_{j<i} dA_ij k_j f_{j+1} ⋯ f_i` and
/// `dk_j = Σ_{i>j} dA_ij q_i f_{j+1} ⋯ f_i`. A step's pair with itself has no decay; it is left to [`super::chain`].
pub(super) struct Within<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) f: &'a [f32],
    pub(super) d_a: &'a [f32],
    pub(super) dq: &'a mut [f32],
    pub(super) dk: &'a mut [f32],
}

impl Kernel for Within<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let size = self.f.len() / CHUNK;
        for c in (0..size).step_by(LANES) {
            let (q, f) = (Block::read(self.q, size, c), Block::read(self.f, size, c));
            let mut dq = Block::ZERO;
            for j in 0..CHUNK {
                let key = lanes(self.k, j * size + c);
                let (mut decay, mut dk) = ([1.0f32; LANES], [0.0f32; LANES]);
                for i in j + 1..CHUNK {
                    let d_a = self.d_a[j * CHUNK + i];
                    for l in 0..LANES {
                        decay[l] *= f.0[i][l];
                        let part = d_a * decay[l];
                        dq.0[i][l] = part.mul_add(key[l], dq.0[i][l]);
                        dk[l] = part.mul_add(q.0[i][l], dk[l]);
                    }
                }
                self.dk[j * size + c..][..LANES].copy_from_slice(&dk);
            }
            dq.write(self.dq, size, c);
        }
    }
}
