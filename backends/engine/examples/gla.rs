//! Times gated linear attention by itself, there and back: `gla [BATCH STEPS WIDTH HEADS TIMES THREADS]`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use bheval_engine::ops::gla::gla;
use bheval_engine::ops::lower_bounds::Bound;
use bheval_engine::parameters::{Gradients, Parameters};
use bheval_engine::pool::Pool;
use bheval_engine::tape::{Back, Operation, Setting, Tape};
use bheval_kernels::Isa;
use bheval_kernels::product::Precision;
use bheval_kernels::random::Numbers;

struct Leaf;

impl Operation for Leaf {
    fn backward(self: Box<Self>, _: &mut Back<'_, '_>) {}
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (batch, steps, width, heads) = (number(1, 16), number(2, 256), number(3, 256), number(4, 2));
    let (times, threads) = (number(5, 20), number(6, 2));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    pool.install(|| {
        let setting =
            Setting { isa: Isa::best(), precision: Precision::F32, batch, steps, dropout: None };
        let (parameters, mut buffers) = (Parameters::default(), Pool::default());
        let x = Numbers::new(1).normal(batch * steps * 3 * width, 1.0);
        let cotangent = Numbers::new(2).normal(batch * steps * width, 1.0);
        let mut best = [f64::MAX; 2];
        for _ in 0..times {
            let mut gradients = Gradients::new(&parameters);
            let mut tape = Tape::new(setting, &parameters, &mut buffers, true);
            let x = tape.push(x.clone(), |_| Leaf);
            let begin = Instant::now();
            let y = gla(&mut tape, x, heads, &Bound::none(width));
            let there = begin.elapsed().as_secs_f64();
            let cotangent = cotangent.clone();
            let begin = Instant::now();
            tape.backward(y, cotangent, &mut gradients);
            let back = begin.elapsed().as_secs_f64();
            best = [best[0].min(there), best[1].min(back)];
        }
        let dim = (width / heads) as f64;
        let flops = (batch * steps * heads) as f64 * dim * dim * 2.0 * 1e-9;
        println!(
            "{batch} x {steps} tokens, {heads} heads of {dim}: there {:.2} ms ({:.0} GFLOP/s), back {:.2} ms ({:.0} GFLOP/s)",
            best[0] * 1e3,
            2.0 * flops / best[0],
            best[1] * 1e3,
            5.0 * flops / best[1],
        );
    });
}
