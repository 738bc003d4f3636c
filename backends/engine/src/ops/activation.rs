//! Activation functions, and the gated MLP's `f(gate) ⊙ up`.

use bheval_kernels::activation::{Activation, gelu, gelu_tanh, relu, tanh};
use bheval_kernels::elementwise::{exp, sigmoids, silu};
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::task_rows;
use crate::tape::{Back, Operation, Tape, Value};

/// `f(x)`, element by element.
pub fn activation(tape: &mut Tape<'_>, x: Value, f: Activation) -> Value {
    let (isa, chunk) = (tape.setting.isa, task_rows(1));
    let mut y = tape.output(tape.width(x));
    y.par_chunks_mut(chunk).zip(tape.get(x).par_chunks(chunk)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        f.apply(isa, y);
    });
    tape.push(y, |y| Alone { x, y, f })
}

struct Alone {
    x: Value,
    y: Value,
    f: Activation,
}

impl Operation for Alone {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(mut dy) = back.gradient(self.y) else { return };
        let (isa, chunk) = (back.setting().isa, task_rows(1));
        dy.par_chunks_mut(chunk)
            .zip(back.get(self.x).par_chunks(chunk))
            .for_each(|(g, x)| launch(isa, Slope { f: self.f, x, g }));
        back.pass(self.x, dy);
    }
}

/// `f(gate) ⊙ up` of rows `[gate | up]`: half as wide as `x`.
///
/// # Panics
/// If `x` has an odd number of columns.
pub fn gated(tape: &mut Tape<'_>, x: Value, f: Activation) -> Value {
    let (isa, wide) = (tape.setting.isa, tape.width(x));
    assert!(wide.is_multiple_of(2), "a gate and what it gates are as wide");
    let (width, rows) = (wide / 2, task_rows(wide));
    let mut y = tape.output(width);
    y.par_chunks_mut(rows * width).zip(tape.get(x).par_chunks(rows * wide)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(wide)) {
            let (gate, up) = x.split_at(width);
            launch(isa, Gate { f, gate, up, y });
        }
    });
    tape.push(y, |y| Wide { x, y, f })
}

struct Wide {
    x: Value,
    y: Value,
    f: Activation,
}

impl Operation for Wide {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (isa, wide) = (back.setting().isa, back.width(self.x));
        let (width, rows) = (wide / 2, task_rows(wide));
        let mut dx = back.buffer(dy.len() * 2);
        let x = back.get(self.x);
        let parts = (dx.par_chunks_mut(rows * wide), x.par_chunks(rows * wide), dy.par_chunks(rows * width));
        parts.into_par_iter().for_each(|(dx, x, dy)| {
            let rows = dx.chunks_exact_mut(wide).zip(x.chunks_exact(wide)).zip(dy.chunks_exact(width));
            for ((dx, x), dy) in rows {
                let ((gate, up), (dgate, dup)) = (x.split_at(width), dx.split_at_mut(width));
                dup.copy_from_slice(dy);
                launch(isa, GateBack { f: self.f, gate, up, dgate, dup });
            }
        });
        back.pass(self.x, dx);
        back.recycle(dy);
    }
}

/// `f(gate) ⊙ up` of two matrices of one shape.
///
/// # Panics
/// If their shapes differ.
pub fn gated_pair(tape: &mut Tape<'_>, gate: Value, up: Value, f: Activation) -> Value {
    assert_eq!(tape.width(gate), tape.width(up), "a gate and what it gates are as wide");
    let (isa, chunk) = (tape.setting.isa, task_rows(1));
    let mut y = tape.output(tape.width(up));
    let parts = (y.par_chunks_mut(chunk), tape.get(gate).par_chunks(chunk), tape.get(up).par_chunks(chunk));
    parts.into_par_iter().for_each(|(y, gate, up)| launch(isa, Gate { f, gate, up, y }));
    tape.push(y, |y| Pair { gate, up, y, f })
}

