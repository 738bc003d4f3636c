//! Hidden states of the native backends: what transformers has before its head, and what gives the logits.

use std::path::Path;

use bheval_candle::BACKENDS;
use bheval_host::{Dtype, Forest, HeadValues, Library, Model, ModelOptions};
use bheval_tests::golden;
use safetensors::SafeTensors;
use serde_json::Value;

/// As for logits in the tests against the peers.
const TOLERANCE: f32 = 1e-4;

fn open(folder: &Path) -> Model {
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
    let known =
        |opens: &[&str]| opens.iter().any(|name| config.contains(&format!("\"model_type\": \"{name}\"")));
    let (table, _) = BACKENDS.iter().find(|(_, opens)| known(opens)).expect("a backend for it");
    let library = Library::linked(table).expect("a linked table");
    let options = ModelOptions { path: folder.to_owned(), threads: 2, dtype: Dtype::F32, memory: 1 << 26 };
    Model::open(&library, &options).expect("the model opens")
}

/// The first golden sentence as a chain, every token wanted.
fn chain(folder: &Path) -> Forest {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(folder.join("golden.json")).expect("golden.json"))
            .expect("JSON");
    let ids = golden["sentences"][0]["ids"].as_array().expect("ids");
    let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    let mut forest = Forest::new();
    forest.insert_alone(&ids, &vec![true; ids.len()]);
    forest
}

/// The last of the golden hidden states of the first sentence, where the file has any.
fn last_state(folder: &Path) -> Option<Vec<f32>> {
    let bytes = std::fs::read(folder.join("golden.safetensors")).expect("golden.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("understood");
    let number = |name: &&str| name.strip_prefix("hidden.").and_then(|n| n.parse::<u32>().ok());
    let names = file.names();
    let last = names.iter().filter_map(number).max()?;
    let tensor = file.tensor(&format!("hidden.{last}")).expect("there");
    Some(tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn logits(head: &HeadValues, state: &[f32]) -> Vec<f32> {
    let rows = head.weight.chunks_exact(head.width).enumerate();
    let bias = |token: usize| head.bias.as_ref().map_or(0.0, |bias| f64::from(bias[token]));
    let product =
        |row: &[f32]| row.iter().zip(state).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
    rows.map(|(token, row)| (product(row) + bias(token)) as f32).collect()
}

fn close(name: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours - theirs).abs() < TOLERANCE, "{name}, {at}: {ours}, not {theirs}");
    }
}

#[test]
fn hidden_states_and_the_head_give_the_logits() {
    for name in ["hgrn2", "hgrn2_conv", "llama", "gpt2", "gpt_neox", "opt", "lstm", "mamba", "mamba2"] {
        let folder = golden().join(name);
        let (mut model, forest) = (open(&folder), chain(&folder));
        let head = model.head().expect("a head");
        assert_eq!(head.weight.len(), head.width * model.info().vocab as usize);
        let states = model.hidden(&forest, head.width).expect("states");
        assert_eq!(states.len(), head.width * forest.len());
        let ours: Vec<f32> = states.chunks_exact(head.width).flat_map(|state| logits(&head, state)).collect();
        close(name, &ours, &model.logits(&forest).expect("logits"));
        if let Some(golden) = last_state(&folder) {
            close(name, &states, &golden);
        }
        assert_eq!(head.bias.is_some(), name == "lstm");
    }
}

#[test]
fn a_head_that_caps_its_logits_is_not_handed_out() {
    let error = open(&golden().join("xlstm")).head().expect_err("refused").to_string();
    assert!(error.contains("capped at") && error.contains("use logits"), "{error}");
}
