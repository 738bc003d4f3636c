//! Scores, logits and hidden states equal to those of flash-linear-attention (recipe: the README of the golden folder).

#![allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.

mod support;

use bheval_abi::MaskedView;
use bheval_candle::models::hgrn2::{Form, Hgrn2Weights, Output};
use bheval_candle::ops::gla::Chunks;
use candle_core::{D, DType, Tensor};
use support::{
    CAUSAL, HGRN2S, MASKED, OwnedForest, Sentence, golden, golden_tensors, masked_rows, open, score,
    sentences,
};

/// Largest errors seen.
#[derive(Default, Debug)]
struct Errors {
    token: f64,
    total: f64,
    total_f64: f64,
}

impl Errors {
    fn compare(&mut self, sentence: &Sentence, log_probs: &[f64]) {
        assert_eq!(log_probs.len(), sentence.log_probs.len());
        for (ours, theirs) in log_probs.iter().zip(&sentence.log_probs) {
            assert!(*ours <= 0.0);
            self.token = self.token.max((ours - theirs).abs());
        }
        let total: f64 = log_probs.iter().sum();
        self.total = self.total.max((total - sentence.total).abs());
        self.total_f64 = self.total_f64.max((total - sentence.total_f64).abs());
    }

    fn check(&self, what: &str, total_f64: f64) {
        println!("{what}: {self:?}");
        assert!(self.token <= 5e-5 && self.total <= 2e-4 && self.total_f64 <= total_f64, "{what}: {self:?}");
    }
}

/// Largest difference of two tensors.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let [a, b] = [a, b].map(|t| t.to_dtype(DType::F64).expect("f64"));
    let worst = (a - b).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>());
    worst.expect("the same shape")
}

fn log_probs(output: &Output, ids: &[u32]) -> Vec<f64> {
    let logits = output.logits.to_dtype(DType::F64).expect("f64");
    let rows =
        logits.broadcast_sub(&logits.log_sum_exp(D::Minus1).and_then(|l| l.unsqueeze(1)).expect("rows"));
    let rows = rows.and_then(|r| r.to_vec2::<f64>()).expect("rows");
    ids[1..].iter().zip(rows).map(|(&id, row)| row[id as usize]).collect()
}

#[test]
fn the_sequence_forms_agree_with_the_peer() {
    for model in HGRN2S {
        for (dtype, limit) in [(DType::F32, 2e-4), (DType::F64, 1e-5)] {
            let weights = Hgrn2Weights::load(&golden(model), dtype).expect("the model loads");
            for form in [Form::Recurrent, Form::Chunked(Chunks::default())] {
                let mut errors = Errors::default();
                for sentence in sentences(model) {
                    let output = weights.forward(&sentence.ids, form).expect("a forward pass");
                    errors.compare(&sentence, &log_probs(&output, &sentence.ids));
                }
                errors.check(&format!("{model} {dtype:?} {form:?}"), limit);
            }
        }
    }
}

#[test]
fn hidden_states_and_logits_agree_with_the_peer() {
    for model in HGRN2S {
        let (tensors, sentences) = (golden_tensors(model), sentences(model));
        for dtype in [DType::F32, DType::F64] {
            let weights = Hgrn2Weights::load(&golden(model), dtype).expect("the model loads");
            for form in [Form::Recurrent, Form::Chunked(Chunks::default())] {
                let run = |i: usize| weights.forward(&sentences[i].ids, form).expect("a forward pass");
                let hidden = run(0).hidden;
                let worst =
                    hidden.iter().enumerate().map(|(k, h)| difference(h, &tensors[&format!("hidden.{k}")]));
                let hidden_error = worst.fold(0.0, f64::max);
                let worst =
                    [0, 1, 9, 10].map(|i| difference(&run(i).logits, &tensors[&format!("logits.{i}")]));
                let logits_error = worst.into_iter().fold(0.0, f64::max);
                println!("{model} {dtype:?} {form:?}: hidden {hidden_error:e}, logits {logits_error:e}");
                assert!(!tensors.contains_key(&format!("hidden.{}", hidden.len())));
                assert!(hidden_error <= 1e-4 && logits_error <= 1e-4);
            }
        }
    }
}

