use std::sync::Arc;

use bheval_candle::layers::rope::Frequencies;
use bheval_candle::ops::attention::Heads;

use super::*;
use crate::check::{Case, hold, normal, same_bits, setting};

/// The definition, one score at a time.
fn twin(
    a: &Attention,
    frequencies: Option<&Frequencies>,
    steps: usize,
    dropout: Option<WeightDropout>,
    x: &[f64],
) -> Vec<f64> {
    let Heads { count, shared, dim } = a.heads;
    let width = (count + 2 * shared) * dim;
    let segment = |row: &[f64], segment: usize| row[segment * dim..][..dim].to_vec();
    let place = |part: usize, head: usize| match a.layout {
        Layout::Parts => [head, count + head, count + shared + head][part],
        Layout::Heads => 3 * head + part,
    };
    let turned = |t: usize, mut x: Vec<f64>| -> Vec<f64> {
        let Some(Frequencies { inverse, factor }) = frequencies else { return x };
        for (j, f) in inverse.iter().enumerate() {
            let (a, b, angle) = (x[j], x[j + inverse.len()], t as f64 * f);
            x[j] = factor * (a * angle.cos() - b * angle.sin());
            x[j + inverse.len()] = factor * (b * angle.cos() + a * angle.sin());
        }
        x
    };
    let mut y = vec![];
    for (i, sequence) in x.chunks(steps * width).enumerate() {
        let rows: Vec<&[f64]> = sequence.chunks(width).collect();
        for t in 0..steps {
            for head in 0..count {
                let key = head * shared / count;
                let q = turned(t, segment(rows[t], place(0, head)));
                let score = |s: usize| {
                    let k = turned(s, segment(rows[s], place(1, key)));
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(a.scale)
                };
                let p: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
                let sum: f64 = p.iter().sum();
                let choices = dropout.map(|dropout| dropout.of(((i * count + head) * steps + t) as u64));
                let kept = |s: usize| choices.map_or(1.0, |choices| f64::from(choices.factor(s as u32)));
                y.extend((0..dim).map(|d| {
                    let one = |s: usize| p[s] * kept(s) * segment(rows[s], place(2, key))[d];
                    (0..=t).map(one).sum::<f64>() / sum
                }));
            }
        }
    }
    y
}

fn make(heads: Heads, layout: Layout, frequencies: Option<&Frequencies>, steps: usize) -> Attention {
    let rotary = frequencies.map(|f| Arc::new(Rotary::new(f, steps)));
    Attention { heads, layout, scale: 0.6, rotary, dropout: 0.0 }
}

fn check(batch: usize, steps: usize, heads: Heads, layout: Layout, frequencies: Option<&Frequencies>) {
    let a = make(heads, layout, frequencies, steps);
    let inputs = [normal(batch * steps * a.width(), 1.0, steps as u64)];
    let case = Case { setting: setting(batch, steps), inputs: &inputs, parameters: &[], tolerance: 3e-6 };
    hold(
        &case,
        |tape, x, _| attention(tape, x[0], a.clone()),
        |x, _| twin(&a, frequencies, steps, None, &x[0]),
    );
}

#[test]
fn grouped_heads_with_rotary_positions_at_awkward_lengths() {
    let heads = Heads { count: 4, shared: 2, dim: 4 };
    let frequencies = Frequencies { inverse: vec![1.0, 0.1], factor: 1.3 };
    for (batch, steps) in [(2, 1), (1, 2), (2, 15), (1, 16), (1, 17)] {
        check(batch, steps, heads, Layout::Parts, Some(&frequencies));
    }
}

#[test]
fn over_several_blocks() {
    for steps in [63, 64, 65, 130] {
        check(1, steps, Heads { count: 1, shared: 1, dim: 2 }, Layout::Parts, None);
    }
}

#[test]
fn heads_side_by_side_that_turn_in_part() {
    let frequencies = Frequencies { inverse: vec![1.0], factor: 1.0 };
    check(2, 7, Heads { count: 3, shared: 3, dim: 6 }, Layout::Heads, Some(&frequencies));
}

#[test]
fn wide_heads() {
    check(1, 3, Heads { count: 1, shared: 1, dim: 35 }, Layout::Parts, None);
}

#[test]
fn one_and_three_threads_give_the_same_bits() {
    let heads = Heads { count: 4, shared: 2, dim: 20 };
    let frequencies = Frequencies::plain(10_000.0, 20);
    let a = make(heads, Layout::Parts, Some(&frequencies), 130);
    let inputs = [normal(3 * 130 * a.width(), 1.0, 5)];
    let case = Case { setting: setting(3, 130), inputs: &inputs, parameters: &[], tolerance: 0.0 };
    same_bits(&case, |tape, x, _| attention(tape, x[0], a.clone()));
}

#[test]
fn dropped_weights_are_the_same_there_and_back() {
    let (steps, heads) = (18, Heads { count: 4, shared: 2, dim: 3 });
    let a = Attention { dropout: 0.4, ..make(heads, Layout::Parts, None, steps) };
    let inputs = [normal(2 * steps * a.width(), 1.0, 6)];
    let setting = crate::tape::Setting { dropout: Some(3), ..setting(2, steps) };
    let case = Case { setting, inputs: &inputs, parameters: &[], tolerance: 3e-6 };
    let drawn = std::sync::Mutex::new(0);
    let run = |tape: &mut Tape<'_>, x: &[Value], _: &[crate::parameters::Parameter]| {
        *drawn.lock().expect("no test thread panicked") = seed(tape, 0.4).expect("in training");
        attention(tape, x[0], a.clone())
    };
    hold(&case, run, |x, _| {
        let dropout = WeightDropout::new(*drawn.lock().expect("no test thread panicked"), 0.4);
        twin(&a, None, steps, Some(dropout), &x[0])
    });
    same_bits(&case, run);
}

/// Large scores, whose exponentials alone would overflow.
#[test]
fn large_scores_stay_finite() {
    let heads = Heads { count: 1, shared: 1, dim: 4 };
    let a = make(heads, Layout::Parts, None, 40);
    let inputs = [normal(40 * a.width(), 30.0, 5)];
    let case = Case { setting: setting(1, 40), inputs: &inputs, parameters: &[], tolerance: 1e-4 };
    let shifted = |x: &[Vec<f64>]| {
        let scores = |t: usize, s: usize| -> f64 {
            let (q, k) = (&x[0][t * 12..][..4], &x[0][s * 12 + 4..][..4]);
            q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(a.scale)
        };
        let row = |t: usize| {
            let max = (0..=t).map(|s| scores(t, s)).fold(f64::MIN, f64::max);
            let p: Vec<f64> = (0..=t).map(|s| (scores(t, s) - max).exp()).collect();
            let one = |d: usize| (0..=t).map(|s| p[s] * x[0][s * 12 + 8 + d]).sum::<f64>();
            (0..4).map(|d| one(d) / p.iter().sum::<f64>()).collect::<Vec<f64>>()
        };
        (0..40).flat_map(row).collect::<Vec<f64>>()
    };
    hold(&case, |tape, x, _| attention(tape, x[0], a.clone()), |x, _| shifted(x));
}
