//! Several linear layers of one input as one product.
//!
//! Weights that a checkpoint keeps apart (queries, keys and values; gate and up) are put one below the other first. That
//! copies as many values as there are weights, where the product reads each for every row; and `x`, or its gradient, is
//! gone through once instead of once a layer.

use bheval_kernels::gemm::Store;
use bheval_kernels::product::{View, ViewMut, product};
use rayon::prelude::*;

use crate::ops::linear::{Layout, Linear};
use crate::ops::rows::{put, sum_over_rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// Values that one task copies.
const TASK: usize = 1 << 14;

/// `[x W₁ᵀ + b₁ | x W₂ᵀ + b₂ | …]`, `[rows, Σ outputs]`.
///
/// # Panics
/// If the layers differ in inputs, or are not stored as [`Layout::OutIn`].
pub fn joined(tape: &mut Tape<'_>, x: Value, layers: &[Linear]) -> Value {
    let (setting, rows, inputs) = (tape.setting, tape.setting.rows(), tape.width(x));
    let fits = |layer: &Linear| layer.inputs == inputs && layer.layout == Layout::OutIn;
    assert!(layers.iter().all(fits), "layers that can't be joined");
    let outputs = layers.iter().map(|layer| layer.outputs).sum();
    let mut y = tape.output(outputs);
    let store = start(tape, layers, &mut y);
    let mut weights = tape.buffer(outputs * inputs);
    collect(layers, |p| tape.parameter(p), &mut weights);
    let w = View::new(&weights, outputs, inputs);
    let c = ViewMut::new(&mut y, rows, outputs);
    product(setting.isa, setting.precision, View::new(tape.get(x), rows, inputs), w.t(), store, c);
    tape.recycle(weights);
    let layers = layers.to_vec();
    tape.push(y, |y| Record { x, y, layers })
}

/// Writes the biases, where there are some, to every row.
fn start(tape: &Tape<'_>, layers: &[Linear], y: &mut [f32]) -> Store {
    if layers.iter().all(|layer| layer.bias.is_none()) {
        return Store::Set;
    }
    let bias = |layer: &Linear| match layer.bias {
        Some(bias) => tape.parameter(bias).to_vec(),
        None => vec![0.0; layer.outputs],
    };
    let biases: Vec<f32> = layers.iter().flat_map(bias).collect();
    y.par_chunks_mut(biases.len()).for_each(|row| row.copy_from_slice(&biases));
    Store::Add
}

/// Writes the weights one below the other.
fn collect<'a>(layers: &[Linear], get: impl Fn(Parameter) -> &'a [f32], out: &mut [f32]) {
    let mut rest = out;
    for layer in layers {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(layer.outputs * layer.inputs);
        let from = get(layer.weight);
        part.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| to.copy_from_slice(from));
        rest = tail;
    }
}

struct Record {
    x: Value,
    y: Value,
    layers: Vec<Linear>,
}

impl Operation for Record {
    /// `dx = dy W`, `dW = dyᵀ x`, `db = Σ dy`, with all weights together.
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (setting, rows) = (back.setting(), back.setting().rows());
        let (inputs, outputs) = (back.width(self.x), back.width(self.y));
        let g = View::new(&dy, rows, outputs);
        let mut weights = back.buffer(outputs * inputs);
        collect(&self.layers, |p| back.parameter(p), &mut weights);
        let (store, mut dx) = back.open(self.x);
        let w = View::new(&weights, outputs, inputs);
        product(setting.isa, setting.precision, g, w, store, ViewMut::new(&mut dx, rows, inputs));
        back.close(self.x, dx);
        let x = View::new(back.get(self.x), rows, inputs);
        let c = ViewMut::new(&mut weights, outputs, inputs);
        product(setting.isa, setting.precision, g.t(), x, Store::Set, c);
        self.hand_out(back, &weights);
        self.biases(back, &dy);
        back.recycle(weights);
        back.recycle(dy);
    }
}

impl Record {
    fn hand_out(&self, back: &mut Back<'_, '_>, gradients: &[f32]) {
        let mut rest = gradients;
        for layer in &self.layers {
            let (part, tail) = rest.split_at(layer.outputs * layer.inputs);
            let (store, mut dw) = back.open_parameter(layer.weight);
            put(store, &mut dw, part);
            back.close_parameter(layer.weight, dw);
            rest = tail;
        }
    }

    fn biases(&self, back: &mut Back<'_, '_>, dy: &[f32]) {
        let (rows, width) = (back.setting().rows(), back.width(self.y));
        let mut column = 0;
        for layer in &self.layers {
            if let Some(bias) = layer.bias {
                let (store, mut db) = back.open_parameter(bias);
                sum_over_rows(store, rows, &mut db, |row, sums| {
                    let g = &dy[row * width + column..][..layer.outputs];
                    sums.iter_mut().zip(g).for_each(|(s, g)| *s += g);
                });
                back.close_parameter(bias, db);
            }
            column += layer.outputs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, same_bits, setting};

    const INPUTS: usize = 5;
    const OUTPUTS: [usize; 3] = [7, 3, 4];

    fn layers(p: &[Parameter], biases: [bool; 3]) -> Vec<Linear> {
        let one = |(i, outputs): (usize, usize)| Linear {
            weight: p[2 * i],
            bias: biases[i].then_some(p[2 * i + 1]),
            inputs: INPUTS,
            outputs,
            layout: Layout::OutIn,
        };
        OUTPUTS.into_iter().enumerate().map(one).collect()
    }

    fn twin(x: &[f64], p: &[Vec<f64>], biases: [bool; 3]) -> Vec<f64> {
        let row = |x: &[f64]| -> Vec<f64> {
            let one = |i: usize, o: usize| {
                let sum: f64 = x.iter().zip(&p[2 * i][o * INPUTS..]).map(|(x, w)| x * w).sum();
                sum + if biases[i] { p[2 * i + 1][o] } else { 0.0 }
            };
            (0..3).flat_map(|i| (0..OUTPUTS[i]).map(move |o| one(i, o))).collect()
        };
        x.chunks(INPUTS).flat_map(row).collect()
    }

    #[test]
    fn side_by_side_with_and_without_biases() {
        let parameters: Vec<Vec<f32>> =
            OUTPUTS.iter().flat_map(|&o| [normal(o * INPUTS, 1.0, o as u64), normal(o, 1.0, 9)]).collect();
        let inputs = [normal(6 * INPUTS, 1.0, 1)];
        for biases in [[true; 3], [false; 3], [true, false, true]] {
            let case =
                Case { setting: setting(2, 3), inputs: &inputs, parameters: &parameters, tolerance: 1e-6 };
            let run =
                |tape: &mut Tape<'_>, x: &[Value], p: &[Parameter]| joined(tape, x[0], &layers(p, biases));
            hold(&case, run, |x, p| twin(&x[0], p, biases));
            same_bits(&case, run);
        }
    }
}