#[test]
fn the_forest_scorer_agrees_with_the_peer() {
    for model in CAUSAL {
        let mut opened = open(&golden(model), 2);
        let sentences = sentences(model);
        let mut forest = OwnedForest::default();
        let nodes: Vec<_> = sentences.iter().map(|s| forest.chain(&s.ids)).collect();
        let scores = score(&mut opened, &forest);
        let mut errors = Errors::default();
        for (sentence, nodes) in sentences.iter().zip(nodes) {
            let scores: Vec<_> = nodes[1..].iter().map(|&n| f64::from(scores[n as usize])).collect();
            errors.compare(sentence, &scores);
        }
        errors.check(&format!("{model} forest"), 2e-4);
    }
}

#[test]
fn the_forest_logits_agree_with_the_peer() {
    for model in CAUSAL {
        let (tensors, sentences) = (golden_tensors(model), sentences(model));
        let mut opened = open(&golden(model), 2);
        for i in [0, 1, 9, 10] {
            let mut forest = OwnedForest::default();
            forest.chain(&sentences[i].ids);
            forest.wanted.fill(1);
            let shape = (sentences[i].ids.len(), opened.info().vocab as usize);
            let mut logits = vec![0.0; shape.0 * shape.1];
            opened.logits(forest.view(), &mut logits).expect("logits");
            let logits = Tensor::from_vec(logits, shape, &candle_core::Device::Cpu).expect("a tensor");
            let worst = difference(&logits, &tensors[&format!("logits.{i}")]);
            println!("{model} forest logits.{i}: {worst:e}");
            assert!(worst <= 1e-4);
        }
    }
}

#[test]
fn masked_models_agree_with_the_peer() {
    for model in MASKED {
        let (mut opened, tensors) = (open(&golden(model), 2), golden_tensors(model));
        let mut errors = Errors::default();
        for sentence in sentences(model) {
            // One copy for each position but the first and last, masked there and read there.
            let copies: Vec<Vec<u32>> = (1..sentence.ids.len() - 1)
                .map(|at| {
                    let mut ids = sentence.ids.clone();
                    ids[at] = mask_of(model);
                    ids
                })
                .collect();
            let begin: Vec<u32> = (0..=copies.len()).map(|s| (s * sentence.ids.len()) as u32).collect();
            let position: Vec<u32> =
                (0..copies.len()).map(|s| (s * sentence.ids.len() + s + 1) as u32).collect();
            let target = &sentence.ids[1..sentence.ids.len() - 1];
            let tokens = copies.concat();
            let view = MaskedView::new(&tokens, &begin, &position, target).expect("well formed");
            let mut log_prob = vec![f32::NAN; target.len()];
            opened.masked(view, &mut log_prob).expect("scores");
            errors.compare(&sentence, &log_prob.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        }
        errors.check(model, 2e-4);
        for i in [0, 1, 9, 10] {
            let ids = &sentences(model)[i].ids;
            let logits = &tensors[&format!("logits.{i}")];
            let worst = difference(&masked_rows(&mut opened, ids), &normalised(logits));
            println!("{model} rows.{i}: {worst:e}");
            assert!(worst <= 1e-4);
        }
    }
}

fn mask_of(model: &str) -> u32 {
    let text = std::fs::read_to_string(golden(model).join("golden.json")).expect("golden.json");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let ids = &value["special_ids"];
    ids["mask"].as_u64().or_else(|| ids["mask_token_id"].as_u64()).expect("the mask's id") as u32
}

fn normalised(logits: &Tensor) -> Tensor {
    let sums = logits.log_sum_exp(D::Minus1).and_then(|s| s.unsqueeze(1)).expect("sums");
    logits.broadcast_sub(&sums).expect("rows")
}

/// `parameters` of golden.json; a tied matrix is counted once there, too.
#[test]
fn the_parameters_are_counted_as_the_peer_does() {
    for model in CAUSAL.iter().chain(&MASKED) {
        let text = std::fs::read_to_string(golden(model).join("golden.json")).expect("golden.json");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(Some(open(&golden(model), 1).info().parameters), value["parameters"].as_u64(), "{model}");
    }
}
