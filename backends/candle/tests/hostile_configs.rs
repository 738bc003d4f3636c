//! Every key of every architecture's `config.json`, set to values that no model has: the model opens and scores, or is
//! refused in words. Nothing panics, and nothing is allocated on a number's word alone.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use bheval_abi::MaskedView;
use serde_json::{Value, json};
use support::{Opened, OwnedForest, golden, options, try_open};

/// Tiny checkpoints, one or more an architecture.
fn models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let own = fs::read_dir(folder).expect("tests/golden").map(|e| e.expect("an entry").path());
    let mut all: Vec<PathBuf> = own.filter(|p| p.join("config.json").is_file()).collect();
    assert!(all.len() >= 13, "{all:?}");
    all.extend([golden("lstm"), golden("hgrn2_conv")]);
    all
}

fn hostile() -> [Value; 14] {
    [
        Value::Null,
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(7.5),
        json!(1e300),
        json!(2_147_483_647),
        json!(u64::MAX),
        json!(""),
        json!("gelu"),
        json!(true),
        json!([1, 2]),
        json!({"rope_type": "yarn", "factor": 1e30, "rope_theta": 1}),
    ]
}

/// Scores a few tokens, if the model lets itself be asked; what it says is finite then.
fn ask(model: &mut Opened) {
    let mut forest = OwnedForest::default();
    forest.chain(&[3, 5, 4, 6, 3]);
    let mut log_prob = vec![f32::NAN; 5];
    if model.score(forest.view(), &mut log_prob).is_ok() {
        assert!(log_prob[1..].iter().all(|l| l.is_finite()));
    }
    let view = MaskedView::new(&[3, 5, 4], &[0, 3], &[1], &[5]).expect("well formed");
    let mut log_prob = [f32::NAN];
    if model.masked(view, &mut log_prob).is_ok() {
        assert!(log_prob[0].is_finite());
    }
}

#[test]
fn no_value_of_any_key_is_fatal() {
    let (mut opened, mut refused) = (0, 0);
    for model in models() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(model.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
        let text = fs::read_to_string(model.join("config.json")).expect("config.json");
        let config: Value = serde_json::from_str(&text.replace("Infinity", "null")).expect("JSON");
        let keys: Vec<String> = config.as_object().expect("an object").keys().cloned().collect();
        // What asks for another family is another model's test.
        for key in keys.iter().filter(|k| *k != "model_type") {
            for value in hostile() {
                let mut changed = config.clone();
                changed[key] = value;
                fs::write(folder.path().join("config.json"), changed.to_string()).expect("written");
                match try_open(&options(folder.path(), 1)) {
                    Ok(mut model) => {
                        opened += 1;
                        ask(&mut model);
                    }
                    Err(failure) => {
                        refused += 1;
                        assert!(
                            failure.text.contains("config.json") || failure.text.contains("safetensors"),
                            "{failure}"
                        );
                    }
                }
            }
        }
    }
    // Both happen, or the test tests nothing.
    assert!(opened > 1000 && refused > 1000, "{opened} opened, {refused} refused");
}
