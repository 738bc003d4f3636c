//! The recurrence: definition, chunkwise form and forest form against each other (tolerances of architectures.md 9).

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

mod support;

use bheval_abi::NO_PARENT;
use bheval_candle::kernels::Isa;
use bheval_candle::ops::forest::{Feed, Rows, Walk, recurrence};
use bheval_candle::ops::gla::{Chunks, Inputs, chunked, recurrent};
use candle_core::{D, DType, Device, Tensor};
use support::{Numbers, OwnedForest};

const LENGTHS: [usize; 9] = [1, 15, 16, 17, 37, 63, 64, 65, 130];

/// How the forget logits are drawn.
#[derive(Clone, Copy, Debug)]
enum Gates {
    Normal(f64),
    Constant(f64),
}

/// Gates, and the errors allowed for f32: chunkwise and recurrent, over the largest value.
const CASES: [(Gates, f64, f64, f64); 7] = [
    (Gates::Normal(1.0), 0.0, 3e-6, 1e-6),
    (Gates::Normal(1.0), 0.5, 3e-6, 1e-6),
    (Gates::Normal(8.0), 0.0, 4e-5, 1e-6),
    (Gates::Normal(20.0), 0.0, 8e-5, 1e-6),
    (Gates::Normal(20.0), 0.5, 4e-5, 1e-6),
    (Gates::Constant(30.0), 0.0, 3e-6, 2e-6),
    (Gates::Constant(-30.0), 0.0, 1e-4, 1e-6),
];

fn unit(numbers: &mut Numbers) -> f64 {
    (numbers.below(1 << 53) as f64 + 0.5) / (1u64 << 53) as f64
}

