//! A made-up model of real proportions: wide heads, several blocks of products and of vocabulary, bounds and convolutions
//! together. The forest scorer against the definition in f64.

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

mod support;

use std::collections::HashMap;
use std::path::Path;

use bheval_candle::models::hgrn2::{Form, Hgrn2Weights};
use bheval_candle::ops::gla::Chunks;
use candle_core::{D, DType, Device, Tensor};
use serde_json::json;
use support::{Numbers, Trie, open, score};

const WIDTH: usize = 384;
const INNER: usize = 520;
const VOCAB: usize = 2_500;
const LAYERS: usize = 3;

/// Even numbers of this standard deviation around a centre.
fn tensor(numbers: &mut Numbers, shape: &[usize], centre: f64, deviation: f64) -> Tensor {
    let range = 1 << 24;
    let even = |n: usize| ((n as f64 + 0.5) / f64::from(range) - 0.5) * deviation * 12f64.sqrt() + centre;
    let size = shape.iter().product::<usize>();
    let values: Vec<_> = (0..size).map(|_| even(numbers.below(range as usize)) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
}

fn write(folder: &Path, head_dim: usize) {
    let n = &mut Numbers(9);
    let mut all = HashMap::<String, Tensor>::new();
    all.insert("model.embeddings.weight".into(), tensor(n, &[VOCAB, WIDTH], 0.0, 1.0));
    all.insert("lm_head.weight".into(), tensor(n, &[VOCAB, WIDTH], 0.0, 0.1));
    all.insert("model.lower_bounds".into(), tensor(n, &[LAYERS, WIDTH], 0.0, 2.0));
    all.insert("model.norm.weight".into(), tensor(n, &[WIDTH], 1.0, 0.2));
    for l in 0..LAYERS {
        let mut put = |part: &str, shape: &[usize], centre: f64, deviation: f64| {
            all.insert(format!("model.layers.{l}.{part}.weight"), tensor(n, shape, centre, deviation));
        };
        for norm in ["attn_norm", "mlp_norm", "attn.g_norm"] {
            put(norm, &[WIDTH], 1.0, 0.2);
        }
        for p in ["q", "f", "i", "o"] {
            put(&format!("attn.{p}_proj"), &[WIDTH, WIDTH], 0.0, 0.1);
        }
        for p in ["q", "f", "i"] {
            put(&format!("attn.{p}_conv1d"), &[WIDTH, 1, 3], 0.5, 0.3);
        }
        for p in ["gate", "up"] {
            put(&format!("mlp.{p}_proj"), &[INNER, WIDTH], 0.0, 0.1);
        }
        put("mlp.down_proj", &[WIDTH, INNER], 0.0, 0.05);
    }
    let config = json!({"model_type": "hgrn2", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
        "expand_ratio": head_dim, "use_short_conv": true, "conv_size": 3});
    std::fs::write(folder.join("config.json"), config.to_string()).expect("config.json");
    candle_core::safetensors::save(&all, folder.join("model.safetensors")).expect("weights");
}

fn log_probs(weights: &Hgrn2Weights, ids: &[u32], form: Form) -> Vec<f64> {
    let logits = weights.forward(ids, form).expect("a forward pass").logits;
    let sums = logits.log_sum_exp(D::Minus1).and_then(|s| s.to_vec1::<f64>()).expect("sums");
    let rows = logits.to_vec2::<f64>().expect("rows");
    ids[1..].iter().zip(rows.iter().zip(sums)).map(|(&id, (row, sum))| row[id as usize] - sum).collect()
}

#[test]
fn the_scorer_agrees_with_the_definition_at_real_proportions() {
    for head_dim in [128, 32, 24] {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), head_dim);
        let weights = Hgrn2Weights::load(folder.path(), DType::F64).expect("loads");
        let mut numbers = Numbers(1);
        let mut trie = Trie::default();
        let sequences: Vec<Vec<u32>> = (0..7)
            .map(|i| {
                let first = (0..i * 4).map(|t| t as u32);
                first.chain((0..20 + 9 * i).map(|_| numbers.below(VOCAB) as u32)).collect()
            })
            .collect();
        let nodes: Vec<_> = sequences.iter().map(|ids| trie.add(ids)).collect();
        let scores = score(&mut open(folder.path(), 2), &trie.forest);
        let (mut worst, mut forms) = (0.0f64, 0.0f64);
        for (ids, nodes) in sequences.iter().zip(&nodes) {
            let exact = log_probs(&weights, ids, Form::Recurrent);
            let chunked = log_probs(&weights, ids, Form::Chunked(Chunks { chunk: 32, sub_chunk: 8 }));
            for ((exact, chunked), &node) in exact.iter().zip(chunked).zip(&nodes[1..]) {
                worst = worst.max((f64::from(scores[node as usize]) - exact).abs());
                forms = forms.max((chunked - exact).abs());
            }
        }
        println!("head_dim {head_dim}: scorer {worst:.1e}, chunkwise f64 {forms:.1e}");
        assert!(worst <= 5e-5 && forms <= 1e-10, "head_dim {head_dim}: {worst:e} {forms:e}");
    }
}
