//! The named protocols against what the published pipelines gave, item by item: tokens, boundaries and choices. The
//! pipelines ran llama, GPT-2 and OPT.
#![allow(clippy::print_stdout)] // The largest differences are worth seeing: `cargo test -- --nocapture`.

use std::path::Path;

use bheval_data::encode::{Encoder, Query, Request};
use bheval_data::protocol::{Protocol, Ties};
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::{BatchSize, Order, score_all};
use bheval_host::{Dtype, Library, Model, ModelOptions, Route};
use bheval_tasks::{Comparison, judge};
use bheval_tests::{data, golden};
use serde_json::Value;

/// How far a sum may be from the golden one, in nats.
const TOLERANCE: f64 = 2e-4;

struct Peer {
    model: Model,
    tokenizer: Tokenizer,
}

impl Peer {
    fn open(name: &str) -> Self {
        let folder = golden().join(name);
        let options = ModelOptions { path: folder.clone(), threads: 2, dtype: Dtype::F32, memory: 1 << 28 };
        let library = Library::linked(&bheval_candle::TRANSFORMER).expect("a linked table");
        let model = Model::open(&library, &options).expect("the golden model opens");
        Self { model, tokenizer: Tokenizer::load(&folder).expect("the golden tokenizer loads") }
    }

    fn requests(&self, protocol: Protocol, queries: &[Query]) -> Vec<Request> {
        let encoder = Encoder::new(&self.tokenizer, protocol);
        queries.iter().map(|q| encoder.request(q).expect("every query has tokens")).collect()
    }

