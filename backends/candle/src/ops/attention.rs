//! Softmax attention of one row to the rows it sees: the path above it in a forest, or its whole sequence.
//!
//! The sums run over those rows in the order given, so a row's result depends on them alone.

use crate::kernels::elementwise::{exp, lane_sum};
use crate::kernels::{Isa, Kernel, LANES, launch};

/// How a row splits into heads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    /// Heads of the queries.
    pub count: usize,
    /// Heads of keys and values; each serves `count / shared` consecutive query heads.
    pub shared: usize,
    /// Values of a head.
    pub dim: usize,
}

impl Heads {
    /// Width of a row of queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.count * self.dim
    }

    /// Width of a row of keys, or of values.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shared * self.dim
    }
}

/// Keys and values of all rows, `[rows, shared · dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// `o = softmax(scale · q · Kᵀ) V` for each head of a row: `q` and `o` are `[count · dim]`, K and V the rows `seen`. The
/// sum of exponentials is in f64 from 16 partial sums. `scores` is room of its own.
///
/// # Panics
/// If the lengths do not fit, or no row is seen.
pub fn attend(
    isa: Isa,
    heads: Heads,
    scale: f32,
    (q, rows): (&[f32], Seen<'_>),
    seen: &[u32],
    scores: &mut Vec<f32>,
    o: &mut [f32],
) {
    let fits = q.len() == heads.queries() && o.len() == q.len() && rows.k.len() == rows.v.len();
    assert!(fits && heads.count.is_multiple_of(heads.shared), "q, k, v and o differ in shape");
    assert!(!seen.is_empty(), "a row sees itself at least");
    scores.resize(seen.len(), 0.0);
    launch(isa, Attend { heads, scale, q, rows, seen, scores, o });
}

struct Attend<'a> {
    heads: Heads,
    scale: f32,
    q: &'a [f32],
    rows: Seen<'a>,
    seen: &'a [u32],
    scores: &'a mut [f32],
    o: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        // The same operations in each; a known width keeps a head in registers.
        match self.heads.dim {
            16 => self.heads_of::<16>(),
            32 => self.heads_of::<32>(),
            64 => self.heads_of::<64>(),
            128 => self.heads_of::<128>(),
            _ => self.heads_of_any(),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn heads_of<const D: usize>(self) {
        let group = self.heads.count / self.heads.shared;
        let width = self.heads.keys();
        let (queries, _) = self.q.as_chunks::<D>();
        let (outs, _) = self.o.as_chunks_mut::<D>();
        for (head, (q, o)) in queries.iter().zip(outs).enumerate() {
            let first = head / group * D;
            for (score, &row) in self.scores.iter_mut().zip(self.seen) {
                let k = &self.rows.k[row as usize * width + first..][..D];
                *score = dot::<D>(q, k) * self.scale;
            }
            let weight = softmax(self.scores);
            let mut sums = [0.0f32; D];
            for (&p, &row) in self.scores.iter().zip(self.seen) {
                let v = &self.rows.v[row as usize * width + first..][..D];
                for d in 0..D {
                    sums[d] = p.mul_add(v[d], sums[d]);
                }
            }
            for d in 0..D {
                o[d] = sums[d] * weight;
            }
        }
    }

    /// [`Attend::heads_of`] for any width.
    #[inline(always)]
    fn heads_of_any(self) {
        let (dim, width) = (self.heads.dim, self.heads.keys());
        let group = self.heads.count / self.heads.shared;
        let rows = self.q.chunks_exact(dim).zip(self.o.chunks_exact_mut(dim));
        for (head, (q, o)) in rows.enumerate() {
            let first = head / group * dim;
            for (score, &row) in self.scores.iter_mut().zip(self.seen) {
                let k = &self.rows.k[row as usize * width + first..][..dim];
                *score = dot_any(q, k) * self.scale;
            }
            let weight = softmax(self.scores);
            o.fill(0.0);
            for (&p, &row) in self.scores.iter().zip(self.seen) {
                let v = &self.rows.v[row as usize * width + first..][..dim];
                for (o, &v) in o.iter_mut().zip(v) {
                    *o = p.mul_add(v, *o);
                }
            }
            for o in o {
                *o *= weight;
            }
        }
    }
}

/// `q · k` from 16 partial sums, which are then added pairwise.
#[inline(always)]
fn dot<const D: usize>(q: &[f32; D], k: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for block in 0..D / LANES {
        for l in 0..LANES {
            sums[l] = q[block * LANES + l].mul_add(k[block * LANES + l], sums[l]);
        }
    }
    fold(sums)
}

/// [`dot`] for any width.
#[inline(always)]
fn dot_any(q: &[f32], k: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (q, k) in q.chunks(LANES).zip(k.chunks(LANES)) {
        for ((sum, &q), &k) in sums.iter_mut().zip(q).zip(k) {
            *sum = q.mul_add(k, *sum);
        }
    }
    fold(sums)
}

#[inline(always)]
fn fold(sums: [f32; LANES]) -> f32 {
    let mut half = [0.0f32; 8];
    for l in 0..8 {
        half[l] = sums[l] + sums[l + 8];
    }
    let mut quarter = [0.0f32; 4];
    for l in 0..4 {
        quarter[l] = half[l] + half[l + 4];
    }
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

/// Turns scores into `exp(score - max)`; returns one over their sum.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    for &s in scores.iter() {
        // NaN is passed over here and reaches the sum.
        if s > max {
            max = s;
        }
    }
    for s in scores.iter_mut() {
        *s = exp(*s - max);
    }
    (1.0 / lane_sum(scores, |sum, x| sum + x)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random::Numbers;

    /// The definition in f64.
    fn naive(heads: Heads, scale: f64, q: &[f32], k: &[f32], v: &[f32], seen: &[u32]) -> Vec<f64> {
        let (width, group) = (heads.keys(), heads.count / heads.shared);
        let mut out = vec![];
        for head in 0..heads.count {
            let at = |x: &[f32], row: u32, d: usize| {
                f64::from(x[row as usize * width + head / group * heads.dim + d])
            };
            let score = |row: u32| {
                (0..heads.dim).map(|d| f64::from(q[head * heads.dim + d]) * at(k, row, d)).sum::<f64>()
                    * scale
            };
            let p: Vec<f64> = seen.iter().map(|&r| score(r).exp()).collect();
            let sum: f64 = p.iter().sum();
            for d in 0..heads.dim {
                out.push(p.iter().zip(seen).map(|(p, &r)| p * at(v, r, d)).sum::<f64>() / sum);
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition_on_every_instruction_set() {
        for (count, shared, dim) in [(4, 2, 16), (3, 3, 20), (8, 1, 64), (2, 1, 32), (1, 1, 5), (2, 2, 128)] {
            let heads = Heads { count, shared, dim };
            let mut numbers = Numbers::new(dim as u64);
            let q = numbers.normal(heads.queries(), 1.0);
            let (k, v) = (numbers.normal(9 * heads.keys(), 1.0), numbers.normal(9 * heads.keys(), 1.0));
            for seen in [&[3u32][..], &[0, 2, 5, 8, 1], &[8, 7, 6, 5, 4, 3, 2, 1, 0]] {
                let run = |isa| {
                    let mut o = vec![0.0; heads.queries()];
                    attend(isa, heads, 0.25, (&q, Seen { k: &k, v: &v }), seen, &mut vec![], &mut o);
                    o
                };
                let first = run(Isa::PORTABLE);
                assert!(Isa::available().into_iter().all(|isa| run(isa) == first));
                for (o, exact) in first.iter().zip(naive(heads, 0.25, &q, &k, &v, seen)) {
                    assert!((f64::from(*o) - exact).abs() < 2e-6, "{heads:?} {o} {exact}");
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_not_hidden() {
        let heads = Heads { count: 1, shared: 1, dim: 2 };
        let (k, v) = ([1.0, 1.0, f32::NAN, 1.0], [1.0; 4]);
        let mut o = [0.0; 2];
        attend(Isa::best(), heads, 1.0, (&[1.0, 1.0], Seen { k: &k, v: &v }), &[0, 1], &mut vec![], &mut o);
        assert!(o.iter().all(|o| o.is_nan()));
    }
}
