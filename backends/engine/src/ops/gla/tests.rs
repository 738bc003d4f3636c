//! The operation against the token recurrence in f64.
#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.
#![allow(clippy::unwrap_used)] // Candle's results for shapes that are right by construction.

mod twin;

use bheval_candle::ops::gla::{Inputs, recurrent};
use bheval_kernels::Isa;
use bheval_kernels::random::Numbers;
use candle_core::{Device, Tensor, Var};
use proptest::prelude::*;

use self::twin::{Case, Found, twin};
use super::backward::{Outs, backward};
use super::chunk::{CHUNK, Head, padded};
use super::forward::{SEGMENT, forward};
use super::room::Rooms;
use super::{backward as way_back, blocks, forward as way, gla, thirds};
use crate::check;
use crate::ops::add::add;
use crate::ops::lower_bounds::lower_bounds;

const LENGTHS: [usize; 9] = [1, 15, 16, 17, 63, 64, 65, 130, 200];

/// A sequence with an initial state and a gradient of the final one.
fn case(steps: usize, heads: usize, dim: usize, gates: Gates, bound: f32) -> Case {
    let mut numbers = Numbers::new((steps * 31 + heads * 7 + dim) as u64);
    let width = heads * dim;
    let mut x = numbers.normal(steps * 3 * width, 1.0);
    for row in x.chunks_exact_mut(3 * width) {
        row[width..2 * width].iter_mut().enumerate().for_each(|(c, z)| *z = gates.logit(*z, c));
    }
    let states = heads * dim * dim;
    Case {
        steps,
        heads,
        dim,
        x,
        bound: (0..width).map(|c| bound * (1.0 - 0.1 * c as f32 / width as f32)).collect(),
        initial: numbers.normal(states, 1.0),
        d_o: numbers.normal(steps * width, 1.0),
        d_final: numbers.normal(states, 1.0),
    }
}

/// How open the gates are.
#[derive(Clone, Copy, Debug)]
enum Gates {
    /// Normal logits with this standard deviation.
    Normal(f32),
    /// All the same.
    All(f32),
    /// Channels that are open and channels that are shut.
    Apart(f32),
}

impl Gates {
    fn logit(self, normal: f32, channel: usize) -> f32 {
        match self {
            Self::Normal(deviation) => normal * deviation,
            Self::All(z) => z,
            Self::Apart(z) => {
                if channel.is_multiple_of(2) {
                    z
                } else {
                    -z
                }
            }
        }
    }
}

/// What the operation gives, head by head.
fn run(isa: Isa, case: &Case) -> Found {
    let (width, dim, size) = (case.heads * case.dim, case.dim, padded(case.dim));
    let complement: Vec<f32> = case.bound.iter().map(|b| (1.0 - f64::from(*b)) as f32).collect();
    let (mut o, mut dx) = (vec![f32::NAN; case.steps * width], vec![f32::NAN; case.steps * 3 * width]);
    let mut d_bound = vec![0.0; width];
    let (mut last, mut d_initial) = (vec![], vec![]);
    let outs = blocks(&mut o, case.steps, width, dim).into_iter();
    let d_outs = thirds(blocks(&mut dx, case.steps, 3 * width, dim), case.heads).into_iter();
    for (h, (mut out, [mut u, mut z, mut v])) in outs.zip(d_outs).enumerate() {
        let own = h * dim..(h + 1) * dim;
        let head = Head {
            x: &case.x,
            width,
            first: own.start,
            dim,
            bound: &case.bound[own.clone()],
            complement: &complement[own.clone()],
        };
        let mut kept = vec![pad(&case.initial[h * dim * dim..][..dim * dim], dim, false)];
        let mut state = kept[0].clone();
        room(way::room(size)).with(|room| {
            forward(isa, head, room, &mut state, &mut out, |segment, state| {
                assert_eq!(segment, kept.len());
                kept.push(state.to_vec());
            });
        });
        assert_eq!(kept.len(), case.steps.div_ceil(CHUNK * SEGMENT));
        last.extend(unpad(&state, dim, false));
        let mut d_state = pad(&case.d_final[h * dim * dim..][..dim * dim], dim, true);
        let entry = |segment: usize, out: &mut [f32]| {
            (0..out.len()).for_each(|n| out[n] = kept[segment][n % size * size + n / size]);
        };
        let d_o = |step: usize| &case.d_o[step * width + own.start..][..dim];
        let bound = &mut d_bound[own.clone()];
        let mut outs = Outs { u: &mut u, z: &mut z, v: &mut v, bound, add: false };
        room(way_back::room(size, case.steps)).with(|room| {
            backward(isa, head, room, d_o, &mut d_state, entry, &mut outs);
        });
        d_initial.extend(unpad(&d_state, dim, true));
    }
    Found { o, last, dx, d_bound, d_initial }
}

