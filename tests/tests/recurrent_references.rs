//! The naive recurrent models against what their peers computed for the same checkpoints.

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

use bheval_abi::LanguageModel;
use bheval_tests::golden;
use bheval_tests::recurrent::{difference, expected, fixture, floats, logits, open};
use bheval_tests::reference::{Architecture, Lstm, Mamba, Mamba2, Reference, Xlstm, XlstmBlock};
use safetensors::SafeTensors;
use serde::Deserialize;

/// f32 against f64 in the same peer is 5e-6 for a token and 2.2e-5 for a sentence (golden/README.md).
const TOKEN_TOLERANCE: f64 = 5e-5;
const TOTAL_TOLERANCE: f64 = 2e-4;
const LOGIT_TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    parameters: u64,
    logits_for: Vec<usize>,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    ids: Vec<u32>,
    logprobs: Vec<f64>,
    total: f64,
}

fn log_probs(logits: &[f32], ids: &[u32]) -> Vec<f64> {
    let vocab = logits.len() / ids.len();
    let row = |(row, &id): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        f64::from(row[id as usize]) - sum.ln()
    };
    logits.chunks_exact(vocab).zip(&ids[1..]).map(row).collect()
}

fn agrees_with_the_golden_checkpoint<A: Architecture>(name: &str) {
    let folder = golden().join(name);
    let read = |file: &str| std::fs::read(folder.join(file)).expect("a golden file");
    let golden: Golden = serde_json::from_slice(&read("golden.json")).expect("golden.json is understood");
    let bytes = read("golden.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("golden.safetensors is understood");
    let mut model: Reference<A> = open(&folder);
    assert_eq!((model.info().parameters, model.info().context), (golden.parameters, 0));
    for (i, sentence) in golden.sentences.iter().enumerate() {
        let ours = logits(&mut model, &sentence.ids);
        if golden.logits_for.contains(&i) {
            let theirs = tensors.tensor(&format!("logits.{i}")).expect("the logits are there");
            let error = difference(&ours, &floats(theirs.data()));
            println!("{name} logits.{i}: {error:.1e}");
            assert!(error < LOGIT_TOLERANCE);
        }
        let ours = log_probs(&ours, &sentence.ids);
        let errors = ours.iter().zip(&sentence.logprobs).map(|(a, b)| (a - b).abs());
        assert!(ours.len() == sentence.logprobs.len() && errors.fold(0.0, f64::max) < TOKEN_TOLERANCE);
        assert!((ours.iter().sum::<f64>() - sentence.total).abs() < TOTAL_TOLERANCE, "{name} {i}");
    }
}

fn agrees_with_the_fixture<A: Architecture>(name: &str) {
    let mut model: Reference<A> = open(&fixture(name));
    for sequence in expected(&fixture(name)) {
        let ours = logits(&mut model, &sequence.ids);
        let error = difference(&ours, &sequence.logits);
        println!("{name}, {} tokens: {error:.1e}", sequence.ids.len());
        assert!(error < LOGIT_TOLERANCE);
    }
}

#[test]
fn the_lstm_agrees_with_torch() {
    agrees_with_the_golden_checkpoint::<Lstm>("lstm");
}

#[test]
fn mamba_agrees_with_transformers() {
    agrees_with_the_golden_checkpoint::<Mamba>("mamba");
    agrees_with_the_fixture::<Mamba>("mamba_options");
}

#[test]
fn mamba2_agrees_with_transformers() {
    agrees_with_the_golden_checkpoint::<Mamba2>("mamba2");
    agrees_with_the_fixture::<Mamba2>("mamba2_groups");
}

#[test]
fn xlstm_agrees_with_transformers() {
    agrees_with_the_golden_checkpoint::<Xlstm>("xlstm");
    agrees_with_the_fixture::<Xlstm>("xlstm_options");
}

#[test]
fn xlstm_agrees_with_the_package_of_its_authors() {
    agrees_with_the_fixture::<XlstmBlock>("xlstm_block");
}
