//! What Mamba and Mamba-2 have in common: the keys of their three dialects, and the frame around their mixers.
//!
//! The dialects are those of transformers, of flash-linear-attention, and of the original package, whose `config.json` has
//! `d_model` and `ssm_cfg` and names no `model_type`.

use bheval_abi::Failure;
use candle_core::Tensor;
use serde_json::{Value, json};

use crate::keys::Keys;
use crate::loader::Loader;

/// Sizes and switches of either architecture.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// Tokens; in the original package's files with the padding that it adds.
    pub vocab: usize,
    /// `D`, columns of the residual stream.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// `D_in`, columns inside a mixer.
    pub inner: usize,
    /// Tokens that the convolution sees.
    pub taps: usize,
    /// ε of all norms.
    pub eps: f64,
    /// Whether the projections into and out of a mixer have biases.
    pub bias: bool,
    /// Whether the convolution has one.
    pub conv_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// The key that ties the head.
    pub tied_by: &'static str,
}

/// Whether the keys are those of the original package. Conversions of its files kept them beside those of transformers, which
/// reads its own alone.
#[must_use]
pub fn is_original(keys: &Keys<'_>) -> bool {
    keys.get("d_model").is_some() && keys.get("hidden_size").is_none()
}

/// The architecture: `model_type`, or in the original package's keys the layer.
///
/// # Errors
/// Any other architecture.
pub fn architecture(keys: &Keys<'_>) -> Result<&'static str, Failure> {
    if !is_original(keys) {
        let found = keys.model_type(&["mamba", "mamba2"])?;
        return Ok(if found == "mamba" { "mamba" } else { "mamba2" });
    }
    match keys.object("ssm_cfg")?.text("layer")?.as_deref() {
        None | Some("Mamba1") => Ok("mamba"),
        Some("Mamba2") => Ok("mamba2"),
        Some(other) => {
            Err(keys.unsupported(&format!("`ssm_cfg.layer` is {other}; Mamba1 and Mamba2 are implemented")))
        }
    }
}

impl Frame {
    /// Reads what both architectures share. `tied` is the default of transformers for this one.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>, tied: bool) -> Result<Self, Failure> {
        keys.only("bidirectional", &json!(false))?;
        if is_original(keys) {
            return Self::original(keys);
        }
        match keys.text("hidden_act")?.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => {
                return Err(
                    keys.unsupported(&format!("`hidden_act` is {other}; silu (swish) is implemented"))
                );
            }
        }
        let width = keys.required("hidden_size")?;
        Ok(Self {
            vocab: keys.required("vocab_size")?,
            width,
            layers: keys.required("num_hidden_layers")?,
            inner: expanded(keys, width)?,
            taps: keys.size("conv_kernel")?.unwrap_or(4),
            eps: epsilon(keys)?,
            bias: keys.switch("use_bias", false)?,
            conv_bias: keys.switch("use_conv_bias", true)?,
            tied: keys.switch("tie_word_embeddings", tied)?,
            tied_by: "tie_word_embeddings",
        })
    }

    fn original(keys: &Keys<'_>) -> Result<Self, Failure> {
        keys.only("rms_norm", &json!(true))?;
        keys.only("d_intermediate", &json!(0))?;
        keys.only("attn_layer_idx", &json!([]))?;
        let ssm = keys.object("ssm_cfg")?;
        let (width, vocab) = (keys.required("d_model")?, keys.required("vocab_size")?);
        let multiple = keys.size("pad_vocab_size_multiple")?.unwrap_or(8);
        Ok(Self {
            vocab: vocab.next_multiple_of(multiple),
            width,
            layers: keys.required("n_layer")?,
            inner: expanded(&ssm, width)?,
            taps: ssm.size("d_conv")?.unwrap_or(4),
            eps: keys.epsilon("norm_epsilon")?.unwrap_or(1e-5),
            bias: ssm.switch("bias", false)?,
            conv_bias: ssm.switch("conv_bias", true)?,
            tied: keys.switch("tie_embeddings", true)?,
            tied_by: "tie_embeddings",
        })
    }

    /// The embedding, whose name the dialects spell differently.
    pub(crate) fn embeddings(&self, loader: &mut Loader) -> Result<Tensor, Failure> {
        let original = "backbone.embedding.weight";
        let name = if loader.shape(original).is_some() { original } else { "backbone.embeddings.weight" };
        loader.tensor(name, &[self.vocab, self.width])
    }
}

/// `D_in`: `intermediate_size`, or `expand · D` rounded down.
fn expanded(keys: &Keys<'_>, width: usize) -> Result<usize, Failure> {
    if let Some(inner) = keys.size("intermediate_size")? {
        return Ok(inner);
    }
    let expand = keys.number("expand")?.unwrap_or(2.0);
    let inner = (expand * width as f64) as usize;
    if (1..1 << 31).contains(&inner) {
        return Ok(inner);
    }
    Err(keys.wrong(&format!("`expand` {expand} times the width {width} is no width from 1 to 2^31 - 1")))
}

/// ε of every norm: `layer_norm_epsilon` in transformers, `norm_eps` in flash-linear-attention.
fn epsilon(keys: &Keys<'_>) -> Result<f64, Failure> {
    match (keys.epsilon("layer_norm_epsilon")?, keys.epsilon("norm_eps")?) {
        (Some(a), Some(b)) if a != b => Err(keys.wrong(&format!(
            "`layer_norm_epsilon` is {a} and `norm_eps` is {b}: transformers reads the one, flash-linear-attention the other; \
             leave one out"
        ))),
        (a, b) => Ok(a.or(b).unwrap_or(1e-5)),
    }
}

/// A rank, or `D / 16` rounded up where it is "auto" or absent.
pub(crate) fn rank(keys: &Keys<'_>, key: &str, width: usize) -> Result<usize, Failure> {
    match keys.get(key) {
        Some(Value::String(auto)) if auto == "auto" => Ok(width.div_ceil(16)),
        _ => Ok(keys.size(key)?.unwrap_or(width.div_ceil(16))),
    }
}
