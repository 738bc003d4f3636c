//! `config.json` beside a model: what it is, and from what it was made. Scoring needs nothing of it; what it shares with
//! the model's file must agree with that.

use std::fs;
use std::path::Path;

use bheval_abi::{Failure, Status};
use serde_json::{Map, Value};

use crate::file::Stored;

/// Name of the model's file in its folder.
pub const MODEL_FILE: &str = "model.ngram";
/// Name of this file in a model's folder.
pub const CONFIG_FILE: &str = "config.json";
/// The architecture, as `model_type` spells it.
pub const MODEL_TYPE: &str = "ngram";

/// The keys that a reader goes by, and the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `vocab_size`
    pub vocab: u32,
    /// `order`
    pub order: u32,
    /// `checksum` of [`MODEL_FILE`]
    pub checksum: String,
    /// Keys for people and for other programs: ids of special tokens, where the model comes from.
    pub more: Map<String, Value>,
}

impl Config {
    /// The object that is stored.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut keys = Map::new();
        keys.insert("model_type".into(), MODEL_TYPE.into());
        keys.insert("vocab_size".into(), self.vocab.into());
        keys.insert("order".into(), self.order.into());
        keys.insert("checksum".into(), self.checksum.clone().into());
        keys.extend(self.more.clone());
        Value::Object(keys)
    }

    /// Reads the file of a model's folder.
    ///
    /// # Errors
    /// A file that is missing, no JSON, of another architecture, or without a key.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(CONFIG_FILE);
        let wrong = |what: String| Failure::model(format!("{}: {what}", path.display()));
        let text = fs::read_to_string(&path)
            .map_err(|e| wrong(format!("{e}; is this a folder that `bheval train-ngram` wrote?")))?;
        let mut more: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("not a JSON object: {e}; copy the file again")))?;
        match more.remove("model_type") {
            Some(Value::String(found)) if found == MODEL_TYPE => {}
            Some(found) => {
                return Err(Failure::new(
                    Status::UNSUPPORTED,
                    format!(
                        "{}: `model_type` is {found}, but this backend knows: {MODEL_TYPE}",
                        path.display()
                    ),
                ));
            }
            None => {
                return Err(wrong(format!("the required key `model_type` is missing (known: {MODEL_TYPE})")));
            }
        }
        let mut take = |key: &str, kind: &str| {
            more.remove(key)
                .ok_or_else(|| wrong(format!("the required key `{key}` is missing; it must be {kind}")))
        };
        let whole = |key: &str, value: Value| {
            let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
            number.ok_or_else(|| wrong(format!("`{key}` is {value}, but must be a whole number")))
        };
        let vocab = whole("vocab_size", take("vocab_size", "a whole number")?)?;
        let order = whole("order", take("order", "a whole number")?)?;
        let checksum = match take("checksum", "a text")? {
            Value::String(text) => text,
            found => return Err(wrong(format!("`checksum` is {found}, but must be a text"))),
        };
        Ok(Self { vocab, order, checksum, more })
    }

    /// Refuses a model's file that this does not belong to.
    ///
    /// # Errors
    /// The key in which they differ.
    pub fn check(&self, folder: &Path, stored: &Stored) -> Result<(), Failure> {
        let differ = |key: &str, here: &str, there: &str| {
            Failure::model(format!(
                "{}: `{key}` is {here} in {CONFIG_FILE} and {there} in {MODEL_FILE}: the files belong to different models; \
                 copy both again",
                folder.display()
            ))
        };
        for (key, here, there) in
            [("vocab_size", self.vocab, stored.model.vocab()), ("order", self.order, stored.model.order())]
        {
            if here != there {
                return Err(differ(key, &here.to_string(), &there.to_string()));
            }
        }
        if self.checksum != stored.checksum {
            return Err(differ("checksum", &self.checksum, &stored.checksum));
        }
        Ok(())
    }
}
