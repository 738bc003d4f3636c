//! Functions applied element by element, and norms over a row.
//!
//! `exp` is a polynomial of our own: a fixed sequence of operations that the compiler can vectorise, so that a value does
//! not depend on the C library or on whether it fell into a vector's remainder.

use super::{Isa, Kernel, LANES, launch};

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts (Cody and Waite): the first has few digits, so that `n · LN2_HIGH` is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `eˣ`, within 2 units in the last place; subnormal results included, NaN for NaN.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    // 2ⁿ in two factors, since n reaches from -151 to 128.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `(σ(x), σ(-x))`, each to full relative accuracy: neither is one minus the other.
#[inline(always)]
#[must_use]
pub fn sigmoids(x: f32) -> (f32, f32) {
    let e = exp(-x.abs());
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// `silu(x) = x · σ(x)`, also called swish.
#[inline(always)]
#[must_use]
pub fn silu(x: f32) -> f32 {
    x * sigmoids(x).0
}

/// RMSNorm of each row of `x[M, D]`: `y = weight ⊙ x / sqrt(mean(x²) + eps)`, the mean in f64 from 16 partial sums.
///
/// # Panics
/// If the lengths do not fit.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f64, y: &mut [f32]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(weight.len()), "x, weight and y differ in shape");
    launch(isa, RmsNorm { x, weight, eps, y });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f64,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let mean = mean_square(x);
            let scale = (1.0 / (mean + self.eps).sqrt()) as f32;
            for ((y, x), w) in y.iter_mut().zip(x).zip(self.weight) {
                *y = x * scale * w;
            }
        }
    }
}

/// In f32 lanes, or in f64 where the squares of finite values overflow those: a mean of infinity would silently turn the
/// row into zeros.
#[inline(always)]
fn mean_square(x: &[f32]) -> f64 {
    let sum = lane_sum(x, |sum, x| x.mul_add(x, sum));
    let sum = if sum.is_finite() { sum } else { x.iter().map(|&x| f64::from(x) * f64::from(x)).sum() };
    sum / x.len() as f64
}

/// LayerNorm of each row of `x[M, D]`: `y = weight ⊙ (x - mean) / sqrt(variance + eps) + bias`, mean and variance in f64
/// from 16 partial sums.
///
/// # Panics
/// If the lengths do not fit.
pub fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f64, y: &mut [f32]) {
    let whole = x.len() == y.len() && x.len().is_multiple_of(weight.len()) && weight.len() == bias.len();
    assert!(whole, "x, weight, bias and y differ in shape");
    launch(isa, LayerNorm { x, weight, bias, eps, y });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    y: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let mean = (lane_sum(x, |sum, x| sum + x) / width as f64) as f32;
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let scale = (1.0 / (mean_square(y) + self.eps).sqrt()) as f32;
            for ((y, w), b) in y.iter_mut().zip(self.weight).zip(self.bias) {
                *y = (*y * scale).mul_add(*w, *b);
            }
        }
    }
}

/// Folds `x` into [`LANES`] lanes by `add`, then adds the lanes in order in f64.
#[inline(always)]
pub fn lane_sum(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f64 {
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for l in 0..LANES {
            sums[l] = add(sums[l], x[l]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum = add(*sum, x);
    }
    sums.iter().map(|&s| f64::from(s)).sum()
}

/// SwiGLU on rows `[gate | up]` of `x[M, 2I]`: `y[M, I] = silu(gate) ⊙ up`.
///
/// # Panics
/// If `x` is not twice as long as `y`.
pub fn swiglu(isa: Isa, x: &[f32], width: usize, y: &mut [f32]) {
    assert!(x.len() == 2 * y.len() && y.len().is_multiple_of(width), "x and y differ in shape");
    launch(isa, SwiGlu { x, width, y });
}

struct SwiGlu<'a> {
    x: &'a [f32],
    width: usize,
    y: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let rows = self.x.chunks_exact(2 * self.width).zip(self.y.chunks_exact_mut(self.width));
        for (x, y) in rows {
            let (gate, up) = x.split_at(self.width);
            for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                *y = silu(gate) * up;
            }
        }
    }
}

