//! One row of logits: its losses, and its gradient in place.

use bheval_kernels::elementwise::exp;
use bheval_kernels::{Isa, Kernel, LANES, launch};

/// One row of logits `z [vocab]`, which become their gradient where there is a way back.
pub(super) struct Row<'a> {
    pub(super) isa: Isa,
    pub(super) z: &'a mut [f32],
    pub(super) target: Option<usize>,
    /// What the target's cross-entropy counts for.
    pub(super) weight: f32,
    pub(super) back: bool,
}

/// What a teacher says of a row.
pub(super) struct Term<'a> {
    pub(super) said: Said<'a>,
    pub(super) temperature: f32,
    /// What the divergence counts for.
    pub(super) weight: f32,
}

/// A teacher's distribution.
pub(super) enum Said<'a> {
    Logits(&'a [f32]),
    /// Log-probabilities of some tokens, and of all others together.
    Top {
        ids: &'a [u32],
        log_probs: &'a [f32],
        rest: f32,
    },
}

impl Row<'_> {
    /// Cross-entropy and divergence, in nats.
    pub(super) fn finish(self, term: Option<Term<'_>>) -> (f64, f64) {
        let distilled = term.map(|term| match term.said {
            Said::Logits(logits) => self.whole(&term, logits),
            Said::Top { ids, log_probs, rest } => self.top(&term, ids, log_probs, rest),
        });
        let Row { isa, z, target, weight, back } = self;
        let nats = target.map_or(0.0, |y| cross_entropy(isa, z, y, weight));
        if !back {
            return (nats, distilled.map_or(0.0, |d| d.0));
        }
        if target.is_none() {
            z.fill(0.0);
        }
        let Some((divergence, gradient)) = distilled else { return (nats, 0.0) };
        z.iter_mut().zip(&gradient).for_each(|(z, g)| *z += g);
        (nats, divergence)
    }

    /// `KL(softmax(u / T) || softmax(z / T))` and `weight / T · (softmax(z / T) - softmax(u / T))`.
    fn whole(&self, term: &Term<'_>, u: &[f32]) -> (f64, Vec<f32>) {
        let cool = 1.0 / term.temperature;
        let (mut student, mut teacher) = (vec![0.0; u.len()], vec![0.0; u.len()]);
        let (s, t) =
            (softmax(self.isa, self.z, cool, &mut student), softmax(self.isa, u, cool, &mut teacher));
        let log_ratio = f64::from(cool) * (f64::from(s.max) - f64::from(t.max)) + s.log_sum - t.log_sum;
        let mut sum = 0.0;
        launch(self.isa, Cross { z: self.z, u, p: &teacher, sum: &mut sum });
        let scale = term.weight * cool;
        student.iter_mut().zip(&teacher).for_each(|(s, t)| *s = scale * (*s - t));
        // Σ p ((u - z) / T) + (log Z_z - log Z_u), the second term once, since Σ p = 1.
        (f64::from(cool) * sum + log_ratio, student)
    }

    /// As [`Row::whole`] where all tokens but `ids` are one event.
    fn top(&self, term: &Term<'_>, ids: &[u32], log_probs: &[f32], rest: f32) -> (f64, Vec<f32>) {
        let (cool, scale) = (1.0 / term.temperature, term.weight / term.temperature);
        let mut tail = self.z.to_vec();
        ids.iter().for_each(|&id| tail[id as usize] = f32::NEG_INFINITY);
        let (mut student, mut others) = (vec![0.0; tail.len()], vec![0.0; tail.len()]);
        let all = softmax(self.isa, self.z, cool, &mut student);
        let whole = f64::from(cool) * f64::from(all.max) + all.log_sum;
        let rest_mass = f64::from(rest).exp();
        let (mut divergence, mut mass) = (0.0, rest_mass);
        if rest_mass > 0.0 {
            let t = softmax(self.isa, &tail, cool, &mut others);
            let log_share = f64::from(cool) * f64::from(t.max) + t.log_sum - whole;
            divergence += rest_mass * (f64::from(rest) - log_share);
        }
        for (&id, &log_prob) in ids.iter().zip(log_probs) {
            let p = f64::from(log_prob).exp();
            let student = f64::from(cool) * f64::from(self.z[id as usize]) - whole;
            if p > 0.0 {
                divergence += p * (f64::from(log_prob) - student);
            }
            mass += p;
        }
        let (mass, rest_mass) = (mass as f32, rest_mass as f32);
        student.iter_mut().zip(&others).for_each(|(s, t)| *s = scale * (*s * mass - rest_mass * t));
        ids.iter().zip(log_probs).for_each(|(&id, &l)| student[id as usize] -= scale * exp(l));
        (divergence, student)
    }
}

