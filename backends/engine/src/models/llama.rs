//! Llama (architectures.md 2). Matrices start normal with `initializer_range` (0.02), norms at 1, biases at 0, without a
//! factor for depth: `LlamaPreTrainedModel._init_weights` of transformers.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::llama::Config;
use bheval_kernels::activation::Activation;

use super::Network;
use super::recipe::{deviation, dropout};
use super::transformer::{
    Arrangement, Block, Embedding, Mlp, Norm, Projection, Transformer, check_depth, declare,
};
use crate::loss::Head;
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
    let tokens = parameters.matrix("model.embed_tokens.weight", &table, Init::Normal(std));
    let blocks = (0..c.layers).map(|l| block(&c, l, std, parameters)).collect();
    let norm = Norm::rms(parameters, "model.norm", c.width, c.eps);
    let weight = match c.tied {
        true => tokens,
        false => parameters.matrix("lm_head.weight", &table, Init::Normal(std)),
    };
    Ok(Box::new(Transformer {
        embedding: Embedding::of_tokens(tokens, c.width),
        blocks,
        arrangement: Arrangement::PreNorm,
        heads: c.heads,
        rope: Some(c.frequencies),
        dropout: 0.0,
        attention_dropout: dropout(keys, "attention_dropout", 0.0)?,
        norm: Some(norm),
        project: None,
        context: c.context,
        head: Head { weight, bias: None, soft_cap: None, vocab: c.vocab, width: c.width },
    }))
}

fn block(c: &Config, l: usize, std: f32, parameters: &mut Parameters) -> Block {
    let name = |part: &str| format!("model.layers.{l}.{part}");
    let (queries, keys) = (c.heads.queries(), c.heads.keys());
    let attention_norm = Norm::rms(parameters, &name("input_layernorm"), c.width, c.eps);
    let project = |(part, outputs): (&str, usize)| {
        declare(
            parameters,
            &name(&format!("self_attn.{part}_proj")),
            (outputs, c.width),
            c.attention_bias,
            std,
        )
    };
    let qkv = Projection::Three([("q", queries), ("k", keys), ("v", keys)].map(project));
    let out = declare(parameters, &name("self_attn.o_proj"), (c.width, queries), c.attention_bias, std);
    let mlp_norm = Norm::rms(parameters, &name("post_attention_layernorm"), c.width, c.eps);
    let gate_up = ["mlp.gate_proj", "mlp.up_proj"]
        .map(|part| declare(parameters, &name(part), (c.inner, c.width), c.mlp_bias, std));
    let down = declare(parameters, &name("mlp.down_proj"), (c.width, c.inner), c.mlp_bias, std);
    let mlp = Mlp::Gated(gate_up, Activation::Silu, down);
    let scale = (c.heads.dim as f64).powf(-0.5) as f32;
    Block { attention_norm, qkv, scale, out, mlp_norm, mlp }
}
