use super::*;
use crate::check::{Case, hold, normal, same_bits, setting};

/// Sizes of a case.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    steps: usize,
    channels: usize,
    states: usize,
    /// Columns in front of B.
    rank: usize,
}

/// The recurrence, token by token. The inputs are x, δ, `[other | B | C]` and `[other | z]`.
fn twin(s: Sizes, inputs: &[Vec<f64>], p: &[Vec<f64>]) -> Vec<f64> {
    let (d, n) = (s.channels, s.states);
    let mut y = vec![];
    for sequence in 0..s.batch {
        let mut h = vec![0.0; d * n];
        for row in sequence * s.steps..(sequence + 1) * s.steps {
            let bc = &inputs[2][row * (s.rank + 2 * n) + s.rank..];
            for c in 0..d {
                let (x, z) = (inputs[0][row * d + c], inputs[3][row * 2 * d + d + c]);
                let step = inputs[1][row * d + c].exp().ln_1p();
                let mut sum = p[1][c] * x;
                for k in 0..n {
                    let h = &mut h[c * n + k];
                    *h = (-step * p[0][c * n + k].exp()).exp() * *h + step * x * bc[k];
                    sum += *h * bc[n + k];
                }
                y.push(sum * z / (1.0 + (-z).exp()));
            }
        }
    }
    y
}

fn scan(s: Sizes, x: &[Value], p: &[Parameter]) -> SelectiveScan {
    SelectiveScan {
        x: Columns { value: x[0], first: 0, width: s.channels },
        step: Columns { value: x[1], first: 0, width: s.channels },
        bc: Columns { value: x[2], first: s.rank, width: 2 * s.states },
        gate: Columns { value: x[3], first: s.channels, width: s.channels },
        log_rates: p[0],
        skip: p[1],
        channels: s.channels,
        states: s.states,
    }
}

/// Inputs, and tensors: steps as they are in a model, around softplus⁻¹ of 0.05, shifted by `shift`.
fn numbers(s: Sizes, shift: f32) -> ([Vec<f32>; 4], [Vec<f32>; 2]) {
    let rows = s.batch * s.steps;
    let steps = normal(rows * s.channels, 1.0, 2).iter().map(|x| x - 1.0 + shift).collect();
    let inputs = [
        normal(rows * s.channels, 1.0, 1),
        steps,
        normal(rows * (s.rank + 2 * s.states), 1.0, 3),
        normal(rows * 2 * s.channels, 1.0, 4),
    ];
    let log = |n: usize| ((n % s.states + 1) as f32).ln();
    let rates = normal(s.channels * s.states, 0.2, 5).iter().enumerate().map(|(n, x)| x + log(n)).collect();
    (inputs, [rates, normal(s.channels, 1.0, 6)])
}

fn hold_scan(s: Sizes, shift: f32) {
    let (inputs, parameters) = numbers(s, shift);
    let case = Case {
        setting: setting(s.batch, s.steps),
        inputs: &inputs,
        parameters: &parameters,
        tolerance: 1e-5,
    };
    hold(&case, |tape, x, p| selective_scan(tape, scan(s, x, p)), |x, p| twin(s, x, p));
}

#[test]
fn outputs_and_gradients_are_those_of_the_recurrence() {
    for steps in [1, 2, 31, 32, 33, 65] {
        hold_scan(Sizes { batch: 1, steps, channels: 2, states: 3, rank: 1 }, 0.0);
    }
}

#[test]
fn several_groups_and_blocks_of_channels_and_sequences() {
    hold_scan(Sizes { batch: 2, steps: 3, channels: 17, states: 2, rank: 0 }, 0.0);
    hold_scan(Sizes { batch: 2, steps: 1, channels: 130, states: 1, rank: 2 }, 0.0);
}

#[test]
fn extreme_steps_keep_their_gradients() {
    // Steps of 12, after which nothing of the past is left, and of 1e-5, after which all of it is.
    for shift in [12.0, -10.0] {
        hold_scan(Sizes { batch: 1, steps: 35, channels: 2, states: 2, rank: 0 }, shift);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let s = Sizes { batch: 3, steps: 40, channels: 150, states: 4, rank: 3 };
    let (inputs, parameters) = numbers(s, 0.0);
    let case =
        Case { setting: setting(s.batch, s.steps), inputs: &inputs, parameters: &parameters, tolerance: 0.0 };
    same_bits(&case, |tape, x, p| selective_scan(tape, scan(s, x, p)));
}
