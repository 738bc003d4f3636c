//! What happens inside a chunk of steps: gates, decays, and pairs of steps.
//!
//! A decay between two steps is the product of the gates between them: `exp(G_i - G_j) = f_{j+1} ⋯ f_i` (architectures.md
//! 1.5). Products of numbers from 0 to 1 neither overflow nor cancel, whatever the gates are, and need no exponential.

use bheval_kernels::elementwise::{sigmoids, silu};
use bheval_kernels::{Isa, Kernel, LANES};

use super::tiles::{lanes, total};

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
                rows[..used].chunks_exact_mut(size).for_each(|row| row[head.dim..].fill(filler));
            }
        }
        for (t, step) in steps.enumerate() {
            let ([u, z, i], at) = (head.row(step), t * size..t * size + head.dim);
            v[at.clone()].copy_from_slice(i);
            q[at.clone()].iter_mut().zip(u).for_each(|(q, u)| *q = silu(*u) * scale);
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
            for at in (c..).step_by(size).take(CHUNK) {
                let (f, q) = (lanes(self.f, at), lanes(self.q, at));
                product = std::array::from_fn(|l| product[l] * f[l]);
                self.entry[at..][..LANES].copy_from_slice(&product);
                self.q_entry[at..][..LANES]
                    .copy_from_slice(&std::array::from_fn::<_, LANES, _>(|l| q[l] * product[l]));
            }
            let mut product = [1.0f32; LANES];
            for t in (0..CHUNK).rev() {
                let at = t * size + c;
                let (f, k) = (lanes(self.f, at), lanes(self.k, at));
                self.exit[at..][..LANES].copy_from_slice(&product);
                self.k_exit[at..][..LANES]
                    .copy_from_slice(&std::array::from_fn::<_, LANES, _>(|l| k[l] * product[l]));
                product = std::array::from_fn(|l| product[l] * f[l]);
            }
        }
    }
}

/// `A_ij = Σ_k q_ik k_jk f_{j+1,k} ⋯ f_ik` for `j <= i`, else 0: `[CHUNK, CHUNK]`.
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
        a.fill(0.0);
        // Four registers at a time, the rest one by one, whatever the instruction set: the order of a sum depends on it.
        let wide = size / (4 * LANES) * (4 * LANES);
        (0..wide).step_by(4 * LANES).for_each(|c| add_scores::<4>([q, k, f], c, a));
        (wide..size).step_by(LANES).for_each(|c| add_scores::<1>([q, k, f], c, a));
    }
}

/// Adds the channels from `c` on, `N` registers of them.
#[inline(always)]
fn add_scores<const N: usize>([q, k, f]: [&[f32]; 3], c: usize, a: &mut [f32]) {
    let size = f.len() / CHUNK;
    let row = |x: &[f32], t: usize| -> [[f32; LANES]; N] {
        std::array::from_fn(|n| lanes(x, t * size + c + n * LANES))
    };
    for j in 0..CHUNK {
        let mut key = row(k, j);
        for i in j..CHUNK {
            if i > j {
                let f = row(f, i);
                key = std::array::from_fn(|n| std::array::from_fn(|l| key[n][l] * f[n][l]));
            }
            let q = row(q, i);
            let mut sum = [0.0f32; LANES];
            for n in 0..N {
                sum = std::array::from_fn(|l| q[n][l].mul_add(key[n][l], sum[l]));
            }
            a[i * CHUNK + j] += total(&sum);
        }
    }
}

/// `dA_ij = dO_i · v_j` for `j <= i`, else 0: `[CHUNK, CHUNK]`.
pub(super) struct ScoreGradients<'a> {
    pub(super) d_o: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) d_a: &'a mut [f32],
}

impl Kernel for ScoreGradients<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        /// Columns of `dA` that share a row of `dO`.
        const COLUMNS: usize = 4;
        let size = self.v.len() / CHUNK;
        self.d_a.fill(0.0);
        for i in 0..CHUNK {
            for j in (0..=i).step_by(COLUMNS) {
                let mut sums = [[0.0f32; LANES]; COLUMNS];
                for c in (0..size).step_by(LANES) {
                    let d_o = lanes(self.d_o, i * size + c);
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let v = lanes(self.v, (j + n) * size + c);
                        *sum = std::array::from_fn(|l| d_o[l].mul_add(v[l], sum[l]));
                    }
                }
                for (n, sum) in sums.iter().enumerate().take(i + 1 - j) {
                    self.d_a[i * CHUNK + j + n] = total(sum);
                }
            }
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
            let block =
                |x: &[f32]| -> [[f32; LANES]; CHUNK] { std::array::from_fn(|t| lanes(x, t * size + c)) };
            let (q, f) = (block(self.q), block(self.f));
            let mut dq = [[0.0f32; LANES]; CHUNK];
            for j in 0..CHUNK {
                let key = lanes(self.k, j * size + c);
                let (mut decay, mut dk) = ([1.0f32; LANES], [0.0f32; LANES]);
                for i in j + 1..CHUNK {
                    let d_a = self.d_a[i * CHUNK + j];
                    for l in 0..LANES {
                        decay[l] *= f[i][l];
                        let part = d_a * decay[l];
                        dq[i][l] = part.mul_add(key[l], dq[i][l]);
                        dk[l] = part.mul_add(q[i][l], dk[l]);
                    }
                }
                self.dk[j * size + c..][..LANES].copy_from_slice(&dk);
            }
            for (t, dq) in dq.iter().enumerate() {
                self.dq[t * size + c..][..LANES].copy_from_slice(dq);
            }
        }
    }
}
