use super::*;
use crate::check::{Case, hold, normal, same_bits, setting};

/// The recurrence, token by token.
fn twin(batch: usize, steps: usize, hidden: usize, x: &[f64], p: &[Vec<f64>]) -> Vec<f64> {
    let inputs = x.len() / (batch * steps);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut y = vec![];
    for sequence in x.chunks(steps * inputs) {
        let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
        for x in sequence.chunks(inputs) {
            let raw = |a: usize| {
                let bias: f64 = p[2..].iter().map(|b| b[a]).sum();
                let from_x: f64 = x.iter().zip(&p[0][a * inputs..]).map(|(x, w)| x * w).sum();
                bias + from_x + h.iter().zip(&p[1][a * hidden..]).map(|(h, w)| h * w).sum::<f64>()
            };
            let a: Vec<f64> = (0..4 * hidden).map(raw).collect();
            for j in 0..hidden {
                c[j] = sigmoid(a[hidden + j]) * c[j] + sigmoid(a[j]) * a[2 * hidden + j].tanh();
                h[j] = sigmoid(a[3 * hidden + j]) * c[j].tanh();
            }
            y.extend_from_slice(&h);
        }
    }
    y
}

fn layer(p: &[Parameter], inputs: usize, hidden: usize) -> Lstm {
    let biases = (p.len() > 2).then(|| [p[2], p[3]]);
    Lstm { input: p[0], recurrent: p[1], biases, inputs, hidden }
}

/// Inputs and tensors of a layer.
fn numbers(rows: usize, inputs: usize, hidden: usize, scale: f32, bias: bool) -> (Vec<f32>, Vec<Vec<f32>>) {
    let x = normal(rows * inputs, scale, 1);
    let mut p = vec![normal(4 * hidden * inputs, scale, 2), normal(4 * hidden * hidden, 0.5 * scale, 3)];
    if bias {
        p.extend([normal(4 * hidden, scale, 4), normal(4 * hidden, scale, 5)]);
    }
    (x, p)
}

fn hold_layer(batch: usize, steps: usize, (inputs, hidden): (usize, usize), scale: f32, bias: bool) {
    let (x, p) = numbers(batch * steps, inputs, hidden, scale, bias);
    let case = Case { setting: setting(batch, steps), inputs: &[x], parameters: &p, tolerance: 1e-5 };
    hold(
        &case,
        |tape, x, p| lstm(tape, x[0], layer(p, inputs, hidden)),
        |x, p| twin(batch, steps, hidden, &x[0], p),
    );
}

#[test]
fn outputs_and_gradients_are_those_of_the_recurrence() {
    for steps in [1, 2, 15, 17] {
        hold_layer(3, steps, (3, 5), 1.0, true);
    }
    hold_layer(2, 40, (2, 3), 1.0, false);
}

#[test]
fn saturated_gates_keep_their_gradients() {
    hold_layer(2, 9, (3, 4), 4.0, true);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Enough for three threads to share.
    let (batch, steps, inputs, hidden) = (18, 4, 20, 150);
    assert!(batch * 4 * hidden * hidden >= 3 * WORK);
    let (x, p) = numbers(batch * steps, inputs, hidden, 0.3, true);
    let case = Case { setting: setting(batch, steps), inputs: &[x], parameters: &p, tolerance: 0.0 };
    same_bits(&case, |tape, x, p| lstm(tape, x[0], layer(p, inputs, hidden)));
}
