//! Speed of the matrix product: GFLOP in a second of processor time, times the number of threads, so that other load on the
//! machine hardly counts (on Linux; elsewhere in a second of the clock).
//!
//! `cargo run --release -p bheval-kernels --example product [SECONDS [WORD...]]`: seconds for each figure, words that a line
//! must contain. The shapes are those of `bench_train.py matmul`, then those of gradients.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use bheval_kernels::random::Numbers;
use bheval_kernels::{Isa, Precision, Right, Store, View, ViewMut, product};
use rayon::ThreadPool;

/// How the operands lie: `y = x Wᵀ`, `dx = dy W`, `dW = dyᵀ x`, or as the first with `W` packed beforehand.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Layout {
    Forward,
    Input,
    Weight,
    Packed,
}

use Layout::{Forward, Input, Packed, Weight};

/// Layout, m, n, k.
const CASES: [(Layout, usize, usize, usize); 18] = [
    (Forward, 4096, 1024, 512),
    (Forward, 1024, 1024, 512),
    (Forward, 4096, 16384, 256),
    (Forward, 2048, 2048, 2048),
    (Forward, 256, 512, 512),
    (Forward, 4096, 768, 256),
    (Input, 4096, 256, 768),
    (Input, 4096, 256, 16384),
    (Weight, 256, 768, 4096),
    (Weight, 768, 256, 4096),
    (Weight, 16384, 256, 4096),
    (Forward, 64, 64, 128),
    (Forward, 16, 2560, 640),
    (Packed, 16, 2560, 640),
    (Packed, 64, 2560, 640),
    (Packed, 4096, 768, 256),
    (Forward, 1, 768, 256),
    (Packed, 1, 768, 256),
];

/// What is compared between instruction sets.
const SMALL: (Layout, usize, usize, usize) = (Forward, 128, 256, 256);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds =
        arguments.next().map_or(1.0, |s| s.parse().expect("the first argument is a number of seconds"));
    let words: Vec<String> = arguments.collect();
    let pools =
        [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads start"));
    let others = Isa::available().into_iter().map(|isa| (SMALL, isa.without_bf16()));
    for ((layout, m, n, k), isa) in CASES.map(|case| (case, Isa::best())).into_iter().chain(others) {
        for precision in [Precision::F32, Precision::Bf16] {
            let line = format!("{layout:?} {m} x {n} x {k} {precision:?} {isa:?}");
            if words.iter().all(|w| line.contains(w)) {
                let run = Run { layout, m, n, k, precision, isa };
                let [one, two] = [0, 1].map(|i| pools[i].install(|| run.measure(&pools[i], seconds)));
                println!("{layout:8?}{m:6} x {n:5} x {k:5} {precision:5?} {one:7.1} {two:7.1}   {isa:?}");
            }
        }
    }
}

struct Run {
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    precision: Precision,
    isa: Isa,
}

impl Run {
    /// GFLOP/s on this pool, for about so many seconds.
    fn measure(&self, pool: &ThreadPool, seconds: f64) -> f64 {
        let &Run { layout, m, n, k, precision, isa } = self;
        let mut numbers = Numbers::new(1);
        let (a, b, mut c) = (numbers.normal(m * k, 1.0), numbers.normal(k * n, 1.0), vec![0.0; m * n]);
        let a = if layout == Weight { View::new(&a, k, m).t() } else { View::new(&a, m, k) };
        let plain = layout == Input || layout == Weight;
        let b = if plain { View::new(&b, k, n) } else { View::new(&b, n, k).t() };
        let right = (layout == Packed).then(|| Right::new(isa, precision, b));
        let mut once = || match &right {
            Some(right) => right.product(a, Store::Set, ViewMut::new(&mut c, m, n)),
            None => product(isa, precision, a, b, Store::Set, ViewMut::new(&mut c, m, n)),
        };
        once();
        let (start, mut calls, processor) = (Instant::now(), 0, processor_seconds());
        while start.elapsed().as_secs_f64() < seconds {
            once();
            calls += 1;
        }
        let threads = pool.current_num_threads() as f64;
        let time = match (processor, processor_seconds()) {
            (Some(before), Some(after)) => (after - before) / threads,
            _ => start.elapsed().as_secs_f64(),
        };
        2.0 * (m * n * k * calls) as f64 / time / 1e9
    }
}

/// Seconds that the threads of this process have run, where the system says so.
fn processor_seconds() -> Option<f64> {
    let of = |task: std::fs::DirEntry| -> Option<f64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    let nanoseconds: Option<Vec<f64>> =
        std::fs::read_dir("/proc/self/task").ok()?.flatten().map(of).collect();
    nanoseconds.map(|n| n.iter().sum::<f64>() / 1e9)
}
