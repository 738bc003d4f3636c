//! BERT and RoBERTa: read from both sides, norms after each part (architectures.md 8.2 and 8.3).

use bheval_abi::Failure;
use candle_core::Tensor;
use serde_json::json;

use crate::head::Head;
use crate::kernels::activation::Activation;
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::norm::Norm;
use crate::layers::transformer::{Arrangement, Block, Embedding, Finish, Transformer};
use crate::ops::attention::Heads;
use crate::weights::{Weights, differ, floats};

/// Where the two differ: names, and the first position.
struct Names {
    body: &'static str,
    head_dense: &'static str,
    head_norm: &'static str,
    decoder: &'static str,
    decoder_bias: &'static str,
    head_bias: &'static str,
}

const BERT: Names = Names {
    body: "bert",
    head_dense: "cls.predictions.transform.dense",
    head_norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder.weight",
    decoder_bias: "cls.predictions.decoder.bias",
    head_bias: "cls.predictions.bias",
};

const ROBERTA: Names = Names {
    body: "roberta",
    head_dense: "lm_head.dense",
    head_norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder.weight",
    decoder_bias: "lm_head.decoder.bias",
    head_bias: "lm_head.bias",
};

/// Sizes and switches, as `config.json` states them.
struct Config {
    names: Names,
    width: usize,
    inner: usize,
    layers: usize,
    heads: Heads,
    vocab: usize,
    /// Rows of the position table.
    positions: usize,
    /// The row of the first token.
    first: usize,
    types: usize,
    eps: f64,
    tied: bool,
    activation: Activation,
    head_activation: Activation,
}

impl Config {
    fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        keys.only("position_embedding_type", &json!("absolute"))?;
        keys.only("is_decoder", &json!(false))?;
        keys.only("add_cross_attention", &json!(false))?;
        let roberta = keys.model_type(&["bert", "roberta"])? == "roberta";
        let width = keys.required("hidden_size")?;
        let activation = keys.activation("hidden_act", "gelu")?;
        let positions = keys.required("max_position_embeddings")?;
        let first = if roberta { keys.count("pad_token_id")?.unwrap_or(1) + 1 } else { 0 };
        if first >= positions {
            return Err(keys.wrong("`pad_token_id` leaves no position for a token"));
        }
        Ok(Self {
            names: if roberta { ROBERTA } else { BERT },
            width,
            inner: keys.required("intermediate_size")?,
            layers: keys.required("num_hidden_layers")?,
            heads: keys.attention_heads(width, "num_attention_heads", "num_attention_heads", None)?,
            vocab: keys.required("vocab_size")?,
            positions,
            first,
            types: keys.size("type_vocab_size")?.unwrap_or(2),
            eps: keys.epsilon("layer_norm_eps")?.unwrap_or(1e-12),
            tied: keys.switch("tie_word_embeddings", true)?,
            activation,
            head_activation: if roberta { Activation::Gelu } else { activation },
        })
    }
}

/// Loads a model from its configuration and tensors.
///
/// # Errors
/// What the configuration or the tensors lack, or hold beyond what is implemented.
pub(crate) fn load(keys: &Keys<'_>, weights: &mut Weights) -> Result<Transformer, Failure> {
    let c = Config::read(keys)?;
    let name = format!("{}.embeddings.word_embeddings.weight", c.names.body);
    let tokens = weights.embedding(&name, c.names.decoder, &[c.vocab, c.width], c.tied)?;
    let embedding = embedding(&c, &tokens, weights)?;
    let blocks = (0..c.layers).map(|l| block(&c, l, weights)).collect::<Result<_, _>>()?;
    let dense = Linear::load(weights, &[c.names.head_dense.to_owned()], (c.width, c.width), true)?;
    let norm = Norm::layer(weights, c.names.head_norm, c.width, c.eps)?;
    let decoder = weights.tied(c.names.decoder, &[c.vocab, c.width], c.tied, &tokens)?;
    let bias = weights.tensor(c.names.head_bias, &[c.vocab])?;
    // The decoder's bias is the head's bias again; where they were torn apart, nobody can tell which one counts.
    if weights.shape(c.names.decoder_bias).is_some()
        && differ(&weights.duplicate(c.names.decoder_bias, &[c.vocab])?, &bias)?
    {
        let (one, other) = (c.names.head_bias, c.names.decoder_bias);
        return Err(keys.wrong(&format!(
            "the tensors `{one}` and `{other}` are one bias under two names, but differ; load and save the model again with \
             transformers, which decides for one of them"
        )));
    }
    // The pooler and the next-sentence head are for other tasks.
    weights.all_used(&["pooler.", "cls.seq_relationship.", "position_ids"])?;
    Ok(Transformer {
        width: c.width,
        context: c.positions - c.first,
        embedding,
        blocks,
        arrangement: Arrangement::PostNorm,
        heads: c.heads,
        rope: None,
        finish: Finish { dense: Some((dense, c.head_activation)), norm: Some(norm), project: None },
        head: Head { bias: Some(floats(&bias)?), ..Head::new(c.width, &floats(&decoder)?) },
    })
}

fn embedding(c: &Config, tokens: &Tensor, weights: &mut Weights) -> Result<Embedding, Failure> {
    let name = |part: &str| format!("{}.embeddings.{part}", c.names.body);
    let positions = weights.tensor(&name("position_embeddings.weight"), &[c.positions, c.width])?;
    let types = floats(&weights.tensor(&name("token_type_embeddings.weight"), &[c.types, c.width])?)?;
    Ok(Embedding {
        positions: Some((floats(&positions)?, c.first)),
        constant: Some(types[..c.width].to_vec()),
        norm: Some(Norm::layer(weights, &name("LayerNorm"), c.width, c.eps)?),
        ..Embedding::of_tokens(floats(tokens)?, c.width)
    })
}

fn block(c: &Config, l: usize, weights: &mut Weights) -> Result<Block, Failure> {
    let name = |part: &str| format!("{}.encoder.layer.{l}.{part}", c.names.body);
    let qkv = ["query", "key", "value"].map(|p| name(&format!("attention.self.{p}")));
    Ok(Block {
        attention_norm: Norm::layer(weights, &name("attention.output.LayerNorm"), c.width, c.eps)?,
        qkv: Linear::load(weights, &qkv, (c.width, c.width), true)?,
        scale: (c.heads.dim as f64).powf(-0.5) as f32,
        out: Linear::load(weights, &[name("attention.output.dense")], (c.width, c.width), true)?,
        mlp_norm: Norm::layer(weights, &name("output.LayerNorm"), c.width, c.eps)?,
        mlp: Mlp::Plain {
            up: Linear::load(weights, &[name("intermediate.dense")], (c.inner, c.width), true)?,
            activation: c.activation,
            down: Linear::load(weights, &[name("output.dense")], (c.width, c.inner), true)?,
        },
    })
}