struct Pair {
    gate: Value,
    up: Value,
    y: Value,
    f: Activation,
}

impl Operation for Pair {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(mut dup) = back.gradient(self.y) else { return };
        let (isa, chunk) = (back.setting().isa, task_rows(1));
        let mut dgate = back.buffer(dup.len());
        let (gate, up) = (back.get(self.gate), back.get(self.up));
        let inputs = (gate.par_chunks(chunk), up.par_chunks(chunk));
        let parts = (dgate.par_chunks_mut(chunk), dup.par_chunks_mut(chunk), inputs);
        parts.into_par_iter().for_each(|(dgate, dup, (gate, up))| {
            launch(isa, GateBack { f: self.f, gate, up, dgate, dup });
        });
        back.pass(self.gate, dgate);
        back.pass(self.up, dup);
    }
}

/// `g ⊙ f'(x)` in place of `g`.
struct Slope<'a> {
    f: Activation,
    x: &'a [f32],
    g: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        match self.f {
            Activation::Relu => scale_by(relu_both, self.x, self.g),
            Activation::Gelu => scale_by(gelu_both, self.x, self.g),
            Activation::GeluTanh => scale_by(gelu_tanh_both, self.x, self.g),
            Activation::Silu => scale_by(silu_both, self.x, self.g),
        }
    }
}

#[inline(always)]
fn scale_by(f: impl Fn(f32) -> (f32, f32), x: &[f32], g: &mut [f32]) {
    for (g, x) in g.iter_mut().zip(x) {
        *g *= f(*x).1;
    }
}

/// `y = f(gate) ⊙ up`
struct Gate<'a> {
    f: Activation,
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        match self.f {
            Activation::Relu => self.by(relu),
            Activation::Gelu => self.by(gelu),
            Activation::GeluTanh => self.by(gelu_tanh),
            Activation::Silu => self.by(silu),
        }
    }
}

impl Gate<'_> {
    #[inline(always)]
    fn by(self, f: impl Fn(f32) -> f32) {
        for ((y, gate), up) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            *y = f(*gate) * up;
        }
    }
}

/// `dgate = dy ⊙ up ⊙ f'(gate)`, and `dup = dy ⊙ f(gate)` in place of `dy`.
struct GateBack<'a> {
    f: Activation,
    gate: &'a [f32],
    up: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Kernel for GateBack<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        match self.f {
            Activation::Relu => self.by(relu_both),
            Activation::Gelu => self.by(gelu_both),
            Activation::GeluTanh => self.by(gelu_tanh_both),
            Activation::Silu => self.by(silu_both),
        }
    }
}

impl GateBack<'_> {
    #[inline(always)]
    fn by(self, both: impl Fn(f32) -> (f32, f32)) {
        let inputs = self.gate.iter().zip(self.up);
        for ((dgate, dup), (gate, up)) in self.dgate.iter_mut().zip(self.dup).zip(inputs) {
            let (f, slope) = both(*gate);
            *dgate = *dup * up * slope;
            *dup *= f;
        }
    }
}

/// `(f(x), f'(x))`; the slope at 0 is 0, as in PyTorch.
#[inline(always)]
fn relu_both(x: f32) -> (f32, f32) {
    (relu(x), if x > 0.0 { 1.0 } else { 0.0 })
}

/// `f = x σ(x)`, `f' = σ(x) (1 + x σ(-x))`
#[inline(always)]
fn silu_both(x: f32) -> (f32, f32) {
    let (open, closed) = sigmoids(x);
    (x * open, open * x.mul_add(closed, 1.0))
}

