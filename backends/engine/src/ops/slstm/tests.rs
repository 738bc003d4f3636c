use super::*;
use crate::check::{Case, hold, normal, same_bits, setting};

#[derive(Clone, Copy)]
struct Twin {
    batch: usize,
    steps: usize,
    heads: usize,
    unit: usize,
    layout: Layout,
}

impl Twin {
    /// The definition, cell by cell.
    fn output(&self, x: &[f64], kernel: &[f64], bias: &[f64]) -> Vec<f64> {
        let (unit, width) = (self.unit, self.unit * self.heads);
        let mut out = vec![0.0; self.batch * self.steps * width];
        for sequence in 0..self.batch {
            for head in 0..self.heads {
                let (mut y, mut c, mut n, mut m) =
                    (vec![0.0; unit], vec![0.0; unit], vec![0.0; unit], vec![0.0; unit]);
                for t in 0..self.steps {
                    let row = sequence * self.steps + t;
                    let last = y.clone();
                    for j in 0..unit {
                        let gate = |gate: usize| {
                            let (weight, bias) = self.weights(head, gate, j, kernel, bias);
                            let recurrent: f64 = weight.zip(&last).map(|(w, y)| w * y).sum();
                            x[row * GATES * width + gate * width + head * unit + j] + recurrent + bias
                        };
                        let [i, f, z, o] = [0, 1, 2, 3].map(gate);
                        let decay = -(-f).exp().ln_1p() + m[j];
                        let largest = if t == 0 { i } else { decay.max(i) };
                        let (input, forget) = ((i - largest).exp(), (decay - largest).exp());
                        c[j] = forget * c[j] + input * z.tanh();
                        n[j] = forget * n[j] + input;
                        m[j] = largest;
                        y[j] = c[j] / n[j] / (1.0 + (-o).exp());
                    }
                    out[row * width + head * unit..][..unit].copy_from_slice(&y);
                }
            }
        }
        out
    }

    /// Weights of a gate of a cell, and its bias.
    fn weights<'a>(
        &self,
        head: usize,
        gate: usize,
        j: usize,
        kernel: &'a [f64],
        bias: &[f64],
    ) -> (impl Iterator<Item = f64> + use<'a>, f64) {
        let (unit, heads, layout) = (self.unit, self.heads, self.layout);
        let weight = move |i: usize| match layout {
            Layout::Vanilla => kernel[((head * GATES + gate) * unit + j) * unit + i],
            Layout::Cuda => kernel[((head * unit + i) * GATES + gate) * unit + j],
        };
        let bias = match layout {
            Layout::Vanilla => bias[(gate * heads + head) * unit + j],
            Layout::Cuda => bias[(head * GATES + gate) * unit + j],
        };
        ((0..unit).map(weight), bias)
    }

    fn inputs(&self, gates: f32) -> (Vec<f32>, [Vec<f32>; 2]) {
        let (unit, width) = (self.unit, self.unit * self.heads);
        let x = normal(self.batch * self.steps * GATES * width, gates, 1);
        (x, [normal(self.heads * GATES * unit * unit, 0.5, 2), normal(GATES * width, 1.0, 3)])
    }

    fn run(&self, tape: &mut Tape<'_>, x: Value, p: &[Parameter]) -> Value {
        slstm(tape, x, Recurrence { kernel: p[0], bias: p[1], heads: self.heads, layout: self.layout })
    }

    fn hold(&self, x: Vec<f32>, parameters: &[Vec<f32>], tolerance: f64) {
        let case = Case { setting: setting(self.batch, self.steps), inputs: &[x], parameters, tolerance };
        hold(&case, |tape, x, p| self.run(tape, x[0], p), |x, p| self.output(&x[0], &p[0], &p[1]));
    }
}

#[test]
fn output_and_gradients_are_the_definitions_at_any_length() {
    for layout in [Layout::Vanilla, Layout::Cuda] {
        for steps in [1, 2, 15, 16, 17, 64, 65, 130] {
            let batch = if steps < 60 { 3 } else { 1 };
            let heads = if steps < 60 { 2 } else { 1 };
            let twin = Twin { batch, steps, heads, unit: 3, layout };
            let (x, parameters) = twin.inputs(1.0);
            twin.hold(x, &parameters, 1e-5);
        }
    }
}

#[test]
fn extreme_gates() {
    for seed in 1..4 {
        let twin = Twin { batch: 2, steps: 20, heads: 1, unit: 2, layout: Layout::Vanilla };
        let (mut x, parameters) = twin.inputs(1.0);
        // Input and forget gates, which are exponential; behind closed output gates no gradient would be left to compare.
        let far = |sign: f32| if sign > 0.0 { 20.0 } else { -20.0 };
        for (x, signs) in x.chunks_mut(8).zip(normal(2 * 20 * 4, 1.0, seed).chunks(4)) {
            x.iter_mut().zip(signs).for_each(|(x, sign)| *x += far(*sign));
        }
        twin.hold(x, &parameters, 2e-5);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let twin = Twin { batch: 5, steps: 17, heads: 2, unit: 3, layout: Layout::Vanilla };
    let (x, parameters) = twin.inputs(1.0);
    let case = Case { setting: setting(5, 17), inputs: &[x], parameters: &parameters, tolerance: 0.0 };
    same_bits(&case, |tape, x, p| twin.run(tape, x[0], p));
}