    /// Sums of log-probabilities of the queries.
    fn scores(&mut self, protocol: Protocol, queries: &[Query]) -> Vec<f64> {
        let requests = self.requests(protocol, queries);
        let records = score_all(&mut self.model, &requests, Order::Sorted, BatchSize::Auto, Route::Forest);
        records.expect("every request has a score").iter().map(|r| r.log_prob).collect()
    }
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn protocol_golden(name: &str) -> Value {
    json(&golden().join("protocols").join(name))
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no {field}"))
}

/// Both sentences of each pair of a BLiMP paradigm, good and bad in turn.
fn pairs(path: &Path) -> Vec<Query> {
    let both = |row: &Value| [text(row, "sentence_good"), text(row, "sentence_bad")].map(Query::sentence);
    rows(path).iter().flat_map(both).collect()
}

fn paradigm(uid: &str) -> Vec<Query> {
    pairs(&data().join("blimp/data").join(format!("{uid}.jsonl")))
}

/// Compares pairs of scores with the golden ones, and each choice. Returns the largest difference.
fn same(name: &str, ours: &[f64], golden: &[[f64; 2]]) -> f64 {
    assert_eq!(ours.len(), 2 * golden.len(), "{name}: number of items");
    let mut largest = 0.0_f64;
    for (item, (ours, golden)) in ours.chunks(2).zip(golden).enumerate() {
        for (a, b) in ours.iter().zip(golden) {
            assert!((a - b).abs() <= TOLERANCE, "{name}, item {item}: {a} where the pipeline has {b}");
            largest = largest.max((a - b).abs());
        }
        // Goldens are rounded to five decimals; a closer pair may be a tie there and none here.
        if (golden[0] - golden[1]).abs() > 1e-4 {
            let better = [Comparison { better: 0, worse: 1 }];
            let judged =
                judge(&better, &[Some(ours[0]), Some(ours[1])], Ties::FirstWins).expect("both are there");
            assert_eq!(judged.score == 1.0, golden[0] > golden[1], "{name}, item {item}: choice");
        }
    }
    largest
}

fn lm_eval(name: &str) {
    let mut peer = Peer::open(name);
    let golden = protocol_golden(&format!("lmeval_blimp_items_{name}.json"));
    for (uid, items) in golden["items"].as_object().expect("paradigms") {
        let expected = zip(&items["good"], &items["bad"]);
        let ours = peer.scores(Protocol::LmEval, &paradigm(uid));
        let largest = same(uid, &ours, &expected);
        let right = ours.chunks(2).filter(|p| p[0] >= p[1]).count();
        let accuracy = golden["accuracy"][uid].as_f64().expect("an accuracy");
        assert!(
            (right as f64 / 1000.0 - accuracy).abs() < 1e-9,
            "{uid}: {right} right, {accuracy} in the golden"
        );
        println!("lm-eval {name} {uid}: largest difference {largest:.1e}");
    }
}

fn zip(good: &Value, bad: &Value) -> Vec<[f64; 2]> {
    let list = |v: &Value| -> Vec<f64> {
        v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    list(good).into_iter().zip(list(bad)).map(|(g, b)| [g, b]).collect()
}

fn candidates(items: &Value) -> Vec<[f64; 2]> {
    let scores = items["scores"].as_array().expect("scores");
    scores.iter().map(|s| [s[0].as_f64().expect("a number"), s[1].as_f64().expect("a number")]).collect()
}

#[test]
fn lm_eval_gpt2() {
    lm_eval("gpt2");
}

#[test]
fn lm_eval_llama() {
    lm_eval("llama");
}

/// The accuracy of all 67 paradigms, of which single items are known for two.
#[test]
fn lm_eval_llama_on_all_of_blimp() {
    let mut peer = Peer::open("llama");
    let golden = protocol_golden("lmeval_blimp67_llama.json");
    let accuracies = golden["accuracy"].as_object().expect("paradigms");
    assert_eq!(accuracies.len(), 67);
    for (uid, accuracy) in accuracies {
        let ours = peer.scores(Protocol::LmEval, &paradigm(uid));
        let right = ours.chunks(2).filter(|p| p[0] >= p[1]).count();
        let accuracy = accuracy.as_f64().expect("a number");
        assert!(
            (right as f64 - 1000.0 * accuracy).abs() < 1e-6,
            "{uid}: {right} right, {accuracy} in the golden"
        );
    }
}

fn babylm2025_blimp(name: &str) {
    let mut peer = Peer::open(name);
    let golden = protocol_golden(&format!("babylm25_blimp_causal_{name}.json"));
    for (uid, items) in golden["items"].as_object().expect("paradigms") {
        let ours = peer.scores(Protocol::Babylm2025, &paradigm(uid));
        let largest = same(uid, &ours, &candidates(items));
        println!("babylm2025 {name} {uid}: largest difference {largest:.1e}");
    }
}

#[test]
fn babylm2025_blimp_gpt2() {
    babylm2025_blimp("gpt2");
}

#[test]
fn babylm2025_blimp_llama() {
    babylm2025_blimp("llama");
}

#[test]
fn babylm2025_blimp_opt() {
    babylm2025_blimp("opt");
}

#[test]
fn babylm2025_supplement() {
    let path = golden().join("protocols/made_up_data/supplement/qa_made_up.jsonl");
    for name in ["gpt2", "llama"] {
        let golden = protocol_golden(&format!("babylm25_supplement_causal_{name}.json"));
        let ours = Peer::open(name).scores(Protocol::Babylm2025, &pairs(&path));
        same("qa_made_up", &ours, &candidates(&golden["items"]["qa_made_up"]));
    }
}

/// Both targets after the first context of each row, by domain in file order.
fn ewok_rows(domain: &str) -> Vec<Value> {
    let path = golden().join("protocols/made_up_data/ewok/items.jsonl");
    rows(&path).into_iter().filter(|row| text(row, "Domain") == domain).collect()
}

#[test]
fn babylm2025_ewok_scores_the_target_after_its_context() {
    for name in ["gpt2", "llama"] {
        let golden = protocol_golden(&format!("babylm25_ewok_causal_{name}.json"));
        let mut peer = Peer::open(name);
        for (domain, items) in golden["items"].as_object().expect("domains") {
            let both = |row: &Value| {
                ["Target1", "Target2"].map(|t| Query::after(text(row, "Context1"), text(row, t)))
            };
            let queries: Vec<Query> = ewok_rows(domain).iter().flat_map(both).collect();
            same(domain, &peer.scores(Protocol::Babylm2025, &queries), &candidates(items));
        }
    }
}

#[test]
fn babylm2025_ewok_scores_the_whole_text_where_asked() {
    for name in ["gpt2", "llama"] {
        let golden = protocol_golden(&format!("babylm25_ewok_full_causal_{name}.json"));
        let mut peer = Peer::open(name);
        for (domain, items) in golden["items"].as_object().expect("domains") {
            let whole = |row: &Value| {
                ["Target1", "Target2"]
                    .map(|t| Query::sentence(format!("{} {}", text(row, "Context1"), text(row, t))))
            };
            let queries: Vec<Query> = ewok_rows(domain).iter().flat_map(whole).collect();
            same(domain, &peer.scores(Protocol::Babylm2025, &queries), &candidates(items));
        }
    }
}

/// minicons with `bos_token=True` puts BOS before a sentence and scores every token: what our default does for a
/// tokenizer that adds nothing itself.
#[test]
fn bheval_agrees_with_minicons_where_it_puts_one_bos() {
    let golden = protocol_golden("minicons_clm_gpt2.json");
    let sentences: Vec<Query> = golden["sentences"]
        .as_array()
        .expect("sentences")
        .iter()
        .map(|s| Query::sentence(s.as_str().expect("text")))
        .collect();
    let ours = Peer::open("gpt2").scores(Protocol::Bheval, &sentences);
    for ((ours, golden), query) in
        ours.iter().zip(golden["logprob_sum_bos_token"].as_array().expect("scores")).zip(&sentences)
    {
        let golden = golden.as_f64().expect("a number");
        assert!((ours - golden).abs() < TOLERANCE, "{query:?}: {ours} where minicons has {golden}");
    }
}

/// BabyLM 2024 differs from lm-eval only in its last resort for a prefix token, so equal requests show it.
#[test]
fn babylm2024_cuts_like_lm_eval_where_there_is_a_bos() {
    let mut queries = paradigm("wh_island");
    queries.extend(
        ewok_rows("weather").iter().map(|row| Query::after(text(row, "Context1"), text(row, "Target1"))),
    );
    for name in ["gpt2", "llama", "opt"] {
        let peer = Peer::open(name);
        assert_eq!(peer.requests(Protocol::Babylm2024, &queries), peer.requests(Protocol::LmEval, &queries));
    }
}

/// The 2024 pipeline puts no BOS before an EWoK item, since its context is not empty.
#[test]
fn babylm2024_puts_nothing_before_a_context() {
    let peer = Peer::open("llama");
    let query = Query::after("The soup had just left the stove.", "Mira burned her tongue on it.");
    let [request] = &peer.requests(Protocol::Babylm2024, std::slice::from_ref(&query))[..] else {
        panic!("one")
    };
    let context = peer.tokenizer.ids(&query.context).expect("ids");
    assert_eq!(
        request.ids,
        peer.tokenizer.ids(&format!("{}{}", query.context, query.continuation)).expect("ids")
    );
    assert_eq!(request.scored.iter().filter(|&&s| !s).count(), context.len());
}
