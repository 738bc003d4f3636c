//! `y = x Wᵀ + b`, alone or added to a residual.

use bheval_kernels::gemm::Store;
use bheval_kernels::product::{View, ViewMut, product};
use rayon::prelude::*;

use crate::ops::rows::{sum_over_rows, task_rows};
use crate::ops::selection::Columns;
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// How a weight is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `[outputs, inputs]`, as PyTorch's `Linear`.
    OutIn,
    /// `[inputs, outputs]`, as GPT-2's `Conv1D`.
    InOut,
}

/// A weight matrix and perhaps a bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linear {
    /// The matrix.
    pub weight: Parameter,
    /// `[outputs]`
    pub bias: Option<Parameter>,
    /// Columns of `x`.
    pub inputs: usize,
    /// Columns of `y`.
    pub outputs: usize,
    /// How the matrix is stored.
    pub layout: Layout,
}

impl Linear {
    /// `W` as `[outputs, inputs]`.
    fn view(self, weight: &[f32]) -> View<'_> {
        match self.layout {
            Layout::OutIn => View::new(weight, self.outputs, self.inputs),
            Layout::InOut => View::new(weight, self.inputs, self.outputs).t(),
        }
    }
}

/// `x Wᵀ + b`, `[rows, outputs]`.
pub fn linear(tape: &mut Tape<'_>, x: Value, layer: Linear) -> Value {
    let x = Columns::all(tape, x);
    apply(tape, x, layer, None)
}

/// As [`linear`], of some columns of a value.
pub fn linear_columns(tape: &mut Tape<'_>, x: Columns, layer: Linear) -> Value {
    apply(tape, x, layer, None)
}

/// `residual + x Wᵀ + b`. The residual's gradient is passed on without a copy.
pub fn linear_residual(tape: &mut Tape<'_>, residual: Value, x: Value, layer: Linear) -> Value {
    let x = Columns::all(tape, x);
    apply(tape, x, layer, Some(residual))
}

fn apply(tape: &mut Tape<'_>, x: Columns, layer: Linear, residual: Option<Value>) -> Value {
    let (setting, rows) = (tape.setting, tape.setting.rows());
    let mut y = tape.output(layer.outputs);
    let store = start(tape, residual, layer.bias, &mut y);
    let a = x.view(tape.get(x.value), rows);
    let w = layer.view(tape.parameter(layer.weight));
    let c = ViewMut::new(&mut y, rows, layer.outputs);
    product(setting.isa, setting.precision, a, w.t(), store, c);
    tape.push(y, |y| Record { x, y, layer, residual })
}

/// Writes what the product is added to.
fn start(tape: &Tape<'_>, residual: Option<Value>, bias: Option<Parameter>, y: &mut [f32]) -> Store {
    let bias = bias.map(|b| tape.parameter(b));
    let residual = residual.map(|r| tape.get(r));
    let width = y.len() / tape.setting.rows();
    let chunk = task_rows(width) * width;
    match (residual, bias) {
        (None, None) => return Store::Set,
        (Some(r), None) => {
            y.par_chunks_mut(chunk).zip(r.par_chunks(chunk)).for_each(|(y, r)| y.copy_from_slice(r))
        }
        (None, Some(b)) => y.par_chunks_mut(width).for_each(|y| y.copy_from_slice(b)),
        (Some(r), Some(b)) => y.par_chunks_mut(width).zip(r.par_chunks(width)).for_each(|(y, r)| {
            y.iter_mut().zip(r).zip(b).for_each(|((y, r), b)| *y = r + b);
        }),
    }
    Store::Add
}

struct Record {
    x: Columns,
    y: Value,
    layer: Linear,
    residual: Option<Value>,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        gradients(back, self.x, self.layer, &dy);
        match self.residual {
            Some(residual) => back.pass(residual, dy),
            None => back.recycle(dy),
        }
    }
}

