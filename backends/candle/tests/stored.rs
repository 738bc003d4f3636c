//! Number formats of files, for every architecture: what is read is the rounded weights, and what that does to scores.

#![allow(clippy::print_stdout)] // Largest differences, shown by `--nocapture`.

mod support;

use std::collections::HashMap;
use std::path::Path;

use bheval_abi::MaskedView;
use candle_core::{DType, Device, Tensor};
use support::{CAUSAL, MASKED, OwnedForest, golden, open, score, sentences};

/// A copy of a golden checkpoint with each tensor changed.
fn copy(model: &str, change: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(golden(model).join("config.json"), folder.path().join("config.json")).expect("config.json");
    let files =
        std::fs::read_dir(golden(model)).expect("the golden folder").map(|f| f.expect("a file").path());
    let weights = files.filter(|f| {
        let name = f.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.starts_with("model") && name.ends_with(".safetensors")
    });
    let tensors: HashMap<String, Tensor> = weights
        .flat_map(|f| candle_core::safetensors::load(f, &Device::Cpu).expect("weights"))
        .map(|(name, tensor)| (name, change(&tensor).expect("a tensor")))
        .collect();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("written");
    folder
}

/// Log-probabilities of a few golden sentences; a masked model reads each position unmasked.
fn scores(model: &str, folder: &Path) -> Vec<f32> {
    let mut opened = open(folder, 2);
    let sentences = &sentences(model);
    if MASKED.contains(&model) {
        let tokens: Vec<u32> = sentences.iter().flat_map(|s| s.ids.clone()).collect();
        let ends = sentences.iter().scan(0, |end, s| {
            *end += s.ids.len() as u32;
            Some(*end)
        });
        let begin: Vec<u32> = std::iter::once(0).chain(ends).collect();
        let position: Vec<u32> = (0..tokens.len() as u32).collect();
        let view = MaskedView::new(&tokens, &begin, &position, &tokens).expect("well formed");
        let mut log_prob = vec![f32::NAN; tokens.len()];
        opened.masked(view, &mut log_prob).expect("scores");
        return log_prob;
    }
    let mut forest = OwnedForest::default();
    sentences.iter().for_each(|s| {
        forest.chain(&s.ids);
    });
    score(&mut opened, &forest).into_iter().filter(|s| !s.is_nan()).collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.len() == b.len() && a.len() > 50);
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn half_precision_files_are_their_rounded_weights() {
    // Half a unit in the last place of 8 and 11 digits, times what a network of a few layers makes of it.
    for (dtype, limit) in [(DType::BF16, 0.1), (DType::F16, 0.02), (DType::F64, 0.0)] {
        for model in CAUSAL.iter().chain(&MASKED) {
            let stored = copy(model, |t| t.to_dtype(dtype));
            let rounded = copy(model, |t| t.to_dtype(dtype)?.to_dtype(DType::F32));
            let got = scores(model, stored.path());
            assert_eq!(got, scores(model, rounded.path()), "{model} {dtype:?}");
            let moved = difference(&got, &scores(model, &golden(model)));
            println!("{model} {dtype:?}: a token moves by {moved:.1e} at most");
            assert!(moved <= limit && (moved > 0.0) == (limit > 0.0), "{model} {dtype:?}: {moved}");
        }
    }
}
