//! OPT: learned positions from 2, ReLU; norms before each part, or after it as in the 350M model, whose embedding is
//! narrower than the model (Zhang et al. 2022).

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

/// The first row of the position table that a token gets.
pub const FIRST_POSITION: usize = 2;
/// ε of every norm; OPT's configuration has no key for it.
pub const EPS: f64 = 1e-5;

/// What `config.json` says of an OPT.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Columns of the hidden states.
    pub width: usize,
    /// Columns of the embedding.
    pub embedding: usize,
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
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether the layers have biases.
    pub bias: bool,
    /// Between the layers of the MLP.
    pub activation: Activation,
    /// Whether norms stand before attention and MLP, not behind.
    pub norm_before: bool,
    /// Whether a norm stands before the head.
    pub final_norm: bool,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        keys.only("layer_norm_elementwise_affine", &json!(true))?;
        let width = keys.required("hidden_size")?;
        let norm_before = keys.switch("do_layer_norm_before", true)?;
        Ok(Self {
            width,
            embedding: keys.size("word_embed_proj_dim")?.unwrap_or(width),
            inner: keys.required("ffn_dim")?,
            layers: keys.required("num_hidden_layers")?,
            heads: keys.attention_heads(width, "num_attention_heads", "num_attention_heads", None)?,
            vocab: keys.required("vocab_size")?,
            context: keys.required("max_position_embeddings")?,
            tied: keys.switch("tie_word_embeddings", true)?,
            bias: keys.switch("enable_bias", true)?,
            activation: keys.activation("activation_function", "relu")?,
            norm_before,
            final_norm: norm_before && !keys.switch("_remove_final_layer_norm", false)?,
        })
    }
}

/// Loads a model from its configuration and tensors.
///
/// # Errors
/// What the configuration or the tensors lack, or hold beyond what is implemented.
pub(crate) fn load(keys: &Keys<'_>, weights: &mut Weights) -> Result<Transformer, Failure> {
    let c = Config::read(keys)?;
    let prefix =
        if weights.shape("decoder.embed_positions.weight").is_some() { "decoder" } else { "model.decoder" };
    let name = |part: &str| format!("{prefix}.{part}");
    let tokens =
        weights.embedding(&name("embed_tokens.weight"), "lm_head.weight", &[c.vocab, c.embedding], c.tied)?;
    let rows = c.context + FIRST_POSITION;
    let positions = floats(&weights.tensor(&name("embed_positions.weight"), &[rows, c.width])?)?;
    let narrow = c.embedding != c.width;
    let project = |part: &str, out: usize, inner: usize, weights: &mut Weights| {
        narrow.then(|| Linear::load(weights, &[name(part)], (out, inner), false)).transpose()
    };
    let (project_in, project_out) = (
        project("project_in", c.width, c.embedding, weights)?,
        project("project_out", c.embedding, c.width, weights)?,
    );
    let blocks =
        (0..c.layers).map(|l| block(&c, &name(&format!("layers.{l}")), weights)).collect::<Result<_, _>>()?;
    let norm =
        c.final_norm.then(|| Norm::layer(weights, &name("final_layer_norm"), c.width, EPS)).transpose()?;
    let head = weights.tied("lm_head.weight", &[c.vocab, c.embedding], c.tied, &tokens)?;
    weights.all_used(&[])?;
    Ok(Transformer {
        width: c.width,
        context: c.context,
        embedding: Embedding {
            project: project_in,
            positions: Some((positions, FIRST_POSITION)),
            ..Embedding::of_tokens(floats(&tokens)?, c.embedding)
        },
        blocks,
        arrangement: if c.norm_before { Arrangement::PreNorm } else { Arrangement::PostNorm },
        heads: c.heads,
        rope: None,
        finish: Finish { norm, project: project_out, ..Finish::default() },
        head: Head::new(c.embedding, &floats(&head)?),
    })
}

fn block(c: &Config, name: &str, weights: &mut Weights) -> Result<Block, Failure> {
    let at = |part: &str| format!("{name}.{part}");
    let qkv = ["q", "k", "v"].map(|p| at(&format!("self_attn.{p}_proj")));
    Ok(Block {
        attention_norm: Norm::layer(weights, &at("self_attn_layer_norm"), c.width, EPS)?,
        qkv: Linear::load(weights, &qkv, (c.width, c.width), c.bias)?,
        scale: (c.heads.dim as f64).powf(-0.5) as f32,
        out: Linear::load(weights, &[at("self_attn.out_proj")], (c.width, c.width), c.bias)?,
        mlp_norm: Norm::layer(weights, &at("final_layer_norm"), c.width, EPS)?,
        mlp: Mlp::Plain {
            up: Linear::load(weights, &[at("fc1")], (c.inner, c.width), c.bias)?,
            activation: c.activation,
            down: Linear::load(weights, &[at("fc2")], (c.width, c.inner), c.bias)?,
        },
    })
}
