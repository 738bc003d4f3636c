use super::*;
use crate::check::{Case, hold, near, normal, same_bits, setting};

/// Sizes of a twin, with its constants.
#[derive(Clone, Copy)]
struct Twin {
    steps: usize,
    heads: usize,
    keys: usize,
    values: usize,
    eps: f64,
    start: f64,
    cap: Option<f64>,
}

/// State of a head: `C [K, V]`, `n [K]`, `m`.
#[derive(Clone)]
struct State {
    c: Vec<f64>,
    n: Vec<f64>,
    m: f64,
}

impl Twin {
    fn cells(&self) -> Cells {
        let (eps, start, gate_cap) = (self.eps as f32, self.start as f32, self.cap.map(|c| c as f32));
        Cells { heads: self.heads, eps, start, gate_cap }
    }

    /// The state of a head after its steps, and their outputs, by the definition.
    fn head(&self, x: &[Vec<f64>], sequence: usize, head: usize) -> (State, Vec<Vec<f64>>) {
        let (keys, values) = (self.keys, self.values);
        let mut s = State { c: vec![0.0; keys * values], n: vec![0.0; keys], m: self.start };
        let cap = |x: f64| self.cap.map_or(x, |cap| cap * (x / cap).tanh());
        let step = |t: usize| {
            let row = sequence * self.steps + t;
            let part = |x: &[f64], size: usize| x[(row * self.heads + head) * size..][..size].to_vec();
            let (q, k, v) = (part(&x[0], keys), part(&x[1], keys), part(&x[2], values));
            let gate = |which: usize| cap(x[3][(row * 2 + which) * self.heads + head]);
            let (input, forget) = (gate(0), gate(1));
            let decay = -(-forget).exp().ln_1p() + s.m;
            let m = decay.max(input);
            let (f, i) = ((decay - m).exp(), (input - m).exp());
            s.m = m;
            for a in 0..keys {
                let k = i * k[a] / (keys as f64).sqrt();
                s.n[a] = f * s.n[a] + k;
                (0..values).for_each(|b| s.c[a * values + b] = f * s.c[a * values + b] + k * v[b]);
            }
            let n: f64 = (0..keys).map(|a| q[a] * s.n[a]).sum();
            let read = |b: usize| (0..keys).map(|a| q[a] * s.c[a * values + b]).sum::<f64>();
            let denominator = n.abs().max((-m).exp()) + self.eps;
            (0..values).map(|b| read(b) / denominator).collect()
        };
        let h = (0..self.steps).map(step).collect();
        (s, h)
    }

    fn output(&self, x: &[Vec<f64>]) -> Vec<f64> {
        let width = self.heads * self.values;
        let mut y = vec![0.0; x[2].len()];
        for (sequence, y) in y.chunks_mut(self.steps * width).enumerate() {
            for head in 0..self.heads {
                for (t, h) in self.head(x, sequence, head).1.iter().enumerate() {
                    y[t * width + head * self.values..][..self.values].copy_from_slice(h);
                }
            }
        }
        y
    }

    /// Queries, keys, values and gates.
    fn inputs(&self, batch: usize, gates: f32) -> [Vec<f32>; 4] {
        let rows = batch * self.steps * self.heads;
        // Keys that agree somewhat, so that the normaliser is not mostly noise.
        let k = normal(rows * self.keys, 1.0, 2).iter().map(|k| k + 1.0).collect();
        let q = normal(rows * self.keys, 1.0, 1).iter().map(|q| q + 1.0).collect();
        [q, k, normal(rows * self.values, 1.0, 3), normal(rows * 2, gates, 4)]
    }

    fn run(&self, tape: &mut Tape<'_>, x: &[Value], chunk: usize) -> Value {
        let gate = |which| Columns::share(tape, x[3], 2, which);
        let [q, k, v] = [0, 1, 2].map(|i| Columns::all(tape, x[i]));
        let inputs = Inputs { q, k, v, input: gate(0), forget: gate(1) };
        in_chunks(tape, inputs, self.cells(), chunk)
    }

    fn hold(&self, batch: usize, chunk: usize, inputs: &[Vec<f32>], tolerance: f64) {
        let case = Case { setting: setting(batch, self.steps), inputs, parameters: &[], tolerance };
        hold(&case, |tape, x, _| self.run(tape, x, chunk), |x, _| self.output(x));
    }
}

const SMALL: Twin = Twin { steps: 0, heads: 2, keys: 3, values: 5, eps: 1e-6, start: 0.0, cap: None };

#[test]
fn output_and_gradients_are_the_definitions_at_any_length() {
    for steps in [1, 15, 16, 17, 64, 65, 130] {
        let twin = Twin { steps, ..SMALL };
        let batch = if steps < 60 { 2 } else { 1 };
        let inputs = twin.inputs(batch, 2.0);
        twin.hold(batch, steps, &inputs, 2e-5);
        if steps > 64 {
            twin.hold(batch, 64, &inputs, 2e-5);
        }
    }
}

