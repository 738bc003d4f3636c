//! OPT (Zhang et al. 2022). Matrices and embeddings start normal with `init_std` (0.02), norms at 1, biases at 0:
//! `OPTPreTrainedModel._init_weights` of transformers.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::opt::{Config, EPS, FIRST_POSITION};

use super::Network;
use super::recipe::{deviation, dropout, no_dropout};
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
    no_dropout(keys, "layerdrop", 0.0)?;
    let std = deviation(keys, "init_std", 0.02)?;
    let name = |part: &str| format!("model.decoder.{part}");
    let table = [c.vocab, c.embedding];
    let tokens = parameters.matrix(name("embed_tokens.weight"), &table, Init::Normal(std));
    let rows = [c.context + FIRST_POSITION, c.width];
    let positions = parameters.matrix(name("embed_positions.weight"), &rows, Init::Normal(std));
    let narrow = c.embedding != c.width;
    let (into, out) = ((c.width, c.embedding), (c.embedding, c.width));
    let project_out = narrow.then(|| declare(parameters, &name("project_out"), out, false, std));
    let project_in = narrow.then(|| declare(parameters, &name("project_in"), into, false, std));
    let norm = c.final_norm.then(|| Norm::layer(parameters, &name("final_layer_norm"), c.width, EPS));
    let blocks = (0..c.layers).map(|l| block(&c, &name(&format!("layers.{l}")), std, parameters)).collect();
    let weight = match c.tied {
        true => tokens,
        false => parameters.matrix("lm_head.weight", &table, Init::Normal(std)),
    };
    Ok(Box::new(Transformer {
        embedding: Embedding {
            project: project_in,
            positions: Some((positions, FIRST_POSITION)),
            ..Embedding::of_tokens(tokens, c.embedding)
        },
        blocks,
        arrangement: if c.norm_before { Arrangement::PreNorm } else { Arrangement::PostNorm },
        heads: c.heads,
        rope: None,
        dropout: dropout(keys, "dropout", 0.1)?,
        attention_dropout: dropout(keys, "attention_dropout", 0.0)?,
        norm,
        project: project_out,
        context: c.context,
        head: Head { weight, bias: None, soft_cap: None, vocab: c.vocab, width: c.embedding },
    }))
}

fn block(c: &Config, name: &str, std: f32, parameters: &mut Parameters) -> Block {
    let at = |part: &str| format!("{name}.{part}");
    let attention_norm = Norm::layer(parameters, &at("self_attn_layer_norm"), c.width, EPS);
    let mlp_norm = Norm::layer(parameters, &at("final_layer_norm"), c.width, EPS);
    let mut layer = |part: &str, shape: (usize, usize)| declare(parameters, &at(part), shape, c.bias, std);
    let square = (c.width, c.width);
    let qkv = ["q", "k", "v"].map(|part| layer(&format!("self_attn.{part}_proj"), square));
    let out = layer("self_attn.out_proj", square);
    let up = layer("fc1", (c.inner, c.width));
    let down = layer("fc2", (c.width, c.inner));
    Block {
        attention_norm,
        qkv: Projection::Three(qkv),
        scale: (c.heads.dim as f64).powf(-0.5) as f32,
        out,
        mlp_norm,
        mlp: Mlp::Plain(up, c.activation, down),
    }
}