/// The lower bound of one layer's forget gate, `β[D]`, with `1 - β` rounded once.
#[derive(Clone, Debug)]
pub struct LowerBound {
    /// `β`, 0 where there is no bound.
    pub bound: Vec<f32>,
    /// `1 - β`.
    pub complement: Vec<f32>,
}

/// Rows `[M, D]` of the recurrence's inputs.
#[derive(Debug)]
pub struct GateRows<'a> {
    /// `silu(u) · scale`
    pub q: &'a mut [f32],
    /// `β + (1 - β) · σ(z)`
    pub f: &'a mut [f32],
    /// `(1 - β) · σ(-z)`, which keeps its digits where `1 - f` loses them.
    pub k: &'a mut [f32],
    /// The input path, as it is.
    pub v: &'a mut [f32],
}

/// HGRN2's gates from rows `[u | z | i]` of `x[M, 3D]` (architectures.md 1.2 and 1.4).
///
/// # Panics
/// If the lengths do not fit.
pub fn gates(isa: Isa, x: &[f32], lower: &LowerBound, scale: f32, out: GateRows<'_>) {
    let lengths = [out.q.len(), out.f.len(), out.k.len(), out.v.len()];
    assert!(lengths.iter().all(|&l| l * 3 == x.len()), "x and the gates differ in shape");
    launch(isa, Gates { x, lower, scale, out });
}

struct Gates<'a> {
    x: &'a [f32],
    lower: &'a LowerBound,
    scale: f32,
    out: GateRows<'a>,
}

impl Kernel for Gates<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.lower.bound.len();
        for (row, x) in self.x.chunks_exact(3 * width).enumerate() {
            let ((u, z), i) = (x[..2 * width].split_at(width), &x[2 * width..]);
            let at = row * width..(row + 1) * width;
            for (q, &u) in self.out.q[at.clone()].iter_mut().zip(u) {
                *q = silu(u) * self.scale;
            }
            let bounds = self.lower.bound.iter().zip(&self.lower.complement);
            let out = self.out.f[at.clone()].iter_mut().zip(&mut self.out.k[at.clone()]);
            for (((f, k), &z), (&bound, &complement)) in out.zip(z).zip(bounds) {
                let (open, closed) = sigmoids(z);
                *f = complement.mul_add(open, bound);
                *k = complement * closed;
            }
            self.out.v[at].copy_from_slice(i);
        }
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.
mod tests {
    use super::*;
    use crate::random::Numbers;

    /// Error in units in the last place of the exact result.
    fn ulps(got: f32, exact: f64) -> f64 {
        if got.is_infinite() && exact >= f64::from(f32::MAX) {
            return 0.0;
        }
        let nearest = (exact as f32).abs();
        let unit = f64::from(nearest.next_up()) - f64::from(nearest);
        (f64::from(got) - exact).abs() / unit
    }

    #[test]
    fn exp_is_within_two_ulps_everywhere() {
        let (mut worst, mut at) = (0.0, 0.0);
        for bits in (0..u32::MAX).step_by(997) {
            let x = f32::from_bits(bits);
            if x.is_finite() {
                let error = ulps(exp(x), f64::from(x).exp());
                if error > worst {
                    (worst, at) = (error, x);
                }
            }
        }
        println!("exp: worst {worst:.3} ulp at {at}");
        assert!(worst <= 2.0, "{worst} at {at}");
    }

    #[test]
    fn exp_of_the_extremes() {
        assert_eq!((exp(0.0), exp(-0.0), exp(f32::NEG_INFINITY)), (1.0, 1.0, 0.0));
        assert_eq!((exp(f32::INFINITY), exp(f32::MAX), exp(f32::MIN)), (f32::INFINITY, f32::INFINITY, 0.0));
        assert!(
            exp(88.72).is_finite() && exp(-103.0) > 0.0 && exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan()
        );
    }

