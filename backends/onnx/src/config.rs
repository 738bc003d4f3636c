//! What an ONNX file does not say of itself, from the `config.json` beside it.

use std::path::Path;

use bheval_abi::Failure;
use serde_json::Value;

/// The settings that are used; each may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// `model_type`.
    pub(crate) model_type: Option<String>,
    /// `max_position_embeddings`, `n_positions` (GPT-2) or `n_ctx`.
    pub(crate) context: Option<u32>,
}

/// Names of the longest input, by architecture.
const CONTEXT: [&str; 3] = ["max_position_embeddings", "n_positions", "n_ctx"];

impl Config {
    /// Reads the `config.json` in the folder of `model`; nothing where there is none.
    pub(crate) fn beside(model: &Path) -> Result<Self, Failure> {
        let path = model.with_file_name("config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::model(format!("{}: can't be read: {e}", path.display()))),
        };
        Self::parse(&bytes).map_err(|reason| Failure::model(format!("{}: {reason}", path.display())))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let keys: Value = bheval_python_json::parse(bytes).map_err(|e| format!("is no JSON: {e}"))?;
        let size = |key: &str| match &keys[key] {
            Value::Null => Ok(None),
            // Some write -1 or a huge number for "no limit"; both are none.
            value => match value.as_i64() {
                Some(n) => Ok(u32::try_from(n).ok().filter(|&n| n > 0)),
                None => Err(format!("`{key}` is {value}, but must be a whole number")),
            },
        };
        let mut context = None;
        for key in CONTEXT {
            context = context.or(size(key)?);
        }
        let model_type = keys["model_type"].as_str().map(str::to_owned);
        Ok(Self { model_type, context })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_by_any_of_their_names() {
        let context = |text: &str| Config::parse(text.as_bytes()).map(|c| c.context);
        assert_eq!(context(r#"{"max_position_embeddings": 256}"#), Ok(Some(256)));
        assert_eq!(context(r#"{"n_positions": 128, "n_ctx": 64}"#), Ok(Some(128)));
        assert_eq!(context(r#"{"n_positions": -1}"#), Ok(None));
        assert_eq!(context("{}"), Ok(None));
        assert!(context(r#"{"n_positions": "many"}"#).is_err_and(|e| e.contains("n_positions")));
        assert!(context("{").is_err());
    }

    #[test]
    fn python_numbers_are_read() {
        let text =
            r#"{"time_step_limit": [0.0, Infinity, -Infinity, NaN], "note": "a \" Infinity", "n_ctx": 7}"#;
        assert_eq!(Config::parse(text.as_bytes()).map(|c| c.context), Ok(Some(7)));
    }
}
