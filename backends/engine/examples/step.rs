//! Time of one training step (AdamW, 16 sequences of 256 tokens) of models with about 10M parameters: the shapes, and the
//! line of results, of `../shared/bench/bench_train.py`, so that both can be run in turn. Behind it the processor time of
//! a step, which other programs on the machine change less.
//!
//! `cargo run --release -p bheval-engine --example step -- llama|hgrn2|lstm|mamba|mamba2|xlstm|xlstm_block [--bf16] [--threads N] [--steps N]`
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A measurement.

use std::time::Instant;

use bheval_abi::{Dtype, Start, TrainRates, TrainView, Trainable};
use bheval_engine::trainer::Trainer;
use bheval_kernels::random::Numbers;
use serde_json::{Value, json};

const VOCAB: u64 = 16_384;
const BATCH: usize = 16;
const STEPS: usize = 256;

fn config(name: &str) -> Value {
    let shared = json!({"vocab_size": VOCAB, "hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 688,
        "tie_word_embeddings": true, "max_position_embeddings": STEPS});
    let own = match name {
        "llama" => json!({"model_type": "llama", "num_attention_heads": 4, "rms_norm_eps": 1e-6}),
        "hgrn2" => {
            json!({"model_type": "hgrn2", "expand_ratio": 128, "norm_eps": 1e-6, "use_lower_bound": false,
            "use_short_conv": false, "hidden_act": "swish"})
        }
        "lstm" => {
            json!({"model_type": "lstm_lm", "embedding_size": 256, "hidden_size": 640, "num_layers": 2,
            "decoder_bias": false})
        }
        // Two more without a counterpart in the Python script, and then the two designs of xLSTM.
        "mamba" => {
            json!({"model_type": "mamba", "state_size": 16, "num_hidden_layers": 14, "intermediate_size": 512,
            "initializer_range": 0.02})
        }
        "mamba2" => {
            json!({"model_type": "mamba2", "state_size": 64, "num_hidden_layers": 14, "intermediate_size": 512,
            "num_heads": 8, "head_dim": 64, "n_groups": 1, "initializer_range": 0.02})
        }
        "xlstm" => json!({"model_type": "xlstm", "num_heads": 4, "ffn_proj_factor": 2.667}),
        "xlstm_block" => {
            json!({"model_type": "xlstm", "embedding_dim": 256, "num_blocks": 8, "slstm_at": [1, 5], "tie_weights": true,
            "mlstm_block": {"mlstm": {}}, "slstm_block": {"slstm": {"backend": "vanilla"}, "feedforward": {}}})
        }
        _ => panic!("llama, hgrn2, lstm, mamba, mamba2, xlstm or xlstm_block"),
    };
    let mut keys = shared;
    keys.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    keys
}

/// The number behind `flag`.
fn number(arguments: &[String], flag: &str, default: usize) -> usize {
    let at = arguments.iter().position(|a| a == flag);
    at.map_or(default, |at| arguments[at + 1].parse().unwrap())
}

/// Most memory that was ever in use, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Seconds of processor time of all threads so far, in hundredths.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold spaces: user and system time are fields 14 and 15 of the file.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|&i| fields.get(i)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn step(trainer: &mut Trainer, batch: &TrainView<'_>, number: u64) -> f64 {
    let found = trainer.accumulate(batch).unwrap();
    let rates = TrainRates {
        size: size_of::<TrainRates>(),
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        clip: 0.0,
        step: number,
        decay_all: 1,
    };
    trainer.update(&rates).unwrap();
    found.nats / found.targets as f64
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.get(1).map_or("llama", String::as_str);
    let bf16 = arguments.iter().any(|a| a == "--bf16");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config(name).to_string()).unwrap();
    let start = Start {
        path: folder.path().to_owned(),
        seed: Some(1),
        threads: number(&arguments, "--threads", 2),
        dtype: if bf16 { Dtype::BF16 } else { Dtype::F32 },
    };
    let mut trainer = Trainer::create(&start).unwrap_or_else(|e| panic!("{e}"));
    let mut numbers = Numbers::new(0);
    let tokens: Vec<u32> = (0..BATCH * (STEPS + 1)).map(|_| (numbers.unit() * VOCAB as f64) as u32).collect();
    let rows = || tokens.chunks(STEPS + 1);
    let inputs: Vec<u32> = rows().flat_map(|row| row[..STEPS].to_vec()).collect();
    let targets: Vec<i32> = rows().flat_map(|row| row[1..].iter().map(|&t| t as i32)).collect();
    let weight = 1.0 / targets.len() as f32;
    let (tokens, targets) = (&inputs[..], &targets[..]);
    let view = TrainView { batch: BATCH, steps: STEPS, tokens, targets, weight, pass: 0, teacher: None };
    let mut times = vec![];
    let (mut loss, mut first) = (0.0, 0.0);
    let steps = number(&arguments, "--steps", 10);
    let mut processor_before = 0.0;
    for number in 1..=steps as u64 + 2 {
        let begin = Instant::now();
        loss = step(&mut trainer, &view, number);
        match number {
            1 => first = begin.elapsed().as_secs_f64(),
            2 => processor_before = processor(),
            _ => times.push(begin.elapsed().as_secs_f64()),
        }
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    println!(
        "TRAIN {name} {} bheval params {:.2}M best step {best:.2}s best tok/s {:.0} median step {median:.2}s first-step {first:.1}s loss {loss:.2} maxrss_MB {} processor/step {:.2}s",
        if bf16 { "bf16" } else { "f32" },
        trainer.info().parameters as f64 / 1e6,
        (BATCH * STEPS) as f64 / best,
        peak(),
        (processor() - processor_before) / steps as f64,
    );
}
