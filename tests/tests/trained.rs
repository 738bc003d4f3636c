//! A small model that was really trained, whose log-probabilities were computed in f64 from its original weights.
#![allow(clippy::print_stdout)] // The largest difference is worth seeing.

use bheval_data::encode::Encoder;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::{BatchSize, Order, score_all};
use bheval_host::{Dtype, Forest, Library, Model, ModelOptions, Route};
use bheval_tests::models;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[test]
fn aidreams_260k_gives_its_reference_scores() {
    let folder = models().join("aidreams-260k");
    let options = ModelOptions { path: folder.clone(), threads: 2, dtype: Dtype::F32, memory: 1 << 28 };
    let library = Library::linked(&bheval_candle::TRANSFORMER).expect("a linked table");
    let mut model = Model::open(&library, &options).expect("the model opens");
    let tokenizer = Tokenizer::load(&folder).expect("the tokenizer loads");
    let text = std::fs::read_to_string(folder.join("reference_scores.jsonl")).expect("the references");
    let (mut worst, mut count) = (0.0_f64, 0);
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let sentence = row["text"].as_str().expect("a text");
        let request = Encoder::as_encoded(&tokenizer, sentence).expect("tokens").request;
        let ids: Vec<f64> = request.ids.iter().map(|&id| f64::from(id)).collect();
        assert_eq!(ids, numbers(&row["ids"]), "{sentence}");
        let mut forest = Forest::new();
        let path = forest.insert(&request.ids, &request.scored);
        let scored = model.score(&forest, Route::Forest).expect("scores").log_prob;
        for (&node, reference) in path[1..].iter().zip(numbers(&row["token_logprobs"])) {
            worst = worst.max((f64::from(scored[node as usize]) - reference).abs());
        }
        let record = score_all(&mut model, &[request], Order::AsGiven, BatchSize::Auto, Route::Forest);
        let total = record.expect("a score")[0].log_prob;
        let reference = row["sum_logprob"].as_f64().expect("a number");
        assert!((total - reference).abs() <= 2e-4, "{sentence}: {total} where {reference} is known");
        count += 1;
    }
    println!("{count} sentences, largest difference of a token {worst:.1e}");
    assert!(count == 42 && worst <= 2e-5, "{count} sentences, {worst:e}");
}
