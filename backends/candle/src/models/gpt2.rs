//! GPT-2: LayerNorm, learned positions, matrices stored as `[in, out]` (architectures.md 3.1).

use bheval_abi::Failure;
use serde_json::json;

use crate::head::Head;
use crate::kernels::activation::Activation;
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::norm::Norm;
use crate::layers::transformer::{Arrangement, Block, Embedding, Finish, Transformer};
use crate::ops::attention::Heads;
use crate::weights::{Weights, floats};

/// What `config.json` says of a GPT-2.
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
    /// Between the layers of the MLP.
    pub activation: Activation,
    /// Whether products of queries and keys are divided by the root of the head's width.
    pub scaled: bool,
    /// Whether they are divided by the layer's number, too.
    pub by_layer: bool,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        keys.only("add_cross_attention", &json!(false))?;
        // transformers takes either name, and lets one win silently.
        for (own, general) in
            [("n_embd", "hidden_size"), ("n_head", "num_attention_heads"), ("n_layer", "num_hidden_layers")]
        {
            keys.agree(own, general)?;
        }
        let width = keys.required("n_embd")?;
        let context = keys.size("n_positions")?.map_or_else(|| keys.required("n_ctx"), Ok)?;
        Ok(Self {
            width,
            inner: keys.size("n_inner")?.unwrap_or(4 * width),
            layers: keys.required("n_layer")?,
            heads: keys.attention_heads(width, "n_head", "n_head", None)?,
            vocab: keys.required("vocab_size")?,
            context,
            eps: keys.epsilon("layer_norm_epsilon")?.unwrap_or(1e-5),
            tied: keys.switch("tie_word_embeddings", true)?,
            activation: keys.activation("activation_function", "gelu_new")?,
            scaled: keys.switch("scale_attn_weights", true)?,
            by_layer: keys.switch("scale_attn_by_inverse_layer_idx", false)?,
        })
    }

    /// What products of queries and keys are multiplied with in layer `l`.
    #[must_use]
    pub fn scale(&self, l: usize) -> f32 {
        let scale = if self.scaled { (self.heads.dim as f64).powf(-0.5) } else { 1.0 };
        (if self.by_layer { scale / (l + 1) as f64 } else { scale }) as f32
    }
}

/// Loads a model from its configuration and tensors.
///
/// # Errors
/// What the configuration or the tensors lack, or hold beyond what is implemented.
pub(crate) fn load(keys: &Keys<'_>, weights: &mut Weights) -> Result<Transformer, Failure> {
    let c = Config::read(keys)?;
    // Files of the bare model, and old ones, lack the prefix.
    let prefix = if weights.shape("wpe.weight").is_some() { "" } else { "transformer." };
    let embedding =
        weights.embedding(&format!("{prefix}wte.weight"), "lm_head.weight", &[c.vocab, c.width], c.tied)?;
    let positions = floats(&weights.tensor(&format!("{prefix}wpe.weight"), &[c.context, c.width])?)?;
    let blocks =
        (0..c.layers).map(|l| block(&c, &format!("{prefix}h.{l}"), l, weights)).collect::<Result<_, _>>()?;
    let norm = Norm::layer(weights, &format!("{prefix}ln_f"), c.width, c.eps)?;
    let head = weights.tied("lm_head.weight", &[c.vocab, c.width], c.tied, &embedding)?;
    weights.all_used(&[".attn.bias", ".attn.masked_bias"])?;
    Ok(Transformer {
        width: c.width,
        context: c.context,
        embedding: Embedding {
            positions: Some((positions, 0)),
            ..Embedding::of_tokens(floats(&embedding)?, c.width)
        },
        blocks,
        arrangement: Arrangement::PreNorm,
        heads: c.heads,
        rope: None,
        finish: Finish { norm: Some(norm), ..Finish::default() },
        head: Head::new(c.width, &floats(&head)?),
    })
}

fn block(c: &Config, name: &str, l: usize, weights: &mut Weights) -> Result<Block, Failure> {
    let at = |part: &str| format!("{name}.{part}");
    Ok(Block {
        attention_norm: Norm::layer(weights, &at("ln_1"), c.width, c.eps)?,
        qkv: Linear::load_transposed(weights, &at("attn.c_attn"), (3 * c.width, c.width))?,
        scale: c.scale(l),
        out: Linear::load_transposed(weights, &at("attn.c_proj"), (c.width, c.width))?,
        mlp_norm: Norm::layer(weights, &at("ln_2"), c.width, c.eps)?,
        mlp: Mlp::Plain {
            up: Linear::load_transposed(weights, &at("mlp.c_fc"), (c.inner, c.width))?,
            activation: c.activation,
            down: Linear::load_transposed(weights, &at("mlp.c_proj"), (c.width, c.inner))?,
        },
    })
}