fn normal(numbers: &mut Numbers) -> f64 {
    (-2.0 * unit(numbers).ln()).sqrt() * (std::f64::consts::TAU * unit(numbers)).cos()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

struct Case {
    inputs: Inputs,
    /// Forget gates, `[heads, T, K]`.
    f: Tensor,
    state: Tensor,
}

fn case(heads: usize, steps: usize, head_dim: usize, gates: Gates, bound: f64, seed: u64) -> Case {
    let mut n = Numbers(seed);
    let shape = (heads, steps, head_dim);
    let size = heads * steps * head_dim;
    let tensor = |values: Vec<f64>| Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor");
    let mut draw = |size: usize| (0..size).map(|_| normal(&mut n)).collect::<Vec<_>>();
    let (q, v, state, z) = (draw(size), draw(size), draw(heads * head_dim * head_dim), draw(size));
    let z = z.into_iter().map(|x| match gates {
        Gates::Normal(deviation) => x * deviation,
        Gates::Constant(z) => z,
    });
    let z: Vec<f64> = z.collect();
    let k = z.iter().map(|z| (1.0 - bound) * sigmoid(-z)).collect();
    let f: Vec<f64> = z.iter().map(|z| bound + (1.0 - bound) * sigmoid(*z)).collect();
    let q = q.into_iter().map(|x| x * sigmoid(x)).collect();
    let g = if bound > 0.0 {
        f.iter().map(|f| f.ln()).collect()
    } else {
        z.iter().map(|z| -softplus(-z)).collect()
    };
    let state = Tensor::from_vec(state, (heads, head_dim, head_dim), &Device::Cpu).expect("a tensor");
    Case { inputs: Inputs { q: tensor(q), k: tensor(k), v: tensor(v), g: tensor(g) }, f: tensor(f), state }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn as_f32(x: &Inputs) -> Inputs {
    let [q, k, v, g] = [&x.q, &x.k, &x.v, &x.g].map(|t| t.to_dtype(DType::F32).expect("f32"));
    Inputs { q, k, v, g }
}

/// Largest error over the largest value of the reference.
fn error(got: &Tensor, exact: &Tensor) -> f64 {
    let (worst, size) = errors(got, exact);
    if worst == 0.0 { 0.0 } else { worst / size }
}

/// Largest error and largest value of the reference.
fn errors(got: &Tensor, exact: &Tensor) -> (f64, f64) {
    let got = got.to_dtype(DType::F64).expect("f64");
    let largest =
        |t: &Tensor| t.abs().and_then(|t| t.flatten_all()?.max(D::Minus1)?.to_scalar::<f64>()).expect("max");
    (largest(&(got - exact).expect("the same shape")), largest(exact))
}

fn pair_error(got: &(Tensor, Tensor), exact: &(Tensor, Tensor)) -> f64 {
    error(&got.0, &exact.0).max(error(&got.1, &exact.1))
}

#[test]
fn the_chunkwise_form_agrees_with_the_definition() {
    for (gates, bound, chunk_limit, step_limit) in CASES {
        let (mut worst64, mut worst32, mut step32) = (0.0f64, 0.0f64, 0.0f64);
        for (seed, steps) in LENGTHS.into_iter().enumerate() {
            let Case { inputs, state, .. } = case(3, steps, 16, gates, bound, seed as u64);
            let (single, small) = (as_f32(&inputs), state.to_dtype(DType::F32).expect("f32"));
            let exact = recurrent(&inputs, Some(&state)).expect("the definition");
            step32 = step32.max(pair_error(&recurrent(&single, Some(&small)).expect("f32"), &exact));
            for (chunk, sub_chunk) in [(64, 16), (32, 8), (16, 16), (10, 3), (7, 1)] {
                let chunks = Chunks { chunk, sub_chunk };
                let got = chunked(&inputs, chunks, Some(&state)).expect("f64");
                worst64 = worst64.max(pair_error(&got, &exact));
                let got = chunked(&single, chunks, Some(&small)).expect("f32");
                worst32 = worst32.max(pair_error(&got, &exact));
            }
        }
        println!(
            "{gates:?} β {bound}: chunkwise f64 {worst64:.1e}, f32 {worst32:.1e}; recurrent f32 {step32:.1e}"
        );
        assert!(worst64 <= 1e-12 && worst32 <= chunk_limit && step32 <= step_limit, "{gates:?}");
    }
}

#[test]
fn two_calls_with_a_carried_state_equal_one() {
    let Case { inputs, state, .. } = case(2, 130, 16, Gates::Normal(8.0), 0.0, 1);
    let whole = recurrent(&inputs, Some(&state)).expect("the definition");
    for split in [1, 16, 64, 65, 129] {
        type Form = fn(&Inputs, Option<&Tensor>) -> candle_core::Result<(Tensor, Tensor)>;
        let forms: [Form; 2] = [recurrent, |x, s| chunked(x, Chunks::default(), s)];
        for form in forms {
            let (first, carried) =
                form(&inputs.narrow(0, split).expect("part"), Some(&state)).expect("first");
            let rest = inputs.narrow(split, 130 - split).expect("part");
            let (second, last) = form(&rest, Some(&carried)).expect("second");
            let both = (Tensor::cat(&[first, second], 1).expect("both"), last);
            assert!(pair_error(&both, &whole) <= 1e-13, "split at {split}");
        }
    }
}

#[test]
fn no_initial_state_is_a_state_of_zeros() {
    let Case { inputs, state, .. } = case(2, 33, 16, Gates::Normal(1.0), 0.5, 2);
    let zeros = state.zeros_like().expect("zeros");
    let with = recurrent(&inputs, Some(&zeros)).expect("with");
    assert_eq!(pair_error(&recurrent(&inputs, None).expect("without"), &with), 0.0);
    assert!(chunked(&inputs, Chunks { chunk: 0, sub_chunk: 1 }, None).is_err());
}

/// A random forest in which every node is wanted, and the nodes of each path.
fn forest(numbers: &mut Numbers, size: usize) -> (OwnedForest, Vec<Vec<usize>>) {
    let (mut forest, mut paths) = (OwnedForest::default(), Vec::<Vec<usize>>::new());
    for node in 0..size {
        let parent = match numbers.below(15) {
            _ if node == 0 => NO_PARENT,
            0 => NO_PARENT,
            1 | 2 => numbers.below(node) as u32,
            _ => node as u32 - 1,
        };
        let mut path = paths.get(parent as usize).cloned().unwrap_or_default();
        path.push(node);
        paths.push(path);
        forest.push(0, parent, true);
    }
    (forest, paths)
}

/// `[heads, T, K]` as rows `[T, heads · K]` of f32, in the order of a walk.
fn rows(x: &Tensor, walk: &Walk) -> Vec<f32> {
    let x = x
        .transpose(0, 1)
        .and_then(|x| x.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>())
        .expect("rows");
    walk.nodes().iter().flat_map(|&node| x[node as usize].clone()).collect()
}

/// `o [heads, rows, K]` of the forest form for a case whose step `n` belongs to node `n`.
fn run(isa: Isa, case: &Case, walk: &Walk) -> Vec<f32> {
    let (heads, _, head_dim) = case.inputs.q.dims3().expect("heads, steps, keys");
    let scaled = (&case.inputs.q * (head_dim as f64).powf(-0.5)).expect("scaled");
    let [q, k, v, f] = [&scaled, &case.inputs.k, &case.inputs.v, &case.f].map(|t| rows(t, walk));
    let mut o = vec![f32::NAN; q.len()];
    recurrence(isa, walk, Rows { q: &q, k: &k, v: &v, f: &f }, heads, &mut o);
    o
}

#[test]
fn the_forest_form_agrees_with_the_definition_along_every_path() {
    let mut numbers = Numbers(11);
    for (gates, bound, _, limit) in CASES {
        let mut worst = 0.0f64;
        for (size, head_dim) in [(1, 16), (17, 5), (60, 16), (130, 32), (65, 64), (20, 128)] {
            let (forest, paths) = forest(&mut numbers, size);
            let walk = Walk::new(&forest.view(), Feed::Wanted);
            assert_eq!(walk.len(), size);
            let case = case(2, size, head_dim, gates, bound, size as u64);
            let o = run(Isa::best(), &case, &walk);
            let (mut wrong, mut largest) = (0.0f64, 0.0f64);
            for (row, &node) in walk.nodes().iter().enumerate() {
                let path: Vec<u32> = paths[node as usize].iter().map(|&n| n as u32).collect();
                let path = Tensor::new(path, &Device::Cpu).expect("path");
                let [q, k, v, g] = [&case.inputs.q, &case.inputs.k, &case.inputs.v, &case.inputs.g]
                    .map(|t| t.index_select(&path, 1).expect("the path's steps"));
                let (exact, _) = recurrent(&Inputs { q, k, v, g }, None).expect("the definition");
                let exact = exact.narrow(1, paths[node as usize].len() - 1, 1).expect("the last step");
                for head in 0..2 {
                    let got = o[(head * size + row) * head_dim..][..head_dim].to_vec();
                    let got = Tensor::from_vec(got, (1, head_dim), &Device::Cpu).expect("a row");
                    let (error, size) = errors(&got, &exact.get(head).expect("a head"));
                    (wrong, largest) = (wrong.max(error), largest.max(size));
                }
            }
            worst = worst.max(wrong / largest);
        }
        println!("{gates:?} β {bound}: forest f32 {worst:.1e}");
        assert!(worst <= limit, "{gates:?}: {worst:e}");
    }
}

#[test]
fn every_instruction_set_and_thread_count_gives_the_same_bits() {
    for head_dim in [7, 16, 128] {
        let (forest, _) = forest(&mut Numbers(2), 90);
        let walk = Walk::new(&forest.view(), Feed::Wanted);
        let case = case(3, 90, head_dim, Gates::Normal(1.0), 0.0, 3);
        let first = run(Isa::PORTABLE, &case, &walk);
        for isa in Isa::available() {
            for threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                assert!(pool.install(|| run(isa, &case, &walk)) == first, "{isa:?} {threads}");
            }
        }
    }
}

#[test]
fn saved_states_stay_few() {
    for (shape, size) in [(0, 20_000), (1, 20_000), (2, 20_000)] {
        let mut numbers = Numbers(4);
        let mut forest = OwnedForest::default();
        for node in 0..size {
            let parent = match shape {
                _ if node == 0 => NO_PARENT,
                0 => node - 1,
                1 => (node - 1) / 2,
                _ => numbers.below(node as usize) as u32,
            };
            forest.push(0, parent, true);
        }
        let walk = Walk::new(&forest.view(), Feed::Wanted);
        println!("shape {shape}: {} saved states", walk.saved());
        assert!(walk.saved() <= 15 && walk.len() == size as usize);
        let rows = walk.nodes().iter().zip(walk.parents());
        for (row, (&node, &parent_row)) in rows.enumerate() {
            assert!(parent_row == NO_PARENT || (parent_row as usize) < row);
            let parent = if parent_row == NO_PARENT { NO_PARENT } else { walk.nodes()[parent_row as usize] };
            assert_eq!(parent, forest.parent[node as usize]);
        }
    }
}
