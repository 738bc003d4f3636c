//! HGRN2's `config.json`, checked: every key that changes results, with the defaults of flash-linear-attention.
//!
//! What this backend can't compute is refused here, by name, before a weight is read.

use std::path::{Path, PathBuf};

use bheval_abi::Failure;
use serde_json::Value;

use crate::keys::Keys;

/// The architectures that this backend knows, as `model_type` spells them.
pub const KNOWN: [&str; 1] = ["hgrn2"];

/// ε of `g_norm` in files saved since November 2024, whatever their `norm_eps` (architectures.md 1.9).
pub const G_NORM_EPS_SINCE_2024: f64 = 1e-5;

/// Sizes and switches of an HGRN2 model.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Where it was read, for error messages.
    pub file: PathBuf,
    /// `D`
    pub hidden_size: usize,
    /// `L`
    pub layers: usize,
    /// Number of heads; each has `head_dim` keys and as many values.
    pub heads: usize,
    /// `K = V = D / heads`
    pub head_dim: usize,
    /// Vocabulary, padding rows included.
    pub vocab: usize,
    /// MLP width `I` where the file states it; else the weights decide.
    pub intermediate_size: Option<usize>,
    /// Width of the MLP over that of the model, before it is rounded; see [`Config::intermediate_size`].
    pub hidden_ratio: f64,
    /// Taps of the short convolutions, or `None` where there are none.
    pub conv_size: Option<usize>,
    /// Whether `model.lower_bounds` bounds the forget gates from below.
    pub use_lower_bound: bool,
    /// Whether `g_norm` has weights.
    pub elementwise_affine: bool,
    /// ε of `attn_norm`, `mlp_norm` and the final norm.
    pub norm_eps: f64,
    /// ε of `g_norm` where the file states it; else the layout of the MLP decides.
    pub g_norm_eps: Option<f64>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// The key that is missing, of the wrong kind or not supported, with what was found.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        Self::from_keys(&Keys::read(file)?)
    }

    /// Checks the keys of a file.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_keys(keys: &Keys<'_>) -> Result<Self, Failure> {
        keys.config()
    }

    /// The MLP's width `I` by the rule of flash-linear-attention, where neither the file nor weights state it: two thirds
    /// of `hidden_ratio · D`, rounded up to a multiple of 256.
    #[must_use]
    pub fn intermediate_size(&self) -> usize {
        let by_ratio = || {
            let wide = (self.hidden_size as f64 * self.hidden_ratio * 2.0 / 3.0) as usize;
            wide.next_multiple_of(256)
        };
        self.intermediate_size.unwrap_or_else(by_ratio)
    }
}

