//! Settings that the golden checkpoints do not cover: the loss against what Hugging Face's own code computes (recipes:
//! tests/golden/transformers.py), and every gradient against central differences of that loss.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use bheval_abi::{Dtype, Kept, Start, TrainView, Trainable};
use bheval_engine::trainer::Trainer;
use safetensors::SafeTensors;

const VARIANTS: [&str; 7] = [
    "llama_biases",
    "llama_llama3",
    "llama_yarn",
    "llama_linear",
    "gpt2_options",
    "gpt_neox_sequential",
    "opt_350m_style",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// Each sequence that has something to predict, with the peer's loss per target.
fn golden(name: &str) -> Vec<(Vec<u32>, f64)> {
    let bytes = std::fs::read(folder(name).join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let one = |i: usize| {
        let ids: Vec<u32> = file.tensor(&format!("ids.{i}")).map(|t| integers(&t)).unwrap();
        let logits = file.tensor(&format!("logits.{i}")).unwrap();
        let (vocab, logits) = (logits.shape()[1], numbers(&logits));
        let nats =
            |(row, &next): (&[f64], &u32)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[next as usize];
        let total: f64 = logits.chunks(vocab).zip(&ids[1..]).map(nats).sum();
        (ids.clone(), total / (ids.len() - 1) as f64)
    };
    let all: Vec<_> = (0..3).map(one).filter(|(ids, _)| ids.len() > 1).collect();
    assert!(!all.is_empty(), "{name}");
    all
}

fn integers(tensor: &safetensors::tensor::TensorView<'_>) -> Vec<u32> {
    let bytes = tensor.data().len() / tensor.shape().iter().product::<usize>();
    tensor.data().chunks(bytes).map(|b| u32::from_le_bytes(b[..4].try_into().unwrap())).collect()
}

fn numbers(tensor: &safetensors::tensor::TensorView<'_>) -> Vec<f64> {
    match tensor.dtype() {
        safetensors::Dtype::F64 => {
            tensor.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        safetensors::Dtype::F32 => {
            tensor.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn trainer(path: &Path) -> Trainer {
    let start = Start { path: path.to_owned(), seed: None, threads: 2, dtype: Dtype::F32 };
    Trainer::create(&start).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The same model without dropout.
fn without_dropout(name: &str) -> Trainer {
    let to = tempfile::tempdir().unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    let text = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let dropouts = config.iter_mut().filter(|(key, _)| key.contains("drop"));
    dropouts.for_each(|(_, value)| *value = serde_json::json!(0.0));
    std::fs::write(to.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    trainer(to.path())
}

/// A sequence whose tokens predict the next ones.
struct Sequence {
    tokens: Vec<u32>,
    targets: Vec<i32>,
}

impl Sequence {
    fn new(ids: &[u32]) -> Self {
        let targets = ids[1..].iter().map(|&id| id as i32).collect();
        Self { tokens: ids[..ids.len() - 1].to_vec(), targets }
    }

    fn view(&self) -> TrainView<'_> {
        let (tokens, targets) = (&self.tokens[..], &self.targets[..]);
        TrainView { batch: 1, steps: tokens.len(), tokens, targets, weight: 1.0, pass: 0, teacher: None }
    }
}

#[test]
fn losses_agree_with_the_peer() {
    for name in VARIANTS {
        let mut trainer = trainer(&folder(name));
        for (ids, expected) in golden(name) {
            let found = trainer.evaluate(&Sequence::new(&ids).view()).unwrap();
            let got = found.nats / found.targets as f64;
            assert!((got - expected).abs() < 1e-5, "{name}: {got} for {expected}");
        }
    }
}

/// Along its own gradient a tensor changes the loss by the gradient's norm.
#[test]
fn gradients_agree_with_differences_of_the_loss() {
    const STEP: f32 = 4e-3;
    for name in VARIANTS {
        let mut trainer = without_dropout(name);
        let sequence = Sequence::new(&golden(name)[0].0);
        trainer.accumulate(&sequence.view()).unwrap();
        let tensors = 0..trainer.tensors().len();
        let gradients: Vec<Vec<f32>> =
            tensors.map(|i| trainer.kept(i, Kept::GRADIENT).unwrap().to_vec()).collect();
        let mut worst = 0.0_f64;
        for (i, gradient) in gradients.iter().enumerate() {
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let mut at = |step: f32| -> f64 {
                let weights = trainer.kept(i, Kept::WEIGHT).unwrap();
                let before = weights.to_vec();
                let along = (f64::from(step) / norm.max(1e-12)) as f32;
                weights.iter_mut().zip(gradient).for_each(|(w, g)| *w += along * g);
                let nats = trainer.evaluate(&sequence.view()).unwrap().nats;
                trainer.kept(i, Kept::WEIGHT).unwrap().copy_from_slice(&before);
                nats
            };
            let slope = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
            // The rounding of the loss alone is about 1e-5 over the step.
            let error = (slope - norm).abs() / norm.max(0.1);
            let tensor = &trainer.tensors()[i].name;
            assert!(error < 2e-2, "{name}: {tensor}: slope {slope} for a gradient of {norm}");
            worst = worst.max(error);
        }
        println!("{name}: slopes within {worst:.1e}");
    }
}