/// `ln Σ exp z - z_y`; leaves `weight · (softmax(z) - onehot(y))` in `z`.
fn cross_entropy(isa: Isa, z: &mut [f32], y: usize, weight: f32) -> f64 {
    let target = z[y];
    let mut found = Soft::default();
    launch(isa, InPlace { z, scale: weight, found: &mut found });
    z[y] -= weight;
    f64::from(found.max) - f64::from(target) + found.log_sum
}

/// Writes `softmax(cool · x)`.
fn softmax(isa: Isa, x: &[f32], cool: f32, p: &mut [f32]) -> Soft {
    let mut found = Soft::default();
    launch(isa, Softmax { x, cool, p, found: &mut found });
    found
}

/// The largest value, and `ln Σ exp(cool · (x - max))`.
#[derive(Clone, Copy, Default)]
struct Soft {
    max: f32,
    log_sum: f64,
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut max = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for l in 0..LANES {
            max[l] = if x[l] > max[l] { x[l] } else { max[l] };
        }
    }
    rest.iter().chain(&max).fold(f32::NEG_INFINITY, |m, &x| m.max(x))
}

/// `x ← exp(cool · (x - max))`; returns the sum.
#[inline(always)]
fn exponentials(x: &mut [f32], max: f32, cool: f32) -> f64 {
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for x in whole {
        for l in 0..LANES {
            x[l] = exp(cool * (x[l] - max));
            sums[l] += x[l];
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp(cool * (*x - max));
        *sum += *x;
    }
    sums.iter().map(|&s| f64::from(s)).sum()
}

struct InPlace<'a> {
    z: &'a mut [f32],
    scale: f32,
    found: &'a mut Soft,
}

impl Kernel for InPlace<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let max = largest(self.z);
        let sum = exponentials(self.z, max, 1.0);
        let factor = (f64::from(self.scale) / sum) as f32;
        self.z.iter_mut().for_each(|z| *z *= factor);
        *self.found = Soft { max, log_sum: sum.ln() };
    }
}

struct Softmax<'a> {
    x: &'a [f32],
    cool: f32,
    p: &'a mut [f32],
    found: &'a mut Soft,
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let max = largest(self.x);
        self.p.copy_from_slice(self.x);
        let sum = exponentials(self.p, max, self.cool);
        let factor = sum.recip() as f32;
        self.p.iter_mut().for_each(|p| *p *= factor);
        *self.found = Soft { max, log_sum: sum.ln() };
    }
}

/// `Σ p (u - z)`
struct Cross<'a> {
    z: &'a [f32],
    u: &'a [f32],
    p: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Cross<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let mut sums = [0.0f32; LANES];
        let values = self.z.chunks(LANES).zip(self.u.chunks(LANES)).zip(self.p.chunks(LANES));
        for ((z, u), p) in values {
            for (((sum, z), u), p) in sums.iter_mut().zip(z).zip(u).zip(p) {
                *sum = p.mul_add(u - z, *sum);
            }
        }
        *self.sum = sums.iter().map(|&s| f64::from(s)).sum();
    }
}
