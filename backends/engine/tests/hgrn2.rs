//! HGRN2 from scratch: sizes, starts, and that it learns.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bheval_abi::{Dtype, Failure, Kept, Start, TrainRates, TrainView, Trainable};
use bheval_engine::models;
use bheval_engine::trainer::Trainer;
use serde_json::{Value, json};

/// A folder with a `config.json` of these keys beside the least that HGRN2 needs.
fn folder(change: &Value) -> tempfile::TempDir {
    let mut keys = json!({"model_type": "hgrn2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
        "expand_ratio": 32, "intermediate_size": 96});
    for (key, value) in change.as_object().unwrap() {
        keys[key] = value.clone();
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), keys.to_string()).unwrap();
    folder
}

fn start(path: &Path, seed: Option<u64>, dtype: Dtype) -> Result<Trainer, Failure> {
    Trainer::create(&Start { path: path.to_owned(), seed, threads: 2, dtype })
}

/// Two rows of text that repeats itself, and what follows each token.
fn text() -> (Vec<u32>, Vec<i32>) {
    let tokens: Vec<u32> = (0..2 * 70u32).map(|t| (t % 70 * 7 + t / 70 * 3) % 23).collect();
    let next = tokens.iter().skip(1).map(|&t| t as i32).chain([-100]).collect();
    (tokens, next)
}

fn view<'a>(tokens: &'a [u32], targets: &'a [i32]) -> TrainView<'a> {
    let weight = 1.0 / (targets.len() - 1) as f32;
    TrainView { batch: 2, steps: 70, tokens, targets, weight, pass: 1, teacher: None }
}

fn rates(step: u64) -> TrainRates {
    TrainRates {
        size: size_of::<TrainRates>(),
        learning_rate: 3e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        clip: 1.0,
        step,
        decay_all: 0,
    }
}

/// Starts near the uniform distribution and learns a batch by heart, in every variant.
#[test]
fn it_learns() {
    for (change, dtype) in [
        (json!({}), Dtype::F32),
        (json!({}), Dtype::BF16),
        (json!({"bheval_init": "fla-2024", "use_short_conv": true, "tie_word_embeddings": true}), Dtype::F32),
        (json!({"use_lower_bound": false, "elementwise_affine": false, "expand_ratio": 64}), Dtype::F32),
    ] {
        let folder = folder(&change);
        let mut trainer = start(folder.path(), Some(1), dtype).unwrap();
        let (tokens, targets) = text();
        let mut losses = vec![];
        for step in 1..=30 {
            let found = trainer.accumulate(&view(&tokens, &targets)).unwrap();
            losses.push(found.nats / found.targets as f64);
            assert!(trainer.update(&rates(step)).unwrap().is_finite());
        }
        assert!((losses[0] - 100f64.ln()).abs() < 0.1, "{change}: the first loss is {}", losses[0]);
        assert!(losses[29] < 0.5 * losses[0], "{change}: {} after {}", losses[29], losses[0]);
    }
}

/// Counts and costs that architectures.md 1.10 lists.
#[test]
fn sizes_are_those_of_the_table() {
    for (width, layers, parameters, flops) in [
        (256, 6, 13.3, 19.6),
        (512, 12, 57.3, 102.9),
        (1024, 26, 366.846_976, 721.2),
        (2048, 18, 990.529_536, 1943.5),
    ] {
        let sizes = json!({"hidden_size": width, "num_hidden_layers": layers, "vocab_size": 16000,
            "expand_ratio": 128, "intermediate_size": null});
        let folder = folder(&sizes);
        let model = models::build(folder.path()).unwrap();
        let found = model.parameters.count() as f64 * 1e-6;
        assert!((found - parameters).abs() < 0.05, "{width}: {found} million parameters");
        let found = model.network.forward_flops(256) * 1e-6;
        assert!((found - flops).abs() < 0.05, "{width}: {found} MFLOP");
    }
}

/// The standard deviation of a tensor, and its largest value.
fn spread(trainer: &mut Trainer, name: &str) -> (f64, f64) {
    let index = trainer.tensors().iter().position(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
    let values = trainer.kept(index, Kept::WEIGHT).unwrap();
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (square.sqrt(), values.iter().fold(0.0, |m, &x| f64::from(x).abs().max(m)))
}

#[test]
fn both_ways_to_start() {
    let folder_now = folder(&json!({"initializer_range": 0.05, "use_short_conv": true}));
    let mut now = start(folder_now.path(), Some(3), Dtype::F32).unwrap();
    for name in ["model.embeddings", "model.layers.1.attn.q_proj", "model.layers.0.mlp.down_proj", "lm_head"]
    {
        let (deviation, _) = spread(&mut now, &format!("{name}.weight"));
        assert!((deviation - 0.05).abs() < 0.003, "{name}: {deviation}");
    }
    let old = json!({"bheval_init": "fla-2024", "use_short_conv": true, "pad_token_id": 5});
    let folder_old = folder(&old);
    let mut old = start(folder_old.path(), Some(3), Dtype::F32).unwrap();
    // Xavier: a uniform bound of 2^-2.5 sqrt(6 / (64 + 64)), whose deviation is that over sqrt(3).
    let bound = 2f64.powf(-2.5) * (6.0 / 128.0_f64).sqrt();
    for part in ["q", "f", "i", "o"] {
        let (deviation, largest) = spread(&mut old, &format!("model.layers.0.attn.{part}_proj.weight"));
        assert!((deviation / (bound / 3f64.sqrt()) - 1.0).abs() < 0.05, "{part}: {deviation}");
        assert!(largest <= bound * 1.000_001 && largest > 0.98 * bound, "{part}: {largest}");
    }
    let (down, _) = spread(&mut old, "model.layers.0.mlp.down_proj.weight");
    assert!((down - 0.02 / 2.0).abs() < 0.0005, "down_proj: {down}");
    let (_, largest) = spread(&mut old, "model.layers.0.attn.q_conv1d.weight");
    assert!((0.45..=0.5).contains(&largest), "a convolution of 4 taps is uniform up to 1/2: {largest}");
    let embeddings = old.kept(0, Kept::WEIGHT).unwrap();
    assert!(embeddings[5 * 64..6 * 64].iter().all(|&x| x == 0.0), "the row of padding");
    assert!(embeddings[..5 * 64].iter().all(|&x| x != 0.0) && embeddings[6 * 64..].iter().all(|&x| x != 0.0));
}

fn refused(change: &Value, essentials: &[&str]) {
    let folder = folder(change);
    let text = start(folder.path(), Some(1), Dtype::F32).err().expect("should be refused").text;
    for part in ["config.json"].iter().chain(essentials) {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn what_can_not_be_trained_is_refused() {
    refused(&json!({"bheval_init": "xavier"}), &["bheval_init", "xavier", "fla-2024"]);
    refused(&json!({"initializer_range": -1.0}), &["initializer_range", "-1"]);
    refused(&json!({"use_l2warp": true}), &["use_l2warp"]);
    refused(&json!({"attn": {"layers": [0]}}), &["attn"]);
}

/// Weights with gate and up projection as one tensor are named for what they are.
#[test]
fn the_mlp_layout_of_2024_is_refused() {
    let folder = folder(&json!({"num_hidden_layers": 1}));
    let data = vec![0u8; 2 * 96 * 64 * 4];
    let gate =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2 * 96, 64], &data).unwrap();
    let tensors = [("model.layers.0.mlp.gate_proj.weight", gate)];
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    let text = start(folder.path(), None, Dtype::F32).err().expect("should be refused").text;
    for part in ["gate_proj", "up_proj", "first half", "g_norm_eps", "config.json"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}
