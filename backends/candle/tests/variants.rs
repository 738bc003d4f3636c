//! Settings that the golden checkpoints do not cover, against what Hugging Face's own code, or the xLSTM package, computes,
//! in float64 where it can (recipes: tests/golden/transformers.py and recurrent.py).

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, Tensor};
use support::{OwnedForest, masked_rows, open};

const CAUSAL: [&str; 11] = [
    "llama_biases",
    "llama_llama3",
    "llama_yarn",
    "llama_linear",
    "gpt2_options",
    "gpt_neox_sequential",
    "opt_350m_style",
    "mamba_options",
    "mamba2_groups",
    "xlstm_options",
    "xlstm_block",
];
const MASKED: [&str; 2] = ["bert_options", "roberta_options"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// Each sequence with the peer's logits `[T, V]`.
fn golden(name: &str) -> Vec<(Vec<u32>, Tensor)> {
    let tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(folder(name).join("golden.safetensors"), &Device::Cpu)
            .expect("values");
    let ids = |i: usize| {
        let ids = tensors[&format!("ids.{i}")].to_dtype(DType::U32).and_then(|t| t.to_vec1()).expect("ids");
        (ids, tensors[&format!("logits.{i}")].clone())
    };
    (0..3).map(ids).collect()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let worst = (a - b).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar());
    worst.expect("the same shape")
}

#[test]
fn causal_variants_agree_with_the_peer() {
    for name in CAUSAL {
        let mut opened = open(&folder(name), 2);
        let vocab = opened.info().vocab as usize;
        let mut worst = 0.0f64;
        for (ids, exact) in golden(name) {
            let mut forest = OwnedForest::default();
            forest.chain(&ids);
            forest.wanted.fill(1);
            let mut logits = vec![0.0; ids.len() * vocab];
            opened.logits(forest.view(), &mut logits).expect("logits");
            let logits = Tensor::from_vec(logits, (ids.len(), vocab), &Device::Cpu).expect("a tensor");
            worst = worst.max(difference(&logits, &exact));
        }
        println!("{name}: {worst:.1e}");
        assert!(worst <= 2e-5, "{name}: {worst:e}");
    }
}

#[test]
fn masked_variants_agree_with_the_peer() {
    for name in MASKED {
        let mut opened = open(&folder(name), 2);
        let mut worst = 0.0f64;
        for (ids, logits) in golden(name) {
            let sums = logits.log_sum_exp(D::Minus1).and_then(|s| s.unsqueeze(1)).expect("sums");
            let exact = logits.broadcast_sub(&sums).expect("rows");
            worst = worst.max(difference(&masked_rows(&mut opened, &ids), &exact));
        }
        println!("{name}: {worst:.1e}");
        assert!(worst <= 2e-5, "{name}: {worst:e}");
    }
}