/// `dx = dy W`, `dW = dyᵀ x`, `db = Σ dy`.
fn gradients(back: &mut Back<'_, '_>, x: Columns, layer: Linear, dy: &[f32]) {
    let (setting, rows, width) = (back.setting(), back.setting().rows(), back.width(x.value));
    let g = View::new(dy, rows, layer.outputs);
    let (store, mut dx) = x.open(back);
    let c = ViewMut::with_stride(&mut dx[x.first..], rows, layer.inputs, width);
    product(setting.isa, setting.precision, g, layer.view(back.parameter(layer.weight)), store, c);
    back.close(x.value, dx);
    let (store, mut dw) = back.open_parameter(layer.weight);
    let a = x.view(back.get(x.value), rows);
    match layer.layout {
        Layout::OutIn => {
            let c = ViewMut::new(&mut dw, layer.outputs, layer.inputs);
            product(setting.isa, setting.precision, g.t(), a, store, c);
        }
        Layout::InOut => {
            let c = ViewMut::new(&mut dw, layer.inputs, layer.outputs);
            product(setting.isa, setting.precision, a.t(), g, store, c);
        }
    }
    back.close_parameter(layer.weight, dw);
    if let Some(bias) = layer.bias {
        bias_gradient(back, bias, dy);
    }
}

/// `db = Σ dy` over the rows.
pub(crate) fn bias_gradient(back: &mut Back<'_, '_>, bias: Parameter, dy: &[f32]) {
    let rows = back.setting().rows();
    let (store, mut db) = back.open_parameter(bias);
    let width = db.len();
    sum_over_rows(store, rows, &mut db, |row, sums| {
        sums.iter_mut().zip(&dy[row * width..][..width]).for_each(|(s, g)| *s += g);
    });
    back.close_parameter(bias, db);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, setting};

    /// `residual + x Wᵀ + b`
    fn twin(layout: Layout, x: &[f64], r: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        let (inputs, outputs) = (w.len() / b.len(), b.len());
        let at = |o: usize, i: usize| match layout {
            Layout::OutIn => w[o * inputs + i],
            Layout::InOut => w[i * outputs + o],
        };
        let one = |n: usize| {
            let (row, o) = (n / outputs, n % outputs);
            r[n] + b[o] + (0..inputs).map(|i| x[row * inputs + i] * at(o, i)).sum::<f64>()
        };
        (0..r.len()).map(one).collect()
    }

    #[test]
    fn columns_of_a_wider_value() {
        let (rows, inputs, outputs, width) = (6, 5, 3, 9);
        let case = Case {
            setting: setting(2, 3),
            inputs: &[normal(rows * width, 1.0, 1)],
            parameters: &[normal(inputs * outputs, 1.0, 3), normal(outputs, 1.0, 4)],
            tolerance: 1e-6,
        };
        hold(
            &case,
            |tape, x, p| {
                let layer = Linear { weight: p[0], bias: Some(p[1]), inputs, outputs, layout: Layout::OutIn };
                linear_columns(tape, Columns { value: x[0], first: 2, width: inputs }, layer)
            },
            |x, p| {
                let some: Vec<f64> = x[0].chunks(width).flat_map(|row| row[2..7].to_vec()).collect();
                twin(Layout::OutIn, &some, &vec![0.0; rows * outputs], &p[0], &p[1])
            },
        );
    }

    #[test]
    fn both_layouts_with_bias_and_residual() {
        let (rows, inputs, outputs) = (6, 5, 7);
        for layout in [Layout::OutIn, Layout::InOut] {
            let case = Case {
                setting: setting(2, 3),
                inputs: &[normal(rows * inputs, 1.0, 1), normal(rows * outputs, 1.0, 2)],
                parameters: &[normal(inputs * outputs, 1.0, 3), normal(outputs, 1.0, 4)],
                tolerance: 1e-6,
            };
            hold(
                &case,
                |tape, x, p| {
                    let layer = Linear { weight: p[0], bias: Some(p[1]), inputs, outputs, layout };
                    linear_residual(tape, x[1], x[0], layer)
                },
                |x, p| twin(layout, &x[0], &x[1], &p[0], &p[1]),
            );
        }
    }
}