impl Keys<'_> {
    fn config(&self) -> Result<Config, Failure> {
        self.refuse_unknown_architecture()?;
        let hidden_size = self.required("hidden_size")?;
        let (heads, head_dim) = self.heads(hidden_size)?;
        let conv = self.switch("use_short_conv", false)?;
        Ok(Config {
            file: self.file.to_owned(),
            hidden_size,
            layers: self.required("num_hidden_layers")?,
            heads,
            head_dim,
            vocab: self.required("vocab_size")?,
            intermediate_size: self.size("intermediate_size")?,
            hidden_ratio: self.ratio()?,
            conv_size: if conv { Some(self.size("conv_size")?.unwrap_or(4)) } else { None },
            use_lower_bound: self.switch("use_lower_bound", true)?,
            elementwise_affine: self.switch("elementwise_affine", true)?,
            norm_eps: self.epsilon("norm_eps")?.unwrap_or(1e-6),
            g_norm_eps: self.epsilon("g_norm_eps")?,
            tie_word_embeddings: self.switch("tie_word_embeddings", false)?,
        })
    }

    fn ratio(&self) -> Result<f64, Failure> {
        let ratio = |v: &Value| v.as_f64().filter(|r| (1e-3..=1e3).contains(r));
        Ok(self.of_kind("hidden_ratio", "a number from 0.001 to 1000", ratio)?.unwrap_or(4.0))
    }

    /// `expand_ratio` is the head's size and decides; `num_heads` only where it is null.
    fn heads(&self, hidden_size: usize) -> Result<(usize, usize), Failure> {
        let expand = match (self.keys.contains_key("expand_ratio"), self.size("expand_ratio")?) {
            (true, None) => None,
            (_, given) => Some(given.unwrap_or(128)),
        };
        let (key, value) = match (expand, self.size("num_heads")?) {
            (Some(expand), _) => ("expand_ratio", expand),
            (None, Some(heads)) => ("num_heads", heads),
            (None, None) => return Err(self.wrong("neither `expand_ratio` nor `num_heads` is given")),
        };
        if !hidden_size.is_multiple_of(value) {
            return Err(
                self.wrong(&format!("`hidden_size` {hidden_size} is not a multiple of `{key}` {value}"))
            );
        }
        let other = hidden_size / value;
        Ok(if key == "expand_ratio" { (other, value) } else { (value, other) })
    }

    fn refuse_unknown_architecture(&self) -> Result<(), Failure> {
        self.model_type(&KNOWN)?;
        if self.get("attn").is_some() {
            return Err(self.unsupported(
                "`attn` asks for softmax attention in some layers, and only pure HGRN2 is implemented",
            ));
        }
        if self.get("attnres_block_size").is_some() {
            return Err(self.unsupported(
                "`attnres_block_size` asks for attention residuals, which are not implemented",
            ));
        }
        match self.get("hidden_act") {
            None => Ok(()),
            Some(Value::String(act)) if act == "swish" || act == "silu" => Ok(()),
            Some(found) => {
                Err(self.unsupported(&format!("`hidden_act` is {found}; swish (silu) is implemented")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(change: Value) -> Result<Config, Failure> {
        let mut keys = json!({"model_type": "hgrn2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
            "expand_ratio": 16});
        for (key, value) in change.as_object().expect("an object") {
            keys[key] = value.clone();
        }
        Keys { file: Path::new("m/config.json"), keys: keys.as_object().expect("an object").clone() }.config()
    }

    fn refused(change: Value, essentials: &[&str]) {
        let text = read(change).expect_err("should be refused").text;
        for part in ["m/config.json"].iter().chain(essentials) {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_flash_linear_attention() {
        let c = read(json!({"expand_ratio": null, "num_heads": 4})).expect("well formed");
        assert_eq!((c.heads, c.head_dim, c.norm_eps, c.g_norm_eps), (4, 16, 1e-6, None));
        assert!(c.use_lower_bound && c.elementwise_affine && !c.tie_word_embeddings && c.conv_size.is_none());
        assert_eq!(read(json!({"use_short_conv": true})).expect("well formed").conv_size, Some(4));
    }

    #[test]
    fn expand_ratio_wins_over_num_heads() {
        let c = read(json!({"expand_ratio": 8, "num_heads": 4})).expect("well formed");
        assert_eq!((c.heads, c.head_dim), (8, 8));
        let c =
            Keys { file: Path::new("x"), keys: json!({"num_heads": 4}).as_object().expect("object").clone() };
        assert_eq!(c.heads(256), Ok((2, 128)), "an absent expand_ratio is 128");
    }

    /// The widths that architectures.md 1.9 lists.
    #[test]
    fn the_mlp_has_the_width_of_flash_linear_attention() {
        for (hidden, inner) in [(256, 768), (384, 1024), (512, 1536), (768, 2048), (1024, 2816), (2048, 5632)]
        {
            let c = read(json!({"hidden_size": hidden})).expect("well formed");
            assert_eq!(c.intermediate_size(), inner);
        }
        assert_eq!(read(json!({"intermediate_size": 100})).expect("well formed").intermediate_size(), 100);
        assert_eq!(
            read(json!({"hidden_ratio": null, "hidden_size": 512})).expect("well formed").intermediate_size(),
            1536
        );
        refused(json!({"hidden_ratio": -1}), &["hidden_ratio", "-1"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for key in ["hidden_size", "num_hidden_layers", "vocab_size", "model_type"] {
            refused(json!({key: null}), &[key, "missing"]);
        }
        refused(json!({"expand_ratio": null}), &["expand_ratio", "num_heads"]);
    }

    #[test]
    fn what_is_not_implemented_is_refused_with_a_reason() {
        refused(json!({"model_type": "mamba"}), &["mamba", "hgrn2"]);
        refused(json!({"attn": {"layers": [1]}}), &["attn", "attention"]);
        refused(json!({"attnres_block_size": 4}), &["attnres_block_size"]);
        refused(json!({"hidden_act": "gelu"}), &["hidden_act", "gelu", "swish"]);
    }

    #[test]
    fn wrong_values_are_quoted() {
        refused(json!({"hidden_size": "64"}), &["hidden_size", "\"64\"", "whole number"]);
        refused(json!({"num_hidden_layers": 0}), &["num_hidden_layers", "0"]);
        refused(json!({"expand_ratio": 48}), &["64", "expand_ratio", "48"]);
        refused(json!({"norm_eps": -1.0}), &["norm_eps"]);
        refused(json!({"use_lower_bound": 1}), &["use_lower_bound", "true or false"]);
    }
}