    #[test]
    fn sigmoids_keep_relative_accuracy_on_both_sides() {
        let mut worst = 0.0f64;
        for i in -8700..=8700 {
            let x = i as f32 * 0.01;
            let exact = 1.0 / (1.0 + f64::from(-x).exp());
            let closed = 1.0 / (1.0 + f64::from(x).exp());
            let (open, shut) = sigmoids(x);
            worst = worst.max(ulps(open, exact)).max(ulps(shut, closed));
        }
        println!("sigmoid: worst {worst:.3} ulp");
        assert!(worst <= 4.0, "{worst}");
        assert_eq!(sigmoids(f32::INFINITY), (1.0, 0.0));
        assert!(sigmoids(f32::NAN).0.is_nan() && silu(f32::NAN).is_nan());
    }

    #[test]
    fn rms_norm_agrees_with_f64_and_over_instruction_sets() {
        for width in [1, 15, 16, 17, 64, 100] {
            let mut numbers = Numbers::new(width as u64);
            let (x, w) = (numbers.normal(3 * width, 2.0), numbers.normal(width, 1.0));
            let mut first = vec![0.0; 3 * width];
            rms_norm(Isa::PORTABLE, &x, &w, 1e-6, &mut first);
            for isa in Isa::available() {
                let mut y = vec![0.0; 3 * width];
                rms_norm(isa, &x, &w, 1e-6, &mut y);
                assert_eq!(y, first, "{isa:?}");
            }
            for (x, y) in x.chunks(width).zip(first.chunks(width)) {
                let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / width as f64;
                for ((x, w), y) in x.iter().zip(&w).zip(y) {
                    let exact = f64::from(*x) * f64::from(*w) / (mean + 1e-6).sqrt();
                    assert!((f64::from(*y) - exact).abs() <= 1e-6 * exact.abs().max(1e-3));
                }
            }
        }
    }

    #[test]
    fn layer_norm_agrees_with_f64_and_over_instruction_sets() {
        for width in [1, 15, 16, 17, 64, 100] {
            let mut numbers = Numbers::new(width as u64);
            let (x, w) = (numbers.normal(3 * width, 2.0), numbers.normal(width, 1.0));
            let b = numbers.normal(width, 1.0);
            let run = |isa| {
                let mut y = vec![0.0; 3 * width];
                layer_norm(isa, &x, &w, &b, 1e-5, &mut y);
                y
            };
            let first = run(Isa::PORTABLE);
            assert!(Isa::available().into_iter().all(|isa| run(isa) == first));
            for (x, y) in x.chunks(width).zip(first.chunks(width)) {
                let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
                let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
                for (((x, w), b), y) in x.iter().zip(&w).zip(&b).zip(y) {
                    let exact = f64::from(*w) * (f64::from(*x) - mean) / (var + 1e-5).sqrt() + f64::from(*b);
                    // With one value the deviation is 0 but for rounding, which the small eps enlarges.
                    assert!(
                        (f64::from(*y) - exact).abs() <= 3e-6 * exact.abs().max(1.0),
                        "{width}: {y} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn rms_norm_of_huge_values_is_not_zero() {
        let mut y = [0.0; 3];
        rms_norm(Isa::best(), &[1e30, -1e30, 1e30], &[1.0; 3], 1e-6, &mut y);
        assert_eq!(y, [1.0, -1.0, 1.0]);
        rms_norm(Isa::best(), &[1.0, f32::INFINITY, f32::NAN], &[1.0; 3], 1e-6, &mut y);
        assert!(y[1].is_nan() && y[2].is_nan());
    }

    #[test]
    fn gates_are_the_same_on_every_instruction_set_and_never_cancel() {
        let width = 37;
        let lower = LowerBound { bound: vec![0.25; width], complement: vec![0.75; width] };
        let x = Numbers::new(1).normal(5 * 3 * width, 20.0);
        let run = |isa| {
            let mut out = vec![vec![0.0; 5 * width]; 4];
            let [q, f, k, v] = &mut out[..] else { unreachable!("four") };
            gates(isa, &x, &lower, 0.5, GateRows { q, f, k, v });
            out
        };
        let first = run(Isa::PORTABLE);
        assert!(Isa::available().into_iter().all(|isa| run(isa) == first));
        for row in 0..5 {
            for c in 0..width {
                let z = f64::from(x[row * 3 * width + width + c]);
                let k = f64::from(first[2][row * width + c]);
                assert!((k * (1.0 + z.exp()) / 0.75 - 1.0).abs() < 1e-6);
            }
        }
    }
}
