//! Activation functions of transformers, the soft cap of logits, and the sums they come with: element by element, each a
//! fixed sequence of operations.

use super::elementwise::{exp, silu};
use super::{Isa, Kernel, launch};

/// `tanh(x)`, within 2 units in the last place (a polynomial below 0.625, else from `exp`).
#[inline(always)]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let z = x * x;
    let p = -5.704_989e-3_f32;
    let p = p.mul_add(z, 2.063_909e-2);
    let p = p.mul_add(z, -5.373_971_6e-2);
    let p = p.mul_add(z, 1.333_144_2e-1);
    let p = p.mul_add(z, -3.333_328e-1);
    let near = (p * z).mul_add(x, x);
    let far = 1.0 - 2.0 / (exp(2.0 * size) + 1.0);
    if size < 0.625 { near } else { far.copysign(x) }
}

/// `erf(x)`, within 2 units in the last place (a polynomial below 0.93, else one in the exponent of `exp`).
#[inline(always)]
#[must_use]
pub fn erf(x: f32) -> f32 {
    let (size, z) = (x.abs(), x * x);
    let p = -5.967_617e-4_f32;
    let p = p.mul_add(z, 4.991_194e-3);
    let p = p.mul_add(z, -2.676_813_5e-2);
    let p = p.mul_add(z, 1.128_199_25e-1);
    let p = p.mul_add(z, -3.761_253_4e-1);
    let p = p.mul_add(z, 1.283_791_7e-1);
    let near = p.mul_add(x, x);
    let r = (-1.728_534_7e-5_f32).mul_add(size, 3.831_971_3e-4);
    let u = (-3.883_964_4e-3_f32).mul_add(size, 2.425_462_2e-2);
    let r = r.mul_add(z, u);
    let r = r.mul_add(size, -1.067_778_8e-1);
    let r = r.mul_add(size, -6.348_467e-1);
    let r = r.mul_add(size, -1.287_175_1e-1);
    let r = r.mul_add(size, -size);
    let far = 1.0 - exp(r);
    // Beyond 4 it is 1 in f32, and the polynomial is no longer meant.
    let far = if size > 4.0 { 1.0 } else { far };
    if size <= 0.927_734_4 {
        near
    } else if x.is_nan() {
        x
    } else {
        far.copysign(x)
    }
}

/// What stands between the two products of a plain MLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `x Φ(x)`, by `erf`.
    Gelu,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    GeluTanh,
    /// `x σ(x)`
    Silu,
}

impl Activation {
    /// The activation that `config.json` calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "relu" => Some(Self::Relu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }

    /// Applies it in place.
    pub fn apply(self, isa: Isa, x: &mut [f32]) {
        match self {
            Self::Relu => launch(isa, Each { x, f: relu }),
            Self::Gelu => launch(isa, Each { x, f: gelu }),
            Self::GeluTanh => launch(isa, Each { x, f: gelu_tanh }),
            Self::Silu => launch(isa, Each { x, f: silu }),
        }
    }
}

/// `max(x, 0)`, NaN for NaN.
#[inline(always)]
#[must_use]
pub fn relu(x: f32) -> f32 {
    // Not `max`, which would turn NaN into 0.
    if x < 0.0 { 0.0 } else { x }
}

/// `x Φ(x)`
#[inline(always)]
#[must_use]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`
#[inline(always)]
#[must_use]
pub fn gelu_tanh(x: f32) -> f32 {
    const SCALE: f32 = 0.797_884_6; // √(2/π)
    0.5 * x * (1.0 + tanh(SCALE * (0.044_715 * x * x).mul_add(x, x)))
}

/// `x = cap · tanh(x / cap)`, in place.
pub fn soft_cap(isa: Isa, cap: f32, x: &mut [f32]) {
    launch(isa, Each { x, f: move |x: f32| cap * tanh(x / cap) });
}

struct Each<'a, F> {
    x: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32) -> f32> Kernel for Each<'_, F> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for x in self.x {
            *x = (self.f)(*x);
        }
    }
}

/// Adds `bias [D]` to each row of `x [M, D]`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn add_bias(isa: Isa, bias: &[f32], x: &mut [f32]) {
    assert!(x.len().is_multiple_of(bias.len()), "x and the bias differ in width");
    launch(isa, AddBias { bias, x });
}

struct AddBias<'a> {
    bias: &'a [f32],
    x: &'a mut [f32],
}

impl Kernel for AddBias<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for x in self.x.chunks_exact_mut(self.bias.len()) {
            for (x, b) in x.iter_mut().zip(self.bias) {
                *x += b;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.
mod tests {
    use super::*;

    /// `erf` from its series, or beyond 3 from the continued fraction of `erfc`, in f64.
    fn exact_erf(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let fraction = (1..200).rev().fold(x.abs(), |f, n| x.abs() + f64::from(n) * 0.5 / f);
        (1.0 - (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
    }

    fn ulps(got: f32, exact: f64) -> f64 {
        let nearest = (exact as f32).abs();
        (f64::from(got) - exact).abs() / (f64::from(nearest.next_up()) - f64::from(nearest))
    }

    fn worst(f: fn(f32) -> f32, exact: fn(f64) -> f64, limit: f32) -> f64 {
        let bits = (limit.to_bits() / 50_000) as usize;
        let xs = (0..limit.to_bits()).step_by(bits).map(f32::from_bits).flat_map(|x| [x, -x]);
        xs.map(|x| ulps(f(x), exact(f64::from(x)))).fold(0.0, f64::max)
    }

    #[test]
    fn tanh_and_erf_are_within_two_ulps() {
        let (t, e) = (worst(tanh, f64::tanh, 100.0), worst(erf, exact_erf, 5.9));
        println!("tanh {t:.2} ulp, erf {e:.2} ulp");
        assert!(t <= 2.0 && e <= 2.0, "tanh {t}, erf {e}");
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((erf(f32::INFINITY), erf(-50.0)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan() && relu(f32::NAN).is_nan());
    }

    #[test]
    fn activations_by_their_formulas_on_every_instruction_set() {
        let xs: Vec<f32> = (-300..=300).map(|i| i as f32 * 0.05).collect();
        let phi = |x: f64| 0.5 * (1.0 + exact_erf(x / 2f64.sqrt()));
        let tanh_form = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        };
        for isa in Isa::available() {
            for (activation, exact) in [
                (Activation::Relu, &(|x: f64| x.max(0.0)) as &dyn Fn(f64) -> f64),
                (Activation::Gelu, &|x| x * phi(x)),
                (Activation::GeluTanh, &tanh_form),
                (Activation::Silu, &|x| x / (1.0 + (-x).exp())),
            ] {
                let (mut y, mut portable) = (xs.clone(), xs.clone());
                activation.apply(isa, &mut y);
                activation.apply(Isa::PORTABLE, &mut portable);
                assert_eq!(y, portable, "{activation:?} on {isa:?}");
                for (&x, &y) in xs.iter().zip(&y) {
                    let exact = exact(f64::from(x));
                    assert!(
                        (f64::from(y) - exact).abs() < 5e-7 * exact.abs().max(1.0),
                        "{activation:?}({x}) {y}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_soft_cap_never_exceeds_its_cap() {
        let mut x = vec![0.5, 1e30, -1e30, 14.0];
        soft_cap(Isa::best(), 15.0, &mut x);
        assert_eq!(x[1..3], [15.0, -15.0]);
        let exact = 15.0 * (14.0f64 / 15.0).tanh();
        assert!((f64::from(x[3]) - exact).abs() < 2e-6 && (x[0] - 0.499_815).abs() < 1e-6);
    }
}
