//! Times training steps of a model from scratch: `step FOLDER [BATCH STEPS TIMES THREADS f32|bf16]`, with `config.json` in the
//! folder. Tokens are random; what it prints compares with `bench_train.py`.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use bheval_abi::{Dtype, Failure, Start, TrainRates, TrainView, Trainable};
use bheval_engine::trainer::Trainer;
use bheval_kernels::random::Numbers;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (batch, steps, times, threads) = (number(2, 16), number(3, 256), number(4, 10), number(5, 2));
    let dtype = if args.get(6).is_some_and(|d| d == "bf16") { Dtype::BF16 } else { Dtype::F32 };
    let path = PathBuf::from(args.get(1).map_or(".", String::as_str));
    let mut trainer = Trainer::create(&Start { path, seed: Some(1), threads, dtype })?;
    let (vocab, mut numbers) = (u64::from(trainer.info().vocab), Numbers::new(7));
    let tokens: Vec<u32> = (0..batch * steps).map(|_| (numbers.bits() % vocab) as u32).collect();
    let targets: Vec<i32> = tokens.iter().skip(1).map(|&t| t as i32).chain([-100]).collect();
    let weight = 1.0 / (targets.len() - 1) as f32;
    let (mut seconds, mut loss) = (vec![], 0.0);
    for step in 1..=times as u64 + 2 {
        let view =
            TrainView { batch, steps, tokens: &tokens, targets: &targets, weight, pass: step, teacher: None };
        let begin = Instant::now();
        let found = trainer.accumulate(&view)?;
        let back = begin.elapsed().as_secs_f64();
        trainer.update(&rates(step))?;
        let all = begin.elapsed().as_secs_f64();
        loss = found.nats / found.targets as f64;
        println!("step {step}: {all:.3} s, of which update {:.3} s, loss {loss:.3}", all - back);
        seconds.push(all);
    }
    let mut seconds = seconds.split_off(2.min(seconds.len() - 1));
    seconds.sort_by(f64::total_cmp);
    let (best, median, rows) = (seconds[0], seconds[seconds.len() / 2], (batch * steps) as f64);
    println!(
        "{}: {:.2}M parameters, best step {best:.3} s ({:.0} tokens/s), median {median:.3} s, {:.1} GFLOP/s at best, loss {loss:.3}, {}",
        trainer.info().architecture,
        trainer.info().parameters as f64 * 1e-6,
        rows / best,
        3.0 * trainer.flops(steps) * rows / best * 1e-9,
        resident(),
    );
    Ok(())
}

fn rates(step: u64) -> TrainRates {
    TrainRates {
        size: size_of::<TrainRates>(),
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        clip: 1.0,
        step,
        decay_all: 0,
    }
}

/// The most memory that this process ever had, where the system says so.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("no VmHWM").to_owned()
}
