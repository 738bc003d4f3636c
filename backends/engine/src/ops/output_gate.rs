//! What leaves xLSTM's cells: `y = (a + s ⊙ x) ⊙ f(gate)`, with or without the skip (architectures.md 7.1).

use bheval_kernels::elementwise::sigmoids;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::{sum_over_rows, task_rows};
use crate::ops::selection::{Columns, Rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// What the gate goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// `σ(gate)`
    Sigmoid,
    /// `gate · σ(gate)`
    Silu,
}

impl Gate {
    /// `f(x)` and `f'(x)`
    #[inline(always)]
    fn both(self, x: f32) -> (f32, f32) {
        let (open, closed) = sigmoids(x);
        match self {
            Self::Sigmoid => (open, open * closed),
            Self::Silu => (x * open, open * x.mul_add(closed, 1.0)),
        }
    }
}

/// `s ⊙ x`, which is added before the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skip {
    /// `s [width]`
    pub weight: Parameter,
    /// `x [rows, width]`
    pub x: Value,
}

/// `[rows, width]`
///
/// # Panics
/// If the widths differ.
pub fn output_gate(tape: &mut Tape<'_>, a: Value, skip: Option<Skip>, gate: Columns, f: Gate) -> Value {
    let width = tape.width(a);
    let as_wide = skip.is_none_or(|s| tape.width(s.x) == width && tape.parameter(s.weight).len() == width);
    assert!(gate.width == width && as_wide, "a gate and what it gates are as wide");
    let mut y = tape.output(width);
    let (isa, rows) = (tape.setting.isa, task_rows(width));
    let inputs = Inputs {
        width,
        a: tape.get(a),
        skip: skip.map(|s| (tape.parameter(s.weight), tape.get(s.x))),
        gate: gate.of(tape.get(gate.value), tape.setting.rows()),
        f,
    };
    y.par_chunks_mut(rows * width).enumerate().for_each(|(block, y)| {
        launch(isa, Forward { inputs, first: block * rows, y });
    });
    tape.push(y, |y| Record { a, skip, gate, f, y })
}

/// Matrices of the inputs.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    width: usize,
    a: &'a [f32],
    skip: Option<(&'a [f32], &'a [f32])>,
    gate: Rows<'a>,
    f: Gate,
}

impl Inputs<'_> {
    /// Writes `a + s ⊙ x` of one row.
    #[inline(always)]
    fn gated(&self, row: usize, out: &mut [f32]) {
        let own = row * self.width..(row + 1) * self.width;
        out.copy_from_slice(&self.a[own.clone()]);
        if let Some((weight, x)) = self.skip {
            for ((out, s), x) in out.iter_mut().zip(weight).zip(&x[own]) {
                *out = s.mul_add(*x, *out);
            }
        }
    }
}

struct Forward<'a> {
    inputs: Inputs<'a>,
    /// Row of the first of `y`.
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (row, y) in (self.first..).zip(self.y.chunks_exact_mut(self.inputs.width)) {
            self.inputs.gated(row, y);
            for (y, gate) in y.iter_mut().zip(self.inputs.gate.row(row)) {
                *y *= self.inputs.f.both(*gate).0;
            }
        }
    }
}

struct Record {
    a: Value,
    skip: Option<Skip>,
    gate: Columns,
    f: Gate,
    y: Value,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(mut dy) = back.gradient(self.y) else { return };
        let (isa, width) = (back.setting().isa, back.width(self.a));
        let (store, mut dgate) = back.open(self.gate.value);
        let inputs = self.inputs(back);
        self.gate.put(store, back.width(self.gate.value), &mut dgate, |row, out| {
            launch(isa, Slope { inputs, row, dy: &dy[row * width..][..width], out });
        });
        back.close(self.gate.value, dgate);
        let (inputs, rows) = (self.inputs(back), task_rows(width));
        dy.par_chunks_mut(rows * width).enumerate().for_each(|(block, dy)| {
            launch(isa, Scale { inputs, first: block * rows, dy });
        });
        if let Some(skip) = self.skip {
            self.through_skip(back, skip, &dy);
        }
        back.pass(self.a, dy);
    }
}

