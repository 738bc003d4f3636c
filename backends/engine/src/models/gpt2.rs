//! GPT-2 (architectures.md 3.1). Matrices and embeddings start normal with `initializer_range` (0.02), the two layers of a
//! block that add to the residual with that over `sqrt(2 L)`, norms at 1, biases at 0: Radford et al. 2019, and
//! `GPT2PreTrainedModel._init_weights` of transformers.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::gpt2::Config;

use super::Network;
use super::recipe::{deviation, dropout};
use super::transformer::{Arrangement, Block, Embedding, Mlp, Norm, Projection, Transformer, check_depth};
use crate::loss::Head;
use crate::ops::attention::Layout;
use crate::ops::linear::{Layout as Stored, Linear};
use crate::parameters::{Init, Parameters};

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let c = Config::read(keys)?;
    check_depth(keys, c.layers)?;
    let std = deviation(keys, "initializer_range", 0.02)?;
    let table = [c.vocab, c.width];
    let tokens = parameters.matrix("transformer.wte.weight", &table, Init::Normal(std));
    let positions = parameters.matrix("transformer.wpe.weight", &[c.context, c.width], Init::Normal(std));
    let blocks = (0..c.layers).map(|l| block(&c, l, std, parameters)).collect();
    let norm = Norm::layer(parameters, "transformer.ln_f", c.width, c.eps);
    let weight = match c.tied {
        true => tokens,
        false => parameters.matrix("lm_head.weight", &table, Init::Normal(std)),
    };
    Ok(Box::new(Transformer {
        embedding: Embedding {
            positions: Some((positions, 0)),
            dropout: dropout(keys, "embd_pdrop", 0.1)?,
            ..Embedding::of_tokens(tokens, c.width)
        },
        blocks,
        arrangement: Arrangement::PreNorm,
        heads: c.heads,
        rope: None,
        dropout: dropout(keys, "resid_pdrop", 0.1)?,
        attention_dropout: dropout(keys, "attn_pdrop", 0.1)?,
        norm: Some(norm),
        project: None,
        context: c.context,
        head: Head { weight, bias: None, soft_cap: None, vocab: c.vocab, width: c.width },
    }))
}

fn block(c: &Config, l: usize, std: f32, parameters: &mut Parameters) -> Block {
    let name = |part: &str| format!("transformer.h.{l}.{part}");
    let residual = std / (2.0 * c.layers as f32).sqrt();
    let attention_norm = Norm::layer(parameters, &name("ln_1"), c.width, c.eps);
    let qkv = declare(parameters, &name("attn.c_attn"), (c.width, 3 * c.width), std);
    let out = declare(parameters, &name("attn.c_proj"), (c.width, c.width), residual);
    let mlp_norm = Norm::layer(parameters, &name("ln_2"), c.width, c.eps);
    let up = declare(parameters, &name("mlp.c_fc"), (c.width, c.inner), std);
    let down = declare(parameters, &name("mlp.c_proj"), (c.inner, c.width), residual);
    Block {
        attention_norm,
        qkv: Projection::One(qkv, Layout::Parts),
        scale: c.scale(l),
        out,
        mlp_norm,
        mlp: Mlp::Plain(up, c.activation, down),
    }
}

/// A layer of GPT-2, stored as `[inputs, outputs]`.
fn declare(
    parameters: &mut Parameters,
    name: &str,
    (inputs, outputs): (usize, usize),
    deviation: f32,
) -> Linear {
    let weight = parameters.matrix(format!("{name}.weight"), &[inputs, outputs], Init::Normal(deviation));
    let bias = Some(parameters.vector(format!("{name}.bias"), &[outputs], Init::Constant(0.0)));
    Linear { weight, bias, inputs, outputs, layout: Stored::InOut }
}
