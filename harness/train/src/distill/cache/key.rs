//! What decides the content of a cache.

use bheval_corpus::Split;
use bheval_data::digest::sha256_hex;
use serde_json::{Map, Value, json};

use crate::distill::{CacheKind, DistillPlan, Error, TeacherFiles};

/// The training text, as its windows are cut.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its tokens.
    pub split: &'a Split,
    /// SHA-256 of the corpus.
    pub sha256: &'a str,
    /// Inputs of a window.
    pub steps: usize,
    /// Whether window `i` begins at `i * steps` in every epoch.
    pub fixed: bool,
}

impl Text<'_> {
    /// Windows of the text.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.split.len().saturating_sub(1) / self.steps.max(1) as u64
    }
}

/// All that decides the content of a cache: the teachers' files and backends, the text and its windows, and what is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    value: Value,
    windows: u64,
    steps: usize,
    vocab: usize,
}

impl Key {
    /// The key of what a plan keeps, for a student of `vocab` tokens.
    ///
    /// # Errors
    /// A plan that keeps nothing, and windows that begin elsewhere in each epoch: what is kept would never be met again.
    pub fn new(
        plan: &DistillPlan,
        teachers: &[TeacherFiles],
        text: &Text<'_>,
        vocab: usize,
    ) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Plan { reason: reason.to_owned() };
        if plan.cache == CacheKind::None {
            return Err(wrong("cache is \"none\", so there is nothing to keep"));
        }
        if !text.fixed {
            return Err(wrong(
                "a cache holds the windows of one cutting of the text, and data.offset cuts it anew in each epoch; set \
                 data.offset = \"none\", or cache = \"none\"",
            ));
        }
        let teachers: Vec<Value> =
            teachers.iter().map(|t| json!({"sha256": t.sha256, "backend": t.backend})).collect();
        let (windows, steps) = (text.windows(), text.steps);
        let value = json!({
            "teachers": teachers, "corpus": text.sha256, "split": "train", "steps": steps, "windows": windows,
            "vocab": vocab, "kept": plan.cached(),
        });
        Ok(Self { value, windows, steps, vocab })
    }

    /// Its file's name: equal keys have equal names, and other ones another.
    #[must_use]
    pub fn file_name(&self) -> String {
        let digest = sha256_hex(self.value.to_string().as_bytes());
        format!("teachers-{}.cache", &digest[..16])
    }

    /// As JSON.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Windows, steps and the student's vocabulary.
    pub(super) fn sizes(&self) -> (u64, usize, usize) {
        (self.windows, self.steps, self.vocab)
    }

    /// Names the first point in which a stored key differs.
    pub(super) fn check(&self, stored: &Value) -> Result<(), String> {
        if *stored == self.value {
            return Ok(());
        }
        let none = Map::new();
        let (ours, theirs) = (self.value.as_object().unwrap_or(&none), stored.as_object().unwrap_or(&none));
        let differs = |key: &&String| ours.get(*key) != theirs.get(*key);
        let key = ours.keys().chain(theirs.keys()).find(differs).map_or("its key", String::as_str);
        let text = |map: &Map<String, Value>| map.get(key).map_or("nothing".to_owned(), Value::to_string);
        Err(format!("it was made with {key} = {}, and {} is asked for", text(theirs), text(ours)))
    }
}