/// `f = x Φ(x)`, `f' = Φ(x) + x φ(x)`
#[inline(always)]
fn gelu_both(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3; // 1 / √(2π)
    let f = gelu(x);
    let cumulative = 0.5 * (1.0 + bheval_kernels::activation::erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (f, (x * DENSITY).mul_add(exp(-0.5 * x * x), cumulative))
}

/// `f = x (1 + t) / 2` and `f' = (1 + t) / 2 + x (1 - t²) u' / 2` with `t = tanh(u)`, `u = √(2/π) (x + 0.044715 x³)`.
#[inline(always)]
fn gelu_tanh_both(x: f32) -> (f32, f32) {
    const SCALE: f32 = 0.797_884_6; // √(2/π)
    const CUBE: f32 = 0.044_715;
    let t = tanh(SCALE * (CUBE * x * x).mul_add(x, x));
    // Beyond 50 the other factor is 0; the square must not become infinite before it.
    let near = x.clamp(-50.0, 50.0);
    let slope = SCALE * (3.0 * CUBE * near).mul_add(near, 1.0);
    (0.5 * x * (1.0 + t), 0.5 * (x * (1.0 - t * t)).mul_add(slope, 1.0 + t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, setting};

    /// `Φ(x)` from the series of `erf`, which converges quickly for |x| < 6.
    fn cumulative(x: f64) -> f64 {
        let z = x / std::f64::consts::SQRT_2;
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        0.5 + sum / std::f64::consts::PI.sqrt()
    }

    fn exact(f: Activation, x: f64) -> f64 {
        match f {
            Activation::Relu => x.max(0.0),
            Activation::Gelu => x * cumulative(x),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }

    const ALL: [Activation; 4] = [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];

    #[test]
    fn alone() {
        for f in ALL {
            let inputs = [normal(6 * 37, 2.0, 1)];
            let case = Case { setting: setting(2, 3), inputs: &inputs, parameters: &[], tolerance: 1e-6 };
            hold(
                &case,
                |tape, x, _| activation(tape, x[0], f),
                |x, _| x[0].iter().map(|&x| exact(f, x)).collect(),
            );
        }
    }

    #[test]
    fn gates_side_by_side_and_apart() {
        let width = 19;
        for f in ALL {
            let inputs = [normal(6 * 2 * width, 2.0, 1)];
            let case = Case { setting: setting(2, 3), inputs: &inputs, parameters: &[], tolerance: 1e-6 };
            let row = |x: &[f64]| -> Vec<f64> { (0..width).map(|i| exact(f, x[i]) * x[width + i]).collect() };
            hold(
                &case,
                |tape, x, _| gated(tape, x[0], f),
                |x, _| x[0].chunks(2 * width).flat_map(row).collect(),
            );
            let inputs = [normal(6 * width, 2.0, 1), normal(6 * width, 2.0, 2)];
            let case = Case { setting: setting(2, 3), inputs: &inputs, parameters: &[], tolerance: 1e-6 };
            hold(
                &case,
                |tape, x, _| gated_pair(tape, x[0], x[1], f),
                |x, _| x[0].iter().zip(&x[1]).map(|(g, u)| exact(f, *g) * u).collect(),
            );
        }
    }

    #[test]
    fn a_value_may_gate_itself() {
        let inputs = [normal(6 * 5, 1.0, 1)];
        let case = Case { setting: setting(2, 3), inputs: &inputs, parameters: &[], tolerance: 1e-6 };
        hold(
            &case,
            |tape, x, _| gated_pair(tape, x[0], x[0], Activation::Silu),
            |x, _| x[0].iter().map(|&x| exact(Activation::Silu, x) * x).collect(),
        );
    }

    #[test]
    fn slopes_stay_finite_far_out() {
        for x in [-1e30f32, -1e4, -90.0, 90.0, 1e4, 1e30] {
            for both in [relu_both, silu_both, gelu_both, gelu_tanh_both] {
                let (f, slope) = both(x);
                let right = if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) };
                assert!((f - right.0).abs() <= 1e-30 && (slope - right.1).abs() <= 1e-30, "{x}: {f} {slope}");
            }
        }
    }
}
