//! What of a plan decides the weights: a checkpoint goes on under the same identity only.

use std::collections::BTreeMap;

use bheval_data::digest::sha256_hex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Plan;
use crate::error::Difference;

/// Every key that decides the weights of some step, with its value as JSON. Threads are none of them, nor is when checkpoints
/// are written or which tasks are run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(BTreeMap<String, String>);

impl Identity {
    /// The identity of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut keys = BTreeMap::new();
        let train = &plan.train;
        let deciding = json!({
            "model": plan.model,
            "data": {
                "corpus": plan.data.corpus_sha256, "sequence_length": plan.data.sequence_length, "offset": plan.data.offset,
            },
            "optimizer": plan.optimizer,
            "schedule": plan.schedule,
            "train": {
                "batch": train.batch, "micro_batch": train.micro_batch, "windows": train.windows, "seed": train.seed,
                "precision": train.precision, "initialise": train.initialise.as_ref().map(|i| &i.sha256),
            },
            "evaluate": {
                "every_steps": plan.evaluate.every_steps, "tokens": plan.evaluate.tokens,
                "patience": plan.evaluate.patience, "min_improvement": plan.evaluate.min_improvement,
            },
            "distill": plan.distill.as_ref().map(without_places),
        });
        flatten("", &deciding, &mut keys);
        Self(keys)
    }

    /// Adds what a key stands for, such as the digest of a teacher's files.
    #[must_use]
    pub fn with(mut self, key: &str, value: &Value) -> Self {
        flatten(key, value, &mut self.0);
        self
    }

    /// SHA-256 over all of it.
    #[must_use]
    pub fn digest(&self) -> String {
        sha256_hex(serde_json::to_string(&self.0).expect("a map of texts is always JSON").as_bytes())
    }

    /// The points in which a plan that is asked for differs from this one.
    #[must_use]
    pub fn differences(&self, asked: &Self) -> Vec<Difference> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(asked.0.keys()).collect();
        let difference = |key: &String| {
            let (stored, asked) = (self.0.get(key).cloned(), asked.0.get(key).cloned());
            (stored != asked).then(|| Difference { key: key.clone(), stored, asked })
        };
        keys.into_iter().filter_map(difference).collect()
    }
}

/// `[distill]` without the keys that say where something is kept.
fn without_places(table: &Map<String, Value>) -> Map<String, Value> {
    let mut table = table.clone();
    table.remove("cache_dir");
    table
}

fn flatten(key: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => (),
        Value::Object(inner) => {
            for (name, value) in inner {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, into);
            }
        }
        other => drop(into.insert(key.to_owned(), other.to_string())),
    }
}
