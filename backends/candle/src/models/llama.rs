//! Llama: RMSNorm, grouped-query attention with rotary positions, SwiGLU (architectures.md 2).

use bheval_abi::Failure;
use serde_json::json;

use crate::head::Head;
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::norm::Norm;
use crate::layers::rope::Frequencies;
use crate::layers::transformer::{Arrangement, Block, Embedding, Finish, Transformer};
use crate::ops::attention::Heads;
use crate::weights::{Weights, floats};

/// What `config.json` says of a Llama.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Columns of the hidden states.
    pub width: usize,
    /// Columns inside the MLP.
    pub inner: usize,
    /// Blocks.
    pub layers: usize,
    /// How a row splits into heads.
    pub heads: Heads,
    /// Tokens.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// ε of every norm.
    pub eps: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether the layers of attention have biases.
    pub attention_bias: bool,
    /// Whether those of the MLP have.
    pub mlp_bias: bool,
    /// Rotary positions.
    pub frequencies: Frequencies,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let silu = keys.text("hidden_act")?.is_none_or(|act| act == "silu" || act == "swish");
        if !silu {
            return Err(keys.unsupported("`hidden_act` is not silu, which is what is implemented for llama"));
        }
        keys.only("sliding_window", &json!(null))?;
        for keys in [keys, &keys.object("rope_parameters")?] {
            if keys.number("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
                return Err(keys.unsupported("`partial_rotary_factor` is not 1, which llama can't run with"));
            }
        }
        let (width, context) =
            (keys.required("hidden_size")?, keys.size("max_position_embeddings")?.unwrap_or(2048));
        let dim = keys.size("head_dim")?;
        let heads = keys.attention_heads(width, "num_attention_heads", "num_key_value_heads", dim)?;
        if !heads.dim.is_multiple_of(2) {
            return Err(
                keys.wrong(&format!("a head has {} channels, which rotary positions can't pair", heads.dim))
            );
        }
        Ok(Self {
            width,
            inner: keys.required("intermediate_size")?,
            layers: keys.required("num_hidden_layers")?,
            heads,
            vocab: keys.required("vocab_size")?,
            context,
            eps: keys.epsilon("rms_norm_eps")?.unwrap_or(1e-6),
            tied: keys.switch("tie_word_embeddings", false)?,
            attention_bias: keys.switch("attention_bias", false)?,
            mlp_bias: keys.switch("mlp_bias", false)?,
            frequencies: Frequencies::read(keys, "rope_theta", heads.dim, context)?,
        })
    }
}

/// Loads a model from its configuration and tensors.
///
/// # Errors
/// What the configuration or the tensors lack, or hold beyond what is implemented.
pub(crate) fn load(keys: &Keys<'_>, weights: &mut Weights) -> Result<Transformer, Failure> {
    let c = Config::read(keys)?;
    let embedding =
        weights.embedding("model.embed_tokens.weight", "lm_head.weight", &[c.vocab, c.width], c.tied)?;
    let blocks = (0..c.layers).map(|l| block(&c, l, weights)).collect::<Result<_, _>>()?;
    let norm = Norm::rms(weights, "model.norm", c.width, c.eps)?;
    let head = weights.tied("lm_head.weight", &[c.vocab, c.width], c.tied, &embedding)?;
    weights.all_used(&["rotary_emb.inv_freq"])?;
    Ok(Transformer {
        width: c.width,
        context: c.context,
        embedding: Embedding::of_tokens(floats(&embedding)?, c.width),
        blocks,
        arrangement: Arrangement::PreNorm,
        heads: c.heads,
        rope: Some(c.frequencies.clone()),
        finish: Finish { norm: Some(norm), ..Finish::default() },
        head: Head::new(c.width, &floats(&head)?),
    })
}

fn block(c: &Config, l: usize, weights: &mut Weights) -> Result<Block, Failure> {
    let name = |part: &str| format!("model.layers.{l}.{part}");
    let qkv = ["q", "k", "v"].map(|p| name(&format!("self_attn.{p}_proj")));
    let (queries, keys) = (c.heads.queries(), c.heads.keys());
    let gate_up = ["gate", "up"].map(|p| name(&format!("mlp.{p}_proj")));
    Ok(Block {
        attention_norm: Norm::rms(weights, &name("input_layernorm"), c.width, c.eps)?,
        qkv: Linear::load_parts(weights, &qkv, &[queries, keys, keys], c.width, c.attention_bias)?,
        scale: (c.heads.dim as f64).powf(-0.5) as f32,
        out: Linear::load(weights, &[name("self_attn.o_proj")], (c.width, queries), c.attention_bias)?,
        mlp_norm: Norm::rms(weights, &name("post_attention_layernorm"), c.width, c.eps)?,
        mlp: Mlp::Gated {
            gate_up: Linear::load(weights, &gate_up, (c.inner, c.width), c.mlp_bias)?,
            down: Linear::load(weights, &[name("mlp.down_proj")], (c.width, c.inner), c.mlp_bias)?,
        },
    })
}
