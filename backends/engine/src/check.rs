//! Holds an operation against an obvious twin in f64: its output, and all its gradients against central differences.

use std::sync::{Arc, Mutex};

use bheval_kernels::Isa;
use bheval_kernels::product::Precision;
use bheval_kernels::random::Numbers;

use crate::parameters::{Gradients, Init, Parameter, Parameters};
use crate::pool::Pool;
use crate::tape::{Back, Operation, Setting, Tape, Value};

/// A setting for `batch` sequences of `steps` tokens.
pub(crate) fn setting(batch: usize, steps: usize) -> Setting {
    Setting { isa: Isa::best(), precision: Precision::F32, batch, steps, dropout: None }
}

/// Normal numbers.
pub(crate) fn normal(len: usize, deviation: f32, seed: u64) -> Vec<f32> {
    Numbers::new(seed).normal(len, deviation)
}

/// What an operation is run on.
pub(crate) struct Case<'a> {
    pub(crate) setting: Setting,
    /// Matrices `[rows, width]` on the tape; the number of rows follows from the setting.
    pub(crate) inputs: &'a [Vec<f32>],
    /// Tensors, flat.
    pub(crate) parameters: &'a [Vec<f32>],
    /// Allowed error, relative to the largest value of what is compared.
    pub(crate) tolerance: f64,
}

struct Leaf(Value, usize, Arc<Mutex<Vec<Vec<f32>>>>);

impl Operation for Leaf {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let gradient = back.gradient(self.0).unwrap_or_else(|| vec![0.0; back.get(self.0).len()]);
        self.2.lock().expect("no test thread panicked")[self.1] = gradient;
    }
}

/// What a run on the tape gives: the output, the gradients of the inputs and those of the tensors.
#[derive(PartialEq, Debug)]
struct Run {
    output: Vec<f32>,
    cotangent: Vec<f32>,
    inputs: Vec<Vec<f32>>,
    parameters: Vec<Vec<f32>>,
}

fn run(case: &Case<'_>, operation: impl Fn(&mut Tape<'_>, &[Value], &[Parameter]) -> Value) -> Run {
    let mut parameters = Parameters::default();
    let add = |(i, values): (usize, &Vec<f32>)| {
        parameters.matrix(format!("p{i}"), &[values.len()], Init::Values(values.clone()))
    };
    let ids: Vec<Parameter> = case.parameters.iter().enumerate().map(add).collect();
    parameters.initialise(0);
    let (mut pool, mut gradients) = (Pool::default(), Gradients::new(&parameters));
    let leaves = Arc::new(Mutex::new(vec![vec![]; case.inputs.len()]));
    let mut tape = Tape::new(case.setting, &parameters, &mut pool, true);
    let input =
        |(i, x): (usize, &Vec<f32>)| tape.push(x.clone(), |value| Leaf(value, i, Arc::clone(&leaves)));
    let values: Vec<Value> = case.inputs.iter().enumerate().map(input).collect();
    let out = operation(&mut tape, &values, &ids);
    let output = tape.get(out).to_vec();
    let cotangent = normal(output.len(), 1.0, 99);
    tape.backward(out, cotangent.clone(), &mut gradients);
    let inputs = leaves.lock().expect("no test thread panicked").clone();
    Run { output, cotangent, inputs, parameters: gradients.finish().to_vec() }
}

/// Runs `operation` on the case and `twin` on the same numbers (inputs, then parameters) in f64.
pub(crate) fn hold(
    case: &Case<'_>,
    operation: impl Fn(&mut Tape<'_>, &[Value], &[Parameter]) -> Value,
    twin: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64>,
) {
    let got = run(case, operation);
    let wide = |all: &[Vec<f32>]| -> Vec<Vec<f64>> {
        all.iter().map(|x| x.iter().map(|&x| f64::from(x)).collect()).collect()
    };
    let (inputs, tensors) = (wide(case.inputs), wide(case.parameters));
    near("output", &got.output, &twin(&inputs, &tensors), case.tolerance);
    let loss = |inputs: &[Vec<f64>], tensors: &[Vec<f64>]| -> f64 {
        twin(inputs, tensors).iter().zip(&got.cotangent).map(|(y, c)| y * f64::from(*c)).sum()
    };
    for (i, got) in got.inputs.iter().enumerate() {
        let at = |x: &[Vec<f64>]| loss(x, &tensors);
        near(&format!("gradient of input {i}"), got, &differences(&inputs, i, at), case.tolerance);
    }
    for (i, got) in got.parameters.iter().enumerate() {
        let at = |x: &[Vec<f64>]| loss(&inputs, x);
        near(&format!("gradient of parameter {i}"), got, &differences(&tensors, i, at), case.tolerance);
    }
}

/// Runs `operation` on 1, 2 and 3 threads: the output and all gradients have the same bits.
pub(crate) fn same_bits(
    case: &Case<'_>,
    operation: impl Fn(&mut Tape<'_>, &[Value], &[Parameter]) -> Value + Sync,
) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        pool.install(|| run(case, &operation))
    };
    let one = on(1);
    assert!([&one.inputs, &one.parameters].iter().all(|all| all.iter().flatten().all(|x| x.is_finite())));
    for threads in [2, 3] {
        assert!(on(threads) == one, "{threads} threads give other bits than 1");
    }
}

/// Central differences of `loss` for each element of `all[which]`.
pub(crate) fn differences(all: &[Vec<f64>], which: usize, loss: impl Fn(&[Vec<f64>]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut moved = all.to_vec();
    let mut one = |i: usize| {
        let x = all[which][i];
        moved[which][i] = x + H;
        let up = loss(&moved);
        moved[which][i] = x - H;
        let down = loss(&moved);
        moved[which][i] = x;
        (up - down) / (2.0 * H)
    };
    (0..all[which].len()).map(&mut one).collect()
}

/// Every element within `tolerance` of the largest.
pub(crate) fn near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-3_f64, |m, x| m.max(x.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs() / size;
        assert!(
            error <= tolerance,
            "{what}, element {i}: {got} where {expected} is expected (error {error:e})"
        );
    }
}
