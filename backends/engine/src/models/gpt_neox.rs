//! GPT-NeoX (architectures.md 3.2). Matrices start normal with `initializer_range` (0.02), norms at 1, biases at 0:
//! `GPTNeoXPreTrainedModel._init_weights` of transformers.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::gpt_neox::Config;

use super::Network;
use super::recipe::{deviation, dropout};
use super::transformer::{
    Arrangement, Block, Embedding, Mlp, Norm, Projection, Transformer, check_depth, declare,
};
use crate::loss::Head;
use crate::ops::attention::Layout;
use crate::parameters::{Init, Parameters};

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let c = Config::read(keys)?;
    check_depth(keys, c.layers)?;
    let std = deviation(keys, "initializer_range", 0.02)?;
    let hidden_dropout = dropout(keys, "hidden_dropout", 0.0)?;
    let table = [c.vocab, c.width];
    let tokens = parameters.matrix("gpt_neox.embed_in.weight", &table, Init::Normal(std));
    let blocks = (0..c.layers).map(|l| block(&c, l, std, parameters)).collect();
    let norm = Norm::layer(parameters, "gpt_neox.final_layer_norm", c.width, c.eps);
    let weight = match c.tied {
        true => tokens,
        false => parameters.matrix("embed_out.weight", &table, Init::Normal(std)),
    };
    Ok(Box::new(Transformer {
        embedding: Embedding { dropout: hidden_dropout, ..Embedding::of_tokens(tokens, c.width) },
        blocks,
        arrangement: if c.parallel { Arrangement::Parallel } else { Arrangement::PreNorm },
        heads: c.heads,
        rope: Some(c.frequencies),
        dropout: hidden_dropout,
        attention_dropout: dropout(keys, "attention_dropout", 0.0)?,
        norm: Some(norm),
        project: None,
        context: c.context,
        head: Head { weight, bias: None, soft_cap: None, vocab: c.vocab, width: c.width },
    }))
}

fn block(c: &Config, l: usize, std: f32, parameters: &mut Parameters) -> Block {
    let name = |part: &str| format!("gpt_neox.layers.{l}.{part}");
    let attention_norm = Norm::layer(parameters, &name("input_layernorm"), c.width, c.eps);
    let mlp_norm = Norm::layer(parameters, &name("post_attention_layernorm"), c.width, c.eps);
    let mut layer =
        |part: &str, shape: (usize, usize), bias: bool| declare(parameters, &name(part), shape, bias, std);
    let qkv = layer("attention.query_key_value", (3 * c.width, c.width), c.bias);
    let out = layer("attention.dense", (c.width, c.width), c.bias);
    let up = layer("mlp.dense_h_to_4h", (c.inner, c.width), true);
    let down = layer("mlp.dense_4h_to_h", (c.width, c.inner), true);
    Block {
        attention_norm,
        qkv: Projection::One(qkv, Layout::Heads),
        scale: (c.heads.dim as f64).powf(-0.5) as f32,
        out,
        mlp_norm,
        mlp: Mlp::Plain(up, c.activation, down),
    }
}
