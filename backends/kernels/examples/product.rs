//! GFLOP/s of `product`. Arguments: seconds for each figure, then words that a line must contain.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use bheval_kernels::random::Numbers;
use bheval_kernels::{Isa, Precision, Right, Store, View, ViewMut, product};
use rayon::ThreadPool;

/// Name, m, n, k, whether `a` and `b` lie transposed. The right-hand side of what is called `packed` is packed beforehand.
type Case = (&'static str, usize, usize, usize, bool, bool);

/// The shapes of `bench_train.py matmul` (y = x Wᵀ), then those of the gradients.
const CASES: [Case; 18] = [
    ("forward", 4096, 1024, 512, false, true),
    ("forward", 1024, 1024, 512, false, true),
    ("forward", 4096, 16384, 256, false, true),
    ("forward", 2048, 2048, 2048, false, true),
    ("forward", 256, 512, 512, false, true),
    ("forward", 4096, 768, 256, false, true),
    ("dX", 4096, 256, 768, false, false),
    ("dX", 4096, 256, 16384, false, false),
    ("dW", 256, 768, 4096, true, false),
    ("dW", 768, 256, 4096, true, false),
    ("dW", 16384, 256, 4096, true, false),
    ("head", 64, 64, 128, false, true),
    ("step", 16, 2560, 640, false, true),
    ("packed", 16, 2560, 640, false, true),
    ("packed", 64, 2560, 640, false, true),
    ("packed", 4096, 768, 256, false, true),
    ("packed", 1, 768, 256, false, true),
    ("row", 1, 768, 256, false, true),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(1.0, |s| s.parse().expect("seconds"));
    let words: Vec<String> = arguments.collect();
    let pools =
        [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads start"));
    for case in CASES {
        for precision in [Precision::F32, Precision::Bf16] {
            let (name, m, n, k, ..) = case;
            let line = format!("{name:8} {m:5} x {n:5} x {k:5} {precision:?}");
            if words.iter().all(|w| line.contains(w)) {
                let speeds: Vec<String> =
                    pools.iter().map(|p| format!("{:7.1}", measure(case, precision, p, seconds))).collect();
                println!("{line:34} {} GFLOP/s on 1 and 2 threads", speeds.join(" "));
            }
        }
    }
}

fn measure((name, m, n, k, a_t, b_t): Case, precision: Precision, pool: &ThreadPool, seconds: f64) -> f64 {
    let mut numbers = Numbers::new(1);
    let (a, b) = (numbers.normal(m * k, 1.0), numbers.normal(k * n, 1.0));
    let a = if a_t { View::new(&a, k, m).t() } else { View::new(&a, m, k) };
    let b = if b_t { View::new(&b, n, k).t() } else { View::new(&b, k, n) };
    let mut c = vec![0.0; m * n];
    pool.install(|| {
        let right = (name == "packed").then(|| Right::new(Isa::best(), precision, b));
        let mut once = || match &right {
            Some(right) => right.product(a, Store::Set, ViewMut::new(&mut c, m, n)),
            None => product(Isa::best(), precision, a, b, Store::Set, ViewMut::new(&mut c, m, n)),
        };
        once();
        let (start, cpu, mut calls) = (Instant::now(), cpu_seconds(), 0);
        while start.elapsed().as_secs_f64() < seconds {
            once();
            calls += 1;
        }
        2.0 * (m * n * k * calls * pool.current_num_threads()) as f64 / (cpu_seconds() - cpu) / 1e9
    })
}

/// Seconds that the threads of this process have run.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let of = |task: std::io::Result<std::fs::DirEntry>| -> f64 {
        let text =
            std::fs::read_to_string(task.expect("a thread").path().join("schedstat")).expect("schedstat");
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("nanoseconds") / 1e9
    };
    tasks.map(of).sum()
}