fn room(len: usize) -> Rooms {
    Rooms::new(len, |len| vec![f32::NAN; len])
}

/// A state with padding, perhaps transposed.
fn pad(state: &[f32], dim: usize, transposed: bool) -> Vec<f32> {
    let size = padded(dim);
    let mut wide = vec![0.0; size * size];
    for (n, x) in state.iter().enumerate() {
        let (k, v) = if transposed { (n % dim, n / dim) } else { (n / dim, n % dim) };
        wide[k * size + v] = *x;
    }
    wide
}

fn unpad(state: &[f32], dim: usize, transposed: bool) -> Vec<f32> {
    let size = padded(dim);
    let at = |n: usize| if transposed { n % dim * size + n / dim } else { n / dim * size + n % dim };
    (0..dim * dim).map(|n| state[at(n)]).collect()
}

/// Largest error of anything, relative to the largest value of what it belongs to.
fn error(case: &Case, what: &str) -> f64 {
    let (got, exact) = (run(Isa::best(), case), twin(case));
    let mut worst = 0.0_f64;
    for ((name, got), (_, exact)) in got.parts(case).into_iter().zip(exact.parts(case)) {
        assert_eq!(got.len(), exact.len());
        let size = exact.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
            let error = (got - exact).abs() / size.max(f64::MIN_POSITIVE);
            assert!(error < 1e-4, "{what}: {name} {i}: {got} for {exact}, the largest is {size}");
            worst = worst.max(error);
        }
    }
    worst
}

#[test]
fn every_length_head_and_size_is_the_recurrence() {
    let mut worst = 0.0_f64;
    for steps in LENGTHS {
        for (heads, dim, bound) in [(1, 128, 0.0), (1, 64, 0.5), (2, 32, 0.0), (3, 16, 0.5), (2, 20, 0.3)] {
            if steps.is_multiple_of(65) || dim < 100 {
                let case = case(steps, heads, dim, Gates::Normal(1.0), bound);
                worst =
                    worst.max(error(&case, &format!("{steps} steps, {heads} heads of {dim}, bound {bound}")));
            }
        }
    }
    println!("ordinary gates: {worst:.1e}");
    assert!(worst <= 1.5e-6, "{worst:e}");
}

/// Beside architectures.md 9: logits of deviation 8 and 20, all gates open, all shut, and both in turn.
#[test]
fn extreme_gates_are_the_recurrence() {
    for (gates, allowed) in [
        (Gates::Normal(8.0), 1.6e-5),
        (Gates::Normal(20.0), 1.8e-5),
        (Gates::All(30.0), 1.5e-6),
        (Gates::All(-30.0), 1.5e-6),
        (Gates::Apart(30.0), 1.5e-6),
        (Gates::All(1000.0), 1.5e-6),
        (Gates::All(-1000.0), 1.5e-6),
    ] {
        let mut worst = 0.0_f64;
        for steps in [1, 17, 37, 130] {
            for bound in [0.0, 0.5, 0.99] {
                let case = case(steps, 2, 32, gates, bound);
                worst = worst.max(error(&case, &format!("{steps} steps, {gates:?}, bound {bound}")));
            }
        }
        println!("{gates:?}: {worst:.1e}");
        assert!(worst <= allowed, "{gates:?}: {worst:e}");
    }
}