#[test]
fn chunks_of_several_tiles() {
    let twin = Twin { steps: 300, heads: 1, keys: 2, values: 1, ..SMALL };
    twin.hold(1, 128, &twin.inputs(1, 2.0), 2e-5);
}

#[test]
fn extreme_gates() {
    for seed in [1, 2] {
        for (start, eps) in [(0.0, 1e-6), (f64::NEG_INFINITY, 1e-6), (0.0, 1e-3)] {
            let twin = Twin { steps: 70, heads: 1, start, eps, ..SMALL };
            let mut inputs = twin.inputs(1, 1.0);
            for (g, x) in inputs[3].iter_mut().zip(normal(140, 1.0, seed)) {
                *g = if x > 0.0 { 20.0 } else { -20.0 } + *g * 0.1;
            }
            twin.hold(1, 64, &inputs, 5e-5);
            twin.hold(1, 70, &inputs, 5e-5);
        }
    }
}

/// A large ε: the maximum's own gradient is no longer small.
#[test]
fn epsilon_brings_the_maximum_into_the_gradient() {
    for start in [0.0, f64::NEG_INFINITY] {
        let twin = Twin { steps: 80, heads: 1, start, eps: 0.5, ..SMALL };
        twin.hold(1, 64, &twin.inputs(1, 1.0), 2e-5);
        twin.hold(1, 80, &twin.inputs(1, 1.0), 2e-5);
    }
}

#[test]
fn gates_are_capped() {
    let twin = Twin { steps: 17, cap: Some(2.0), ..SMALL };
    twin.hold(1, 17, &twin.inputs(1, 3.0), 2e-5);
}

#[test]
fn the_state_after_the_last_chunk() {
    let twin = Twin { steps: 130, heads: 1, ..SMALL };
    let inputs = twin.inputs(1, 2.0);
    let column = |which: usize| -> Vec<f32> { inputs[3].chunks(2).map(|g| g[which]).collect() };
    let isa = Isa::best();
    let gates = Gates::new(isa, &column(0), &column(1), 0.0);
    let view = |i: usize, width| bheval_kernels::product::View::new(&inputs[i], 130, width);
    let (q, k, v) = (view(0, 3), view(1, 3), view(2, 5));
    let head = Head { isa, chunk: 64, eps: 1e-6, q, k, v, gates: &gates };
    let mut room = vec![f32::NAN; Room::len(64, 3)];
    let (mut room, _) = Room::carve(&mut room, 64, 3);
    let mut state = vec![f32::NAN; Head::state_len(3, 5)];
    head.chunks().for_each(|(start, end)| head.advance(&mut room, start..end, &mut state));
    let wide: Vec<Vec<f64>> = inputs.iter().map(|x| x.iter().map(|&x| f64::from(x)).collect()).collect();
    let (expected, _) = twin.head(&wide, 0, 0);
    // The definition scales keys by 1/√K; the state here is of keys as they are.
    let scaled = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x * 3f64.sqrt()).collect() };
    near("C", &state[..15], &scaled(&expected.c), 2e-6);
    near("n", &state[15..], &scaled(&expected.n), 2e-6);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let twin = Twin { steps: 130, ..SMALL };
    let inputs = twin.inputs(3, 2.0);
    let case = Case { setting: setting(3, 130), inputs: &inputs, parameters: &[], tolerance: 0.0 };
    same_bits(&case, |tape, x, _| twin.run(tape, x, 64));
}

#[test]
fn queries_keys_and_values_may_lie_side_by_side() {
    let twin = Twin { steps: 9, values: 3, ..SMALL };
    let [q, k, v, gates] = twin.inputs(2, 2.0);
    let rows = q.chunks(6).zip(k.chunks(6)).zip(v.chunks(6));
    // Seven columns that no one reads.
    let wide: Vec<f32> = rows.flat_map(|((q, k), v)| [q, &[0.5; 7], k, v].concat()).collect();
    let case = Case { setting: setting(2, 9), inputs: &[wide, gates], parameters: &[], tolerance: 2e-5 };
    let operation = |tape: &mut Tape<'_>, x: &[Value]| {
        let part = |first| Columns { value: x[0], first, width: 6 };
        let gate = |which| Columns::share(tape, x[1], 2, which);
        let inputs = Inputs { q: part(0), k: part(13), v: part(19), input: gate(0), forget: gate(1) };
        mlstm(tape, inputs, twin.cells())
    };
    hold(
        &case,
        |tape, x, _| operation(tape, x),
        |x, _| {
            let part = |first: usize| -> Vec<f64> {
                x[0].chunks(25).flat_map(|row| row[first..first + 6].to_vec()).collect()
            };
            twin.output(&[part(0), part(13), part(19), x[1].clone()])
        },
    );
}

#[test]
fn chunks_are_taken_where_they_are_cheaper() {
    assert_eq!(chunk_steps(512, 512, 512), 512);
    assert_eq!(chunk_steps(2048, 512, 512), 256);
    assert_eq!(chunk_steps(512, 16, 32), 64);
    assert_eq!(chunk_steps(1, 4, 4), 1);
}
