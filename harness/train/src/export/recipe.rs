//! A resolved plan as a file that `bheval train` takes: the same keys give the same weights.

use serde_json::{Map, Value};

/// The plan as TOML, without the corpus, which `--corpus` names. `per_epoch` are the windows of an epoch.
pub(super) fn toml(plan: &Value, per_epoch: Option<u64>) -> String {
    let mut text = String::new();
    for section in ["model", "data", "optimizer", "schedule", "train", "checkpoint", "evaluate", "distill"] {
        let Some(keys) = plan[section].as_object() else { continue };
        let keys = match section {
            "data" => without(keys, &["corpus", "corpus_sha256"]),
            "optimizer" => zero(keys, &["clip"]),
            "schedule" => schedule(keys),
            "train" => train(keys, per_epoch),
            "checkpoint" => zero(keys, &["every_steps", "every_words"]),
            "evaluate" => zero(keys, &["every_steps", "tokens", "patience", "limit"]),
            _ => without(keys, &[]),
        };
        text += &format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" });
        for (key, value) in keys.iter().filter(|(_, value)| !value.is_null()) {
            text += &format!("{} = {}\n", bare(key), inline(value));
        }
    }
    text
}

fn without(keys: &Map<String, Value>, gone: &[&str]) -> Map<String, Value> {
    keys.iter()
        .filter(|(key, _)| !gone.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Keys for which nothing stands for never: 0 says so even where the default is another.
fn zero(keys: &Map<String, Value>, never: &[&str]) -> Map<String, Value> {
    let mut keys = keys.clone();
    for key in never {
        keys.entry(*key).and_modify(|value| {
            if value.is_null() {
                *value = 0.into()
            }
        });
    }
    keys
}

/// Lengths in steps as the shares that they are typed as.
fn schedule(keys: &Map<String, Value>) -> Map<String, Value> {
    let mut typed = without(keys, &["total_steps", "decay_steps", "decay"]);
    if keys["shape"] == "wsd" {
        let steps = |key: &str| keys[key].as_f64().unwrap_or(0.0);
        typed.insert("decay".to_owned(), keys["decay"].clone());
        typed.insert("decay_share".to_owned(), (steps("decay_steps") / steps("total_steps")).into());
    }
    typed
}

fn train(keys: &Map<String, Value>, per_epoch: Option<u64>) -> Map<String, Value> {
    let mut typed = without(keys, &["windows", "steps", "initialise"]);
    let number = |key: &str| keys[key].as_u64().unwrap_or(0);
    match per_epoch {
        // The last step is short of a batch: so many epochs, rounded up to windows.
        Some(per_epoch) if number("steps") * number("batch") != number("windows") => {
            typed.insert("epochs".to_owned(), ((number("windows") as f64 - 0.5) / per_epoch as f64).into());
        }
        _ => drop(typed.insert("steps".to_owned(), keys["steps"].clone())),
    }
    if let Some(from) = keys.get("initialise").and_then(|from| from["path"].as_str()) {
        typed.insert("initialise".to_owned(), from.into());
    }
    typed
}

/// A key as it may stand in front of `=`.
fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain { key.to_owned() } else { Value::from(key).to_string() }
}

/// A value on one line. JSON's strings, numbers, lists and switches are TOML's; a fraction that is whole keeps
/// its point.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(keys) => {
            let entries = keys.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<String> = entries.map(|(k, v)| format!("{} = {}", bare(k), inline(v))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Null => "\"\"".to_owned(),
        other => other.to_string(),
    }
}
