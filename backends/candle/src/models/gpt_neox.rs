//! GPT-NeoX and Pythia: LayerNorm, rotary positions on a part of each head, attention and MLP side by side
//! (architectures.md 3.2).

use bheval_abi::Failure;

use crate::head::Head;
use crate::kernels::activation::Activation;
use crate::kernels::gemm::Packed;
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::norm::Norm;
use crate::layers::rope::Frequencies;
use crate::layers::transformer::{Arrangement, Block, Embedding, Finish, Transformer};
use crate::ops::attention::Heads;
use crate::weights::{Weights, floats};

/// What `config.json` says of a GPT-NeoX.
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
    pub bias: bool,
    /// Whether attention and MLP read the same hidden states.
    pub parallel: bool,
    /// Between the layers of the MLP.
    pub activation: Activation,
    /// Rotary positions.
    pub frequencies: Frequencies,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let width = keys.required("hidden_size")?;
        let context = keys.size("max_position_embeddings")?.unwrap_or(2048);
        let heads = keys.attention_heads(width, "num_attention_heads", "num_attention_heads", None)?;
        let rotated = rotated(keys, heads.dim)?;
        Ok(Self {
            width,
            inner: keys.required("intermediate_size")?,
            layers: keys.required("num_hidden_layers")?,
            heads,
            vocab: keys.required("vocab_size")?,
            context,
            eps: keys.epsilon("layer_norm_eps")?.unwrap_or(1e-5),
            tied: keys.switch("tie_word_embeddings", false)?,
            bias: keys.switch("attention_bias", true)?,
            parallel: keys.switch("use_parallel_residual", true)?,
            activation: keys.activation("hidden_act", "gelu")?,
            frequencies: Frequencies::read(keys, "rotary_emb_base", rotated, context)?,
        })
    }
}

/// How many channels of a head are rotated.
fn rotated(keys: &Keys<'_>, dim: usize) -> Result<usize, Failure> {
    keys.agree("rotary_pct", "partial_rotary_factor")?;
    let new = keys.object("rope_parameters")?.number("partial_rotary_factor")?;
    let old = new.map_or_else(|| keys.number("rotary_pct"), |part| Ok(Some(part)))?;
    let part =
        old.map_or_else(|| keys.number("partial_rotary_factor"), |part| Ok(Some(part)))?.unwrap_or(0.25);
    let rotated = (dim as f64 * part) as usize;
    if !(0.0..=1.0).contains(&part) || !rotated.is_multiple_of(2) {
        return Err(keys.wrong(&format!("{part} of a head's {dim} channels is no even number to be rotated")));
    }
    Ok(rotated)
}

/// Loads a model from its configuration and tensors.
///
/// # Errors
/// What the configuration or the tensors lack, or hold beyond what is implemented.
pub(crate) fn load(keys: &Keys<'_>, weights: &mut Weights) -> Result<Transformer, Failure> {
    let c = Config::read(keys)?;
    let embedding = weights.tensor("gpt_neox.embed_in.weight", &[c.vocab, c.width])?;
    let blocks = (0..c.layers).map(|l| block(&c, l, weights)).collect::<Result<_, _>>()?;
    let norm = Norm::layer(weights, "gpt_neox.final_layer_norm", c.width, c.eps)?;
    let name = if weights.shape("lm_head.weight").is_some() { "lm_head.weight" } else { "embed_out.weight" };
    let head = weights.tied(name, &[c.vocab, c.width], c.tied, &embedding)?;
    weights.all_used(&[".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"])?;
    Ok(Transformer {
        width: c.width,
        context: c.context,
        embedding: Embedding::of_tokens(floats(&embedding)?, c.width),
        blocks,
        arrangement: if c.parallel { Arrangement::Parallel } else { Arrangement::PreNorm },
        heads: c.heads,
        rope: Some(c.frequencies.clone()),
        finish: Finish { norm: Some(norm), ..Finish::default() },
        head: Head::new(c.width, &floats(&head)?),
    })
}

fn block(c: &Config, l: usize, weights: &mut Weights) -> Result<Block, Failure> {
    let name = |part: &str| format!("gpt_neox.layers.{l}.{part}");
    Ok(Block {
        attention_norm: Norm::layer(weights, &name("input_layernorm"), c.width, c.eps)?,
        qkv: qkv(c, &name("attention.query_key_value"), weights)?,
        scale: (c.heads.dim as f64).powf(-0.5) as f32,
        out: Linear::load(weights, &[name("attention.dense")], (c.width, c.width), c.bias)?,
        mlp_norm: Norm::layer(weights, &name("post_attention_layernorm"), c.width, c.eps)?,
        mlp: Mlp::Plain {
            up: Linear::load(weights, &[name("mlp.dense_h_to_4h")], (c.inner, c.width), true)?,
            activation: c.activation,
            down: Linear::load(weights, &[name("mlp.dense_4h_to_h")], (c.width, c.inner), true)?,
        },
    })
}

/// The fused projection is stored head by head, `[heads, 3, dim, D]`; we want all queries, all keys, all values.
fn qkv(c: &Config, name: &str, weights: &mut Weights) -> Result<Linear, Failure> {
    let stored = floats(&weights.tensor(&format!("{name}.weight"), &[3 * c.width, c.width])?)?;
    let weights_of = |width: usize, stored: &[f32]| -> Vec<f32> {
        let size = c.heads.dim * width;
        let part = |which: usize, head: usize| &stored[(head * 3 + which) * size..][..size];
        (0..3).flat_map(|which| (0..c.heads.count).flat_map(move |head| part(which, head))).copied().collect()
    };
    let bias = match c.bias {
        true => Some(weights_of(1, &floats(&weights.tensor(&format!("{name}.bias"), &[3 * c.width])?)?)),
        false => None,
    };
    Ok(Linear { weights: Packed::new(c.width, &[&weights_of(c.width, &stored)]), bias })
}
