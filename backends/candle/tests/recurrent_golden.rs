//! Scores and logits of the recurrent models equal to those of torch, transformers and the xLSTM package.

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

mod support;

use std::path::{Path, PathBuf};

use bheval_abi::LanguageModel;
use bheval_candle::{Lstm, Mamba, Xlstm};
use candle_core::{DType, Device, Tensor};
use support::{OwnedForest, Trie, golden, golden_tensors, options, sentences};

fn open<M: LanguageModel>(path: &Path) -> M {
    M::open(&options(path, 2)).expect("the model opens")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn logits<M: LanguageModel>(model: &mut M, ids: &[u32]) -> Vec<f32> {
    let mut forest = OwnedForest::default();
    forest.chain(ids);
    forest.wanted.fill(1);
    let mut out = vec![f32::NAN; ids.len() * model.info().vocab as usize];
    model.logits(forest.view(), &mut out).expect("logits");
    out
}

fn difference(ours: &[f32], theirs: &Tensor) -> f64 {
    let theirs = theirs.flatten_all().and_then(|t| t.to_dtype(DType::F32)?.to_vec1::<f32>()).expect("logits");
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

fn agrees_with_the_golden_checkpoint<M: LanguageModel>(name: &str) {
    let mut model: M = open(&golden(name));
    let text = std::fs::read_to_string(golden(name).join("golden.json")).expect("golden.json");
    let peer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((Some(model.info().parameters), model.info().context), (peer["parameters"].as_u64(), 0));
    assert_eq!(model.info().architecture, name);
    let (sentences, tensors) = (sentences(name), golden_tensors(name));
    for (key, theirs) in tensors.iter().filter(|(key, _)| key.starts_with("logits.")) {
        let i: usize = key["logits.".len()..].parse().expect("a number");
        let error = difference(&logits(&mut model, &sentences[i].ids), theirs);
        println!("{name} {key}: {error:.1e}");
        assert!(error <= 1e-4);
    }
    let mut trie = Trie::default();
    let nodes: Vec<_> = sentences.iter().map(|s| trie.add(&s.ids)).collect();
    let mut scores = vec![f32::NAN; trie.forest.token.len()];
    model.score(trie.forest.view(), &mut scores).expect("scores");
    let (mut token, mut total) = (0.0f64, 0.0f64);
    for (sentence, nodes) in sentences.iter().zip(nodes) {
        let ours: Vec<f64> = nodes[1..].iter().map(|&n| f64::from(scores[n as usize])).collect();
        assert_eq!(ours.len(), sentence.log_probs.len());
        token = ours.iter().zip(&sentence.log_probs).map(|(a, b)| (a - b).abs()).fold(token, f64::max);
        total = total.max((ours.iter().sum::<f64>() - sentence.total).abs());
    }
    println!("{name}: token {token:.1e}, total {total:.1e}");
    assert!(token <= 5e-5 && total <= 2e-4);
}

fn agrees_with_the_fixture<M: LanguageModel>(name: &str, parameters: u64) {
    let mut model: M = open(&fixture(name));
    assert_eq!(model.info().parameters, parameters);
    let tensors = candle_core::safetensors::load(fixture(name).join("golden.safetensors"), &Device::Cpu);
    let tensors = tensors.expect("golden.safetensors");
    for i in 0..3 {
        let ids = tensors[&format!("ids.{i}")].to_vec1::<i64>().expect("ids");
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let error = difference(&logits(&mut model, &ids), &tensors[&format!("logits.{i}")]);
        println!("{name}, {} tokens: {error:.1e}", ids.len());
        assert!(error <= 1e-4);
    }
}

#[test]
fn the_lstm_agrees_with_torch() {
    agrees_with_the_golden_checkpoint::<Lstm>("lstm");
}

#[test]
fn mamba_agrees_with_transformers() {
    agrees_with_the_golden_checkpoint::<Mamba>("mamba");
    agrees_with_the_fixture::<Mamba>("mamba_options", 5_880);
}

#[test]
fn mamba2_agrees_with_transformers() {
    agrees_with_the_golden_checkpoint::<Mamba>("mamba2");
    agrees_with_the_fixture::<Mamba>("mamba2_groups", 12_856);
}

#[test]
fn xlstm_agrees_with_transformers() {
    agrees_with_the_golden_checkpoint::<Xlstm>("xlstm");
    agrees_with_the_fixture::<Xlstm>("xlstm_options", 15_336);
}

#[test]
fn xlstm_agrees_with_the_package_of_its_authors() {
    agrees_with_the_fixture::<Xlstm>("xlstm_block", 29_744);
}