impl Record {
    fn inputs<'a>(&self, back: &'a Back<'_, '_>) -> Inputs<'a> {
        Inputs {
            width: back.width(self.a),
            a: back.get(self.a),
            skip: self.skip.map(|s| (back.parameter(s.weight), back.get(s.x))),
            gate: self.gate.of(back.get(self.gate.value), back.setting().rows()),
            f: self.f,
        }
    }

    /// `dx = s ⊙ da`, `ds = Σ x ⊙ da`
    fn through_skip(&self, back: &mut Back<'_, '_>, skip: Skip, da: &[f32]) {
        let (store, mut ds) = back.open_parameter(skip.weight);
        let (x, width) = (back.get(skip.x), ds.len());
        sum_over_rows(store, back.setting().rows(), &mut ds, |row, sums| {
            let rows = da[row * width..][..width].iter().zip(&x[row * width..]);
            sums.iter_mut().zip(rows).for_each(|(sum, (da, x))| *sum += da * x);
        });
        back.close_parameter(skip.weight, ds);
        let (store, mut dx) = back.open(skip.x);
        let (weight, all) = (back.parameter(skip.weight), Columns { value: skip.x, first: 0, width });
        all.put(store, width, &mut dx, |row, out| {
            let da = &da[row * width..][..width];
            out.iter_mut().zip(da).zip(weight).for_each(|((out, da), s)| *out = da * s);
        });
        back.close(skip.x, dx);
    }
}

/// The gradient of one row's gate.
struct Slope<'a> {
    inputs: Inputs<'a>,
    row: usize,
    dy: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        self.inputs.gated(self.row, self.out);
        for ((out, dy), gate) in self.out.iter_mut().zip(self.dy).zip(self.inputs.gate.row(self.row)) {
            *out *= dy * self.inputs.f.both(*gate).1;
        }
    }
}

/// `dy ⊙ f(gate)` in place.
struct Scale<'a> {
    inputs: Inputs<'a>,
    first: usize,
    dy: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (row, dy) in (self.first..).zip(self.dy.chunks_exact_mut(self.inputs.width)) {
            for (dy, gate) in dy.iter_mut().zip(self.inputs.gate.row(row)) {
                *dy *= self.inputs.f.both(*gate).0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, same_bits, setting};

    const WIDTH: usize = 21;

    fn twin(f: Gate, a: &[f64], x: &[f64], gates: &[f64], s: &[f64]) -> Vec<f64> {
        let one = |i: usize| {
            let gate = gates[i / WIDTH * 3 * WIDTH + 2 * WIDTH + i % WIDTH];
            let open = 1.0 / (1.0 + (-gate).exp());
            (a[i] + s[i % WIDTH] * x[i]) * if f == Gate::Silu { gate * open } else { open }
        };
        (0..a.len()).map(one).collect()
    }

    #[test]
    fn output_and_gradients_are_the_definitions() {
        let rows = 70;
        for f in [Gate::Sigmoid, Gate::Silu] {
            let inputs = [
                normal(rows * WIDTH, 1.0, 1),
                normal(rows * WIDTH, 1.0, 2),
                normal(rows * 3 * WIDTH, 3.0, 3),
            ];
            let parameters = [normal(WIDTH, 1.0, 4)];
            let case =
                Case { setting: setting(2, 35), inputs: &inputs, parameters: &parameters, tolerance: 2e-6 };
            let operation = |tape: &mut Tape<'_>, x: &[Value], p: &[Parameter]| {
                let gate = Columns::share(tape, x[2], 3, 2);
                output_gate(tape, x[0], Some(Skip { weight: p[0], x: x[1] }), gate, f)
            };
            hold(&case, operation, |x, p| twin(f, &x[0], &x[1], &x[2], &p[0]));
            same_bits(&case, operation);
        }
    }

    #[test]
    fn without_a_skip_and_gated_by_itself() {
        let inputs = [normal(6 * WIDTH, 2.0, 1)];
        let case = Case { setting: setting(2, 3), inputs: &inputs, parameters: &[], tolerance: 2e-6 };
        hold(
            &case,
            |tape, x, _| {
                let gate = Columns::all(tape, x[0]);
                output_gate(tape, x[0], None, gate, Gate::Sigmoid)
            },
            |x, _| x[0].iter().map(|x| x / (1.0 + (-x).exp())).collect(),
        );
    }
}
