//! The run store's recovery, against a twin that reads the file line by line.

use std::collections::{HashMap, HashSet};
use std::fs;

use bheval_eval::{Identity, Plan, Record, Store};
use serde::Deserialize;

use super::scratch::folder;

/// Opens a run whose records are these bytes, or (first byte 1) whose plan is.
///
/// # Panics
/// Where a record is held whose checksum does not hold, or one is lost whose checksum does.
pub fn records(bytes: &[u8]) {
    match bytes {
        [1, plan @ ..] => damaged_plan(plan),
        [_, records @ ..] => recovered(records),
        [] => {}
    }
}

fn damaged_plan(bytes: &[u8]) {
    let folder = folder("plan");
    fs::write(folder.join("plan.json"), bytes).expect("the temporary folder can be written");
    if let Err(error) = Store::open(&folder, &plan(), false) {
        assert!(!error.to_string().is_empty());
    }
}

fn recovered(bytes: &[u8]) {
    let folder = folder("records");
    fs::write(folder.join("records.jsonl"), bytes).expect("the temporary folder can be written");
    let (expected, keys) = twin(bytes);
    let holds = |store: &Store| keys.iter().all(|key| store.get(key) == expected.get(key).copied());
    let mut store = Store::open(&folder, &plan(), false).expect("a run with damaged records opens");
    assert!(holds(&store), "the records differ from those whose checksum holds");

    let next = ("ffff".to_owned(), Record { log_prob: -0.1, tokens: 3 });
    store.append(std::slice::from_ref(&next)).expect("the temporary folder can be written");
    drop(store);
    let store = Store::open(&folder, &plan(), false).expect("a recovered run opens");
    assert_eq!(store.dropped(), 0, "recovery left damaged lines, or what was appended joined one");
    assert_eq!(store.get("ffff"), Some(next.1));
    assert!(keys.contains("ffff") || holds(&store), "recovery lost records");
}

#[derive(Deserialize)]
struct Line {
    key: String,
    log_prob: f64,
    tokens: u32,
    crc: String,
}

/// The records that hold, the last of each key, and the keys of all lines that can be read.
fn twin(bytes: &[u8]) -> (HashMap<String, Record>, HashSet<String>) {
    let lines =
        bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    let mut known = HashMap::new();
    let mut keys = HashSet::new();
    for line in lines {
        let checked =
            [line.key.as_bytes(), &line.log_prob.to_bits().to_le_bytes(), &line.tokens.to_le_bytes()];
        if line.crc == format!("{:08x}", crc32fast::hash(&checked.concat())) {
            known.insert(line.key.clone(), Record { log_prob: line.log_prob, tokens: line.tokens });
        }
        keys.insert(line.key);
    }
    (known, keys)
}

fn plan() -> Plan {
    let text = || "x".to_owned();
    let identity = Identity {
        format: 1,
        bheval: text(),
        model: text(),
        tokenizer: text(),
        backend: text(),
        dtype: text(),
        route: text(),
        pll: None,
        protocol: text(),
        tasks: vec![],
    };
    Plan {
        key: identity.key(),
        identity,
        model_path: text(),
        architecture: text(),
        parameters: 1,
        prefix: None,
        first_token_scored: false,
    }
}
