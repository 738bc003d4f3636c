//! Bad input: one clear error with what, where and what to try, and the right exit code.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

use crate::kit::{Bheval, json, model};

/// Changes the values of an f32 file, tensor by tensor.
pub(crate) fn rewrite(path: &Path, mut change: impl FnMut(&str, &mut Vec<f32>)) {
    let bytes = std::fs::read(path).expect("read");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let mut values: Vec<f32> =
            view.data().chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        change(&name, &mut values);
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.insert(name, (view.shape().to_vec(), raw));
    }
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(n, (s, r))| (n.as_str(), TensorView::new(Dtype::F32, s.clone(), r).expect("a view")))
        .collect();
    serialize_to_file(views, None, path).expect("written");
}

/// Runs the demo with a model that `damage` had its way with.
fn damaged(damage: impl FnOnce(&Path), parts: &[&str]) {
    let bheval = Bheval::new();
    let copy = bheval.copy_of("hgrn2");
    damage(&copy);
    let args = ["--model", copy.to_str().expect("UTF-8"), "--tasks", "demo", "--run-dir", "run"];
    bheval.run(&args).refused(2, parts);
    assert!(!bheval.path("run").exists(), "nothing was begun, so nothing is left behind");
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join("config.json");
    let mut config = json(&path);
    edit(config.as_object_mut().expect("an object"));
    std::fs::write(path, config.to_string()).expect("written");
}

#[test]
fn truncated_weights() {
    for share in [0, 3, 40, 99] {
        damaged(
            |folder| {
                let path = folder.join("model.safetensors");
                let bytes = std::fs::read(&path).expect("read");
                std::fs::write(path, &bytes[..bytes.len() * share / 100]).expect("written");
            },
            &["model.safetensors"],
        );
    }
}

#[test]
fn missing_weights() {
    damaged(
        |folder| std::fs::remove_file(folder.join("model.safetensors")).expect("removed"),
        &["model.safetensors"],
    );
}

#[test]
fn weights_with_a_nan() {
    let spoil = |name: &str, values: &mut Vec<f32>| {
        if name == "model.layers.1.attn.q_proj.weight" {
            values[3] = f32::NAN;
        }
    };
    damaged(
        |folder| rewrite(&folder.join("model.safetensors"), spoil),
        &["model.layers.1.attn.q_proj.weight"],
    );
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    damaged(
        |folder| edit_config(folder, |c| drop(c.insert("vocab_size".into(), 512.into()))),
        &["512", "768", "embeddings"],
    );
}

#[test]
fn a_config_without_a_key() {
    damaged(
        |folder| edit_config(folder, |c| drop(c.remove("num_hidden_layers"))),
        &["num_hidden_layers", "config.json"],
    );
}

#[test]
fn a_config_that_is_no_json() {
    damaged(
        |folder| std::fs::write(folder.join("config.json"), "{\"model_type\": ").expect("written"),
        &["config.json"],
    );
}

#[test]
fn an_unknown_architecture() {
    let rename = |folder: &Path| edit_config(folder, |c| drop(c.insert("model_type".into(), "gru".into())));
    damaged(rename, &["`gru`", "linked are: hgrn2"]);
    let bheval = Bheval::new();
    let copy = bheval.copy_of("hgrn2");
    rename(&copy);
    let args = ["--model", copy.to_str().expect("UTF-8"), "--tasks", "demo", "--backend", "hgrn2"];
    bheval.run(&args).refused(2, &["gru", "hgrn2"]);
}

#[test]
fn no_tokenizer_or_a_broken_one() {
    damaged(
        |folder| std::fs::remove_file(folder.join("tokenizer.json")).expect("removed"),
        &["tokenizer.json", "--tokenizer"],
    );
    damaged(
        |folder| std::fs::write(folder.join("tokenizer.json"), "{}").expect("written"),
        &["tokenizer.json"],
    );
}

#[test]
fn a_tokenizer_that_is_larger_than_the_model() {
    let bheval = Bheval::new();
    let copy = bheval.copy_of("hgrn2");
    let mut tokenizer = json(&copy.join("tokenizer.json"));
    tokenizer["model"]["vocab"]["▁the"] = 5000.into();
    std::fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let args = ["--model", copy.to_str().expect("UTF-8"), "--tasks", "demo"];
    bheval.run(&args).refused(2, &["5000", "768", "demo_pairs/"]);
}

#[test]
fn no_model_at_all() {
    let bheval = Bheval::new();
    bheval.run(&["--model", "nowhere", "--tasks", "demo"]).refused(2, &["nowhere", "--model takes a folder"]);
}

#[test]
fn an_unknown_task_subset_or_protocol() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "blmp"]).refused(2, &["no task `blmp`", "blimp"]);
    bheval.eval("run", &["--tasks", "blimp/nothing"]).refused(2, &["`nothing`", "adjunct_island"]);
    bheval
        .eval("run", &["--tasks", "demo", "--protocol", "mine"])
        .refused(2, &["unknown protocol `mine`", "babylm2024"]);
}

#[test]
fn missing_data_offline_says_where_it_looked_and_what_to_do() {
    let bheval = Bheval::new();
    let path = model("hgrn2");
    let args = ["--model", path.to_str().expect("UTF-8"), "--tasks", "blimp", "--offline"];
    let ran = bheval.command().env("BHEVAL_DATA", bheval.path("empty")).args(args).output().expect("starts");
    crate::kit::ran(&ran).refused(2, &["blimp", "empty", "cache", "bheval data fetch blimp"]);
}

#[test]
fn changed_data_is_refused() {
    let bheval = Bheval::new();
    let source = bheval_tests::data().join("babylm-eval/fast_eval/supplement_fast");
    for entry in std::fs::read_dir(source).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        let mut bytes = std::fs::read(&path).expect("read");
        if name == "turn_taking.jsonl" {
            bytes[20] ^= 1;
        }
        bheval.write(&format!("data/babylm-eval/fast_eval/supplement_fast/{name}"), bytes);
    }
    let ran = bheval.eval("run", &["--tasks", "supplement_fast", "--data", "data"]);
    ran.refused(2, &["turn_taking.jsonl"]);
}

#[test]
fn a_run_folder_that_cannot_be_written() {
    let bheval = Bheval::new();
    bheval.write("file", "");
    bheval.eval("file/run", &["--tasks", "demo"]).refused(2, &["file/run"]);
}

#[test]
fn activations_that_overflow_fail_their_items_and_are_never_scores() {
    let bheval = Bheval::new();
    let copy = bheval.copy_of("hgrn2");
    // Finite weights whose products are not: the head overflows.
    rewrite(&copy.join("model.safetensors"), |name, values| {
        if name == "lm_head.weight" {
            values.iter_mut().for_each(|v| *v = 3e38_f32.copysign(*v));
        }
    });
    let args = ["--model", copy.to_str().expect("UTF-8"), "--tasks", "demo_pairs", "--run-dir", "run"];
    let ran = bheval.run(&args);
    ran.refused(1, &["have no score", "demo_pairs/demo_"]);
    assert!(ran.stdout.contains("failed"), "{}", ran.stdout);
    let results = json(&bheval.path("run/results.json"));
    assert!(results["results"]["demo_pairs"]["acc"].is_null());
    assert_eq!(results["failed_items"], 300);
}
