//! Models that start from nothing: their first loss is that of a guess, and training on a batch learns it.
#![allow(clippy::unwrap_used)]

mod support;

use bheval_abi::{Dtype, Start, Status, TrainView, Trainable};
use bheval_engine::trainer::Trainer;
use bheval_kernels::random::Numbers;
use serde_json::{Value, json};
use support::rates;

const VOCAB: usize = 97;
const BATCH: usize = 3;
const STEPS: usize = 21;

fn llama() -> Value {
    json!({"model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true})
}

fn gpt2() -> Value {
    json!({"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32})
}

fn gpt_neox() -> Value {
    json!({"model_type": "gpt_neox", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "rotary_pct": 0.25})
}

fn opt() -> Value {
    json!({"model_type": "opt", "vocab_size": VOCAB, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32})
}

fn create(config: &Value, dtype: Dtype, threads: usize) -> Result<Trainer, bheval_abi::Failure> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Trainer::create(&Start { path: folder.path().to_owned(), seed: Some(1), threads, dtype })
}

/// `config` with a key set.
fn with(mut config: Value, key: &str, value: Value) -> Value {
    config.as_object_mut().unwrap().insert(key.to_owned(), value);
    config
}

struct Batch {
    tokens: Vec<u32>,
    targets: Vec<i32>,
}

impl Batch {
    fn new() -> Self {
        let mut numbers = Numbers::new(4);
        let ids: Vec<u32> =
            (0..BATCH * (STEPS + 1)).map(|_| (numbers.unit() * VOCAB as f64) as u32).collect();
        let rows = || ids.chunks(STEPS + 1);
        Self {
            tokens: rows().flat_map(|row| row[..STEPS].to_vec()).collect(),
            targets: rows().flat_map(|row| row[1..].iter().map(|&t| t as i32)).collect(),
        }
    }

    fn view(&self, pass: u64) -> TrainView<'_> {
        let weight = 1.0 / self.targets.len() as f32;
        let (tokens, targets) = (&self.tokens[..], &self.targets[..]);
        TrainView { batch: BATCH, steps: STEPS, tokens, targets, weight, pass, teacher: None }
    }
}

/// Loss per target before 30 steps on one batch, and after them.
fn train(trainer: &mut Trainer) -> (f64, f64) {
    let batch = Batch::new();
    let loss = |trainer: &mut Trainer| {
        let found = trainer.evaluate(&batch.view(0)).unwrap();
        found.nats / found.targets as f64
    };
    let before = loss(trainer);
    for step in 1..=30 {
        trainer.accumulate(&batch.view(step)).unwrap();
        trainer.update(&rates(step, 1e-2, 0.98)).unwrap();
    }
    (before, loss(trainer))
}

#[test]
fn a_fresh_model_guesses_and_learns_a_batch() {
    for config in [llama(), gpt2(), gpt_neox(), opt()] {
        for dtype in [Dtype::F32, Dtype::BF16] {
            let (before, after) = train(&mut create(&config, dtype, 2).unwrap());
            let guess = (VOCAB as f64).ln();
            assert!((before - guess).abs() < 0.1, "{config}: {before} where a guess costs {guess}");
            assert!(after < 0.5 * guess, "{config}: {after} after training");
        }
    }
}

#[test]
fn training_does_not_depend_on_the_number_of_threads() {
    // With dropout of every kind, which has its own order of random choices.
    for config in [llama(), gpt2()] {
        let losses = [1, 3].map(|threads| train(&mut create(&config, Dtype::F32, threads).unwrap()));
        assert_eq!(losses[0], losses[1], "{config}");
    }
}

#[test]
fn dropout_is_on_in_training_alone() {
    let batch = Batch::new();
    let nats = |config: &Value, pass: u64, training: bool| {
        let mut trainer = create(config, Dtype::F32, 2).unwrap();
        let view = batch.view(pass);
        if training { trainer.accumulate(&view) } else { trainer.evaluate(&view) }.unwrap().nats
    };
    let none = ["attn_pdrop", "embd_pdrop", "resid_pdrop"]
        .iter()
        .fold(gpt2(), |config, key| with(config, key, json!(0.0)));
    let plain = nats(&none, 1, true);
    assert_eq!(plain.to_bits(), nats(&none, 2, true).to_bits());
    for key in ["attn_pdrop", "embd_pdrop", "resid_pdrop"] {
        let config = with(none.clone(), key, json!(0.3));
        assert_eq!(nats(&config, 1, false).to_bits(), plain.to_bits(), "{key}");
        let (one, other) = (nats(&config, 1, true), nats(&config, 2, true));
        assert!(one != plain && one != other && one.is_finite(), "{key}: {one} {other} {plain}");
        assert_eq!(one.to_bits(), nats(&config, 1, true).to_bits(), "{key}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let cases = [
        (with(opt(), "layerdrop", json!(0.1)), "`layerdrop` is 0.1", Status::UNSUPPORTED),
        (with(gpt2(), "attn_pdrop", json!(1.5)), "`attn_pdrop` is 1.5", Status::BAD_MODEL),
        (with(llama(), "initializer_range", json!(-1)), "`initializer_range` is -1", Status::BAD_MODEL),
        (with(llama(), "num_hidden_layers", json!(2_000_000_000)), "2000000000 layers", Status::BAD_MODEL),
        (with(llama(), "hidden_act", json!("gelu")), "`hidden_act`", Status::UNSUPPORTED),
    ];
    for (config, essential, status) in cases {
        let failure = create(&config, Dtype::F32, 1).map(|_| ()).expect_err(essential);
        assert!(failure.text.contains(essential) && failure.text.contains("config.json"), "{}", failure.text);
        assert_eq!(failure.status, status, "{}", failure.text);
    }
}

/// Floating-point operations of BabyLlama's shape by architectures.md 2: `L (8 D² + 6 D I + 4 D T / 2) + 2 V D`.
#[test]
fn operations_are_counted_by_the_formula() {
    let config = json!({"model_type": "llama", "vocab_size": 16_000, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 16, "num_attention_heads": 8});
    let trainer = create(&config, Dtype::F32, 1).unwrap();
    let (l, d, i, t, v) = (16.0, 64.0, 128.0, 128.0, 16_000.0);
    let expected = l * (8.0 * d * d + 6.0 * d * i + 4.0 * d * t / 2.0) + 2.0 * v * d;
    assert_eq!(trainer.flops(128), expected);
    assert_eq!(trainer.info().parameters as f64, l * (4.0 * d * d + 3.0 * d * i + 2.0 * d) + d + 2.0 * v * d);
}
