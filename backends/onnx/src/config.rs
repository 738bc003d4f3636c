//! What an ONNX file does not say of itself, from the `config.json` beside it.

use std::path::{Path, PathBuf};

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
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return match above(model) {
                    Some(config) => Err(Failure::model(misplaced(&path, &config))),
                    None => Ok(Self::default()),
                };
            }
            Err(e) => return Err(Failure::model(format!("{}: can't be read: {e}", path.display()))),
        };
        Self::parse(&bytes).map_err(|reason| Failure::model(format!("{}: {reason}", path.display())))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let keys: Value = bheval_python_json::parse(bytes).map_err(|e| format!("is no JSON: {e}"))?;
        let size = |key: &str| match &keys[key] {
            Value::Null => Ok(None),
            value => limit(value).ok_or_else(|| format!("`{key}` is {value}, but must be a whole number")),
        };
        let mut context = None;
        for key in CONTEXT {
            context = context.or(size(key)?);
        }
        let model_type = keys["model_type"].as_str().map(str::to_owned);
        Ok(Self { model_type, context })
    }
}

/// A limit as a whole number, where it is one. Some write -1, or a huge number such as Python's `int(1e30)`, which is read
/// as a float, for "no limit"; both are none.
fn limit(value: &Value) -> Option<Option<u32>> {
    let is_whole = value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|x| x >= 2.0_f64.powi(63));
    is_whole.then(|| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0))
}

/// The `config.json` of a repository that keeps its export in a folder `onnx`, as those of the Hub do.
fn above(model: &Path) -> Option<PathBuf> {
    let model = std::path::absolute(model).ok()?;
    let folder = model.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "onnx"))?;
    let config = folder.parent()?.join("config.json");
    config.is_file().then_some(config)
}

/// A run's digest covers the files of the model's own folder only, so that nothing is read from elsewhere; without the
/// file a limit would be missed.
fn misplaced(path: &Path, config: &Path) -> String {
    format!(
        "{} is missing, and {} stands one folder above, where it is not read; copy it beside the ONNX file, with the \
         tokenizer's files (or name the tokenizer's folder with --tokenizer)",
        path.display(),
        config.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_of_the_folder_above_is_asked_for_and_not_read() {
        let repository = tempfile::tempdir().expect("a folder");
        let folder = repository.path().join("onnx");
        std::fs::create_dir(&folder).expect("a folder");
        let model = folder.join("model.onnx");
        assert_eq!(Config::beside(&model).ok(), Some(Config::default()));
        std::fs::write(repository.path().join("config.json"), r#"{"n_ctx": 7}"#).expect("written");
        let refused = Config::beside(&model).expect_err("it is elsewhere").to_string();
        assert!(refused.contains("one folder above") && refused.contains("copy it beside"), "{refused}");
        std::fs::copy(repository.path().join("config.json"), folder.join("config.json")).expect("copied");
        assert_eq!(Config::beside(&model).ok().and_then(|c| c.context), Some(7));
        // A folder of any other name is a model of its own.
        let other = repository.path().join("mine");
        assert_eq!(Config::beside(&other.join("model.onnx")).ok(), Some(Config::default()));
    }

    #[test]
    fn limits_by_any_of_their_names() {
        let context = |text: &str| Config::parse(text.as_bytes()).map(|c| c.context);
        assert_eq!(context(r#"{"max_position_embeddings": 256}"#), Ok(Some(256)));
        assert_eq!(context(r#"{"n_positions": 128, "n_ctx": 64}"#), Ok(Some(128)));
        assert_eq!(context(r#"{"n_positions": -1}"#), Ok(None));
        assert_eq!(context("{}"), Ok(None));
        // `int(1e30)`, as transformers writes it, and the first number beyond 64 bits.
        assert_eq!(context(r#"{"n_ctx": 1000000000000000019884624838656}"#), Ok(None));
        assert_eq!(context(r#"{"n_ctx": 18446744073709551616}"#), Ok(None));
        assert_eq!(context(r#"{"n_ctx": 9223372036854775808}"#), Ok(None));
        for bad in ["128.5", "128.0", "-1e30", "true"] {
            let refused = context(&format!(r#"{{"n_ctx": {bad}}}"#));
            assert!(refused.is_err_and(|e| e.contains("whole number")), "{bad}");
        }
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