#[test]
fn sequences_of_several_segments_are_the_recurrence() {
    let segment = CHUNK * SEGMENT;
    for steps in [segment, segment + 1, 2 * segment + 5] {
        let worst = error(&case(steps, 2, 18, Gates::Normal(3.0), 0.1), &format!("{steps} steps"));
        assert!(worst <= 3e-6, "{steps} steps: {worst:e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_shape_is_the_recurrence(
        steps in 1usize..90,
        heads in 1usize..4,
        dim in 1usize..40,
        deviation in 0.0f32..6.0,
        bound in 0.0f32..0.999,
    ) {
        let case = case(steps, heads, dim, Gates::Normal(deviation), bound);
        let worst = error(&case, "a random shape");
        prop_assert!(worst <= 1e-5, "{:e}", worst);
    }
}

/// The twin's way back is candle's: automatic differentiation of `bheval_candle`'s recurrence in f64.
#[test]
fn the_twin_has_the_gradients_of_the_recurrence() {
    for (steps, bound) in [(1, 0.3), (19, 0.0), (19, 0.3)] {
        let case = case(steps, 2, 5, Gates::Normal(2.0), bound);
        let (found, exact) = (twin(&case), by_candle(&case));
        for ((name, found), (_, exact)) in found.parts(&case).into_iter().zip(exact.parts(&case)) {
            let size = exact.iter().fold(1e-3_f64, |m, x| m.max(x.abs()));
            for (found, exact) in found.iter().zip(&exact) {
                assert!(
                    (found - exact).abs() <= 1e-13 * size,
                    "{name} with bound {bound}: {found} for {exact}"
                );
            }
        }
    }
}

/// Everything by candle in f64.
fn by_candle(case: &Case) -> Found<f64> {
    let (steps, heads, dim) = (case.steps, case.heads, case.dim);
    let tensor = |x: &[f32], shape: &[usize]| {
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        Tensor::from_vec(wide, shape, &Device::Cpu).unwrap()
    };
    let var = |x: &[f32], shape: &[usize]| Var::from_tensor(&tensor(x, shape)).unwrap();
    let (x, initial) = (var(&case.x, &[steps, 3, heads, dim]), var(&case.initial, &[heads, dim, dim]));
    let bound = var(&case.bound, &[heads, 1, dim]);
    let part = |n: usize| x.narrow(1, n, 1).unwrap().squeeze(1).unwrap().transpose(0, 1).unwrap();
    let sigmoid = |x: &Tensor| (x.neg().unwrap().exp().unwrap() + 1.0).unwrap().recip().unwrap();
    let (u, z) = (part(0), part(1));
    let closed = (1.0 - bound.as_tensor()).unwrap();
    let f = sigmoid(&z).broadcast_mul(&closed).unwrap().broadcast_add(&bound).unwrap();
    let inputs = Inputs {
        q: (&u * sigmoid(&u)).unwrap(),
        k: sigmoid(&z.neg().unwrap()).broadcast_mul(&closed).unwrap(),
        v: part(2).contiguous().unwrap(),
        g: f.log().unwrap(),
    };
    let (o, last) = recurrent(&inputs, Some(&initial)).unwrap();
    let o = o.transpose(0, 1).unwrap().contiguous().unwrap();
    let weighed = (&o * tensor(&case.d_o, &[steps, heads, dim])).unwrap().sum_all().unwrap();
    let loss =
        (weighed + (&last * tensor(&case.d_final, &[heads, dim, dim])).unwrap().sum_all().unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let gradient = |x: &Var| flat(gradients.get(x).unwrap());
    let d_bound = if case.bound[0] > 0.0 { gradient(&bound) } else { vec![0.0; case.bound.len()] };
    Found { o: flat(&o), last: flat(&last), dx: gradient(&x), d_bound, d_initial: gradient(&initial) }
}

/// Two calls with carried state are one call: to rounding anywhere, bit for bit where a chunk ends.
#[test]
fn a_state_can_be_carried() {
    for split in [1, 16, 37, 48] {
        let whole = case(64, 2, 24, Gates::Normal(2.0), 0.25);
        let width = whole.heads * whole.dim;
        let part = |steps: std::ops::Range<usize>, initial: &[f32], d_final: &[f32]| Case {
            steps: steps.len(),
            x: whole.x[steps.start * 3 * width..steps.end * 3 * width].to_vec(),
            d_o: whole.d_o[steps.start * width..steps.end * width].to_vec(),
            initial: initial.to_vec(),
            d_final: d_final.to_vec(),
            ..whole.clone()
        };
        let isa = Isa::best();
        let (expected, zeros) = (run(isa, &whole), vec![0.0; whole.initial.len()]);
        let first = run(isa, &part(0..split, &whole.initial, &zeros));
        let second = run(isa, &part(split..64, &first.last, &whole.d_final));
        let first = run(isa, &part(0..split, &whole.initial, &second.d_initial));
        let joined = Found {
            o: [&first.o[..], &second.o].concat(),
            last: second.last.clone(),
            dx: [&first.dx[..], &second.dx].concat(),
            d_bound: first.d_bound.iter().zip(&second.d_bound).map(|(a, b)| a + b).collect(),
            d_initial: first.d_initial.clone(),
        };
        for ((name, got), (_, expected)) in joined.parts(&whole).into_iter().zip(expected.parts(&whole)) {
            let size = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            let allowed = if split.is_multiple_of(CHUNK) && name != "dβ" { 0.0 } else { 2e-6 * size };
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() <= allowed, "{name}, split at {split}: {got} for {expected}");
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for (steps, dim) in [(40, 80), (17, 20)] {
        let case = case(steps, 2, dim, Gates::Normal(2.0), 0.25);
        let first = run(Isa::PORTABLE, &case);
        assert!(Isa::available().into_iter().all(|isa| run(isa, &case) == first));
    }
}

/// λ whose softmax makes these bounds of the second of three layers.
fn lambda(bound: &[f64]) -> Vec<f32> {
    let row = |p: &dyn Fn(f64) -> f64| bound.iter().map(|b| p(*b).ln() as f32).collect::<Vec<f32>>();
    [row(&|b| 0.7 * (1.0 - b)), row(&|b| b), row(&|b| 0.3 * (1.0 - b))].concat()
}

/// The whole operation on the tape, through to λ: several sequences, and a gradient that is added to.
#[test]
fn the_operation_is_its_definition() {
    let (batch, heads, dim) = (2, 2, 3);
    for steps in [1, 5, 18] {
        let width = heads * dim;
        let inputs = [check::normal(batch * steps * 3 * width, 1.5, 1)];
        let parameters = [lambda(&[0.01, 0.2, 0.5, 0.9, 0.99, 0.4])];
        let setting = check::setting(batch, steps);
        let case = check::Case { setting, inputs: &inputs, parameters: &parameters, tolerance: 2e-6 };
        check::hold(
            &case,
            |tape, x, p| {
                let bounds = lower_bounds(tape, p[0], 3);
                let outputs = bounds.iter().map(|bound| gla(tape, x[0], heads, bound)).collect::<Vec<_>>();
                let sum = add(tape, outputs[0], outputs[1]);
                add(tape, sum, outputs[2])
            },
            |x, p| {
                let mut o = vec![0.0; batch * steps * width];
                for layer in 0..3 {
                    let beta = |c: usize| {
                        let e = |l: usize| p[0][l * width + c].exp();
                        (1..=layer).map(e).sum::<f64>() / (0..3).map(e).sum::<f64>()
                    };
                    let x = x[0].chunks(steps * 3 * width).zip(o.chunks_mut(steps * width));
                    x.for_each(|(x, o)| twin::outputs(x, heads, dim, beta, o));
                }
                o
            },
        );
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let (batch, steps, heads, dim) = (3, 300, 2, 24);
    let inputs = [check::normal(batch * steps * 3 * heads * dim, 1.0, 1)];
    let parameters = [check::normal(3 * heads * dim, 1.0, 2)];
    let setting = check::setting(batch, steps);
    let case = check::Case { setting, inputs: &inputs, parameters: &parameters, tolerance: 0.0 };
    check::same_bits(&case, |tape, x, p| {
        let bounds = lower_bounds(tape, p[0], 3);
        gla(tape, x[0], heads, &bounds[1])
    });
}
