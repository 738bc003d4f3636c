use super::*;
use crate::check::{Case, hold, normal, same_bits, setting};

/// Columns of the steps' value in front of them, which the operation does not read.
const OTHER: usize = 3;

fn sizes(heads: usize, head_dim: usize, states: usize, groups: usize) -> Sizes {
    let inner = heads * head_dim;
    Sizes { heads, head_dim, states, groups, normed: inner, limit: (0.0, f32::INFINITY) }
}

/// The recurrence, token by token.
fn twin(s: Sizes, steps: usize, x: &[Vec<f64>], p: &[Vec<f64>]) -> Vec<f64> {
    let mut y = vec![];
    let rows = x[0].chunks(s.convolved()).zip(x[1].chunks(OTHER + s.heads));
    let mut h = vec![0.0; s.inner() * s.states];
    for (row, (xbc, step)) in rows.enumerate() {
        if row % steps == 0 {
            h.fill(0.0);
        }
        let (x, bc) = xbc.split_at(s.inner());
        let (b, c) = bc.split_at(s.groups * s.states);
        for head in 0..s.heads {
            let raw = step[OTHER + head] + p[0][head];
            let delta = raw.exp().ln_1p().clamp(f64::from(s.limit.0), f64::from(s.limit.1));
            let decay = (-delta * p[1][head].exp()).exp();
            let keys = head / (s.heads / s.groups) * s.states;
            for channel in head * s.head_dim..(head + 1) * s.head_dim {
                let mut sum = p[2][head] * x[channel];
                for n in 0..s.states {
                    let state = &mut h[channel * s.states + n];
                    *state = decay * *state + delta * x[channel] * b[keys + n];
                    sum += *state * c[keys + n];
                }
                y.push(sum);
            }
        }
    }
    y
}

fn layer(s: Sizes, x: &[Value], p: &[Parameter]) -> Ssd {
    let step = Columns { value: x[1], first: OTHER, width: s.heads };
    Ssd { xbc: x[0], step, step_bias: p[0], log_rates: p[1], skip: p[2], sizes: s }
}

/// Inputs, and tensors, with steps around softplus(`shift`).
fn numbers(s: Sizes, rows: usize, shift: f32) -> ([Vec<f32>; 2], [Vec<f32>; 3]) {
    let bias = normal(s.heads, 0.5, 3).iter().map(|x| x + shift).collect();
    let inputs = [normal(rows * s.convolved(), 1.0, 1), normal(rows * (OTHER + s.heads), 1.0, 2)];
    (inputs, [bias, normal(s.heads, 0.7, 4), normal(s.heads, 1.0, 5)])
}

fn hold_ssd(s: Sizes, batch: usize, steps: usize, shift: f32) {
    let (inputs, parameters) = numbers(s, batch * steps, shift);
    let setting = setting(batch, steps);
    let case = Case { setting, inputs: &inputs, parameters: &parameters, tolerance: 1e-5 };
    hold(&case, |tape, x, p| ssd(tape, layer(s, x, p)), |x, p| twin(s, steps, x, p));
}

#[test]
fn outputs_and_gradients_are_those_of_the_recurrence() {
    for steps in [1, 15, 16, 17, 63, 64, 65] {
        hold_ssd(sizes(3, 1, 2, 1), 1, steps, -1.0);
    }
}

#[test]
fn several_chunks_carry_states_both_ways() {
    hold_ssd(sizes(2, 1, 2, 1), 1, 130, -3.0);
}

#[test]
fn heads_of_several_groups_in_several_sequences() {
    hold_ssd(sizes(4, 3, 2, 2), 2, 5, -1.0);
    hold_ssd(sizes(6, 1, 1, 3), 2, 66, -2.0);
}

#[test]
fn steps_beyond_the_limits_have_no_gradient() {
    // With steps around 0.3 some lie on either side.
    let s = Sizes { limit: (0.2, 0.4), ..sizes(3, 2, 2, 1) };
    hold_ssd(s, 1, 20, -1.0);
}

#[test]
fn extreme_decays_keep_their_gradients() {
    // Δ of 15 and of 5e-6: nothing or all of the past is kept.
    for shift in [15.0, -12.0] {
        hold_ssd(sizes(2, 2, 2, 1), 1, 70, shift);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (s, batch, steps) = (sizes(4, 24, 10, 2), 3, 100);
    let (inputs, parameters) = numbers(s, batch * steps, -1.0);
    let setting = setting(batch, steps);
    let case = Case { setting, inputs: &inputs, parameters: &parameters, tolerance: 0.0 };
    same_bits(&case, |tape, x, p| ssd(tape, layer(s, x, p)));
}
