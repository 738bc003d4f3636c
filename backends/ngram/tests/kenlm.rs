//! Against KenLM's lmplz; `kenlm/make.py` is the recipe of the values.

mod support;

use serde_json::Value;

use support::{Gram, path, train};

fn golden(part: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("kenlm/kenlm.json")).expect("JSON");
    all[part].clone()
}

fn sequences(value: &Value) -> Vec<Gram> {
    let ids =
        |s: &Value| s.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    let framed = |s: Vec<u32>| [vec![0], s, vec![1]].concat();
    value.as_array().expect("sequences").iter().map(|s| framed(ids(s))).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|n| n.as_f64().expect("a number")).collect()
}

fn compare(part: &str, estimated: bool) {
    let golden = golden(part);
    let vocab = golden["vocab"].as_u64().expect("a number") as u32;
    let (text, held) = (sequences(&golden["train"]), sequences(&golden["held"]));
    let models = golden["models"].as_array().expect("models");
    assert_eq!(models.len(), 5);
    for expected in models {
        let order = expected["order"].as_u64().expect("an order") as u32;
        let trained = train(vocab, order, &text, 1);
        // KenLM lists <unk> and <s> besides; here their ids are one, and it is a unigram of the vocabulary.
        let ngrams: u64 = trained.model.ngrams().iter().sum();
        assert_eq!(ngrams + 1, expected["ngrams"].as_u64().expect("a number"), "n-grams of order {order}");
        for (found, theirs) in trained.discounts.iter().zip(expected["discounts"].as_array().expect("orders"))
        {
            assert_eq!(found.fallback.is_none(), estimated, "{found:?}");
            for (d, theirs) in found.values.iter().zip(numbers(theirs)) {
                assert!((d - theirs).abs() < 1e-5, "{found:?}, and KenLM has {theirs}");
            }
        }
        let rows = expected["log10"].as_array().expect("rows");
        assert!(rows.len() == held.len() && !held.is_empty());
        for (sequence, row) in held.iter().zip(rows) {
            for (p, theirs) in path(&trained.model, sequence).iter().zip(numbers(row)) {
                // KenLM computes in f32 and prints seven digits.
                assert!(
                    (p.log10() - theirs).abs() < 1e-6,
                    "order {order}, {sequence:?}: {} and {theirs}",
                    p.log10()
                );
            }
        }
    }
}

#[test]
fn with_estimated_discounts() {
    compare("estimated", true);
}

#[test]
fn with_discounts_that_cannot_be_estimated() {
    compare("fallback", false);
}
