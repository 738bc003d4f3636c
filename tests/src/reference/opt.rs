//! OPT: layer norms before each branch, learned positions that start at row 2, ReLU, and the embedding as head.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Heads, LayerNorm, Linear, Rows, add};
use super::{Architecture, Folder};

/// An OPT, opened as [`super::Reference`]`<Opt>`.
pub struct Opt {
    tokens: Rows,
    positions: Rows,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
}

struct Layer {
    attention_norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: Heads,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

/// Rows of the position table before the first position: a relic of fairseq's padding index.
const POSITION_OFFSET: usize = 2;
/// OPT never sets the epsilon of its norms, so torch's default holds.
const EPSILON: f64 = 1e-5;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    word_embed_proj_dim: usize,
    ffn_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    activation_function: String,
    do_layer_norm_before: bool,
    enable_bias: bool,
    layer_norm_elementwise_affine: bool,
    #[serde(rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: bool,
    /// Tied unless it says otherwise.
    tie_word_embeddings: Option<bool>,
}

impl Config {
    fn check(&self, folder: &Folder) -> Result<(), Failure> {
        folder.insist("activation_function", self.activation_function == "relu")?;
        folder.insist("do_layer_norm_before", self.do_layer_norm_before)?;
        folder.insist("enable_bias", self.enable_bias)?;
        folder.insist("layer_norm_elementwise_affine", self.layer_norm_elementwise_affine)?;
        folder.insist("_remove_final_layer_norm", !self.remove_final_layer_norm)?;
        folder.insist("word_embed_proj_dim", self.word_embed_proj_dim == self.hidden_size)?;
        folder.insist("tie_word_embeddings", self.tie_word_embeddings != Some(false))
    }
}

impl Architecture for Opt {
    const MODEL_TYPE: &'static str = "opt";
    const NAME: &'static str = "reference-opt";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        config.check(folder)?;
        let width = config.hidden_size;
        let tokens = folder.rows("model.decoder.embed_tokens.weight", config.vocab_size, width)?;
        let rows = config.max_position_embeddings + POSITION_OFFSET;
        Ok(Self {
            head: Linear::from_outputs(&tokens, None),
            tokens,
            positions: folder.rows("model.decoder.embed_positions.weight", rows, width)?,
            layers: (0..config.num_hidden_layers)
                .map(|l| layer(folder, &config, l))
                .collect::<Result<_, _>>()?,
            norm: folder.layer_norm("model.decoder.final_layer_norm", width, EPSILON)?,
        })
    }

    fn context(&self) -> usize {
        self.positions.len() - POSITION_OFFSET
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.tokens[t as usize].clone()).collect();
        add(&mut rows, self.positions[POSITION_OFFSET..][..tokens.len()].to_vec());
        for layer in &self.layers {
            let branch = layer.attention(&layer.attention_norm.apply_rows(&rows));
            add(&mut rows, branch);
            let branch = layer.mlp(&layer.mlp_norm.apply_rows(&rows));
            add(&mut rows, branch);
        }
        self.norm.apply_rows(&rows)
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

fn layer(folder: &Folder, config: &Config, index: usize) -> Result<Layer, Failure> {
    let (width, inner, heads) = (config.hidden_size, config.ffn_dim, config.num_attention_heads);
    let named = |part: &str| format!("model.decoder.layers.{index}.{part}");
    let linear = |part, inputs, outputs| folder.linear(&named(part), inputs, outputs, true);
    Ok(Layer {
        attention_norm: folder.layer_norm(&named("self_attn_layer_norm"), width, EPSILON)?,
        query: linear("self_attn.q_proj", width, width)?,
        key: linear("self_attn.k_proj", width, width)?,
        value: linear("self_attn.v_proj", width, width)?,
        output: linear("self_attn.out_proj", width, width)?,
        heads: Heads { queries: heads, keys: heads, width: width / heads },
        mlp_norm: folder.layer_norm(&named("final_layer_norm"), width, EPSILON)?,
        up: linear("fc1", width, inner)?,
        down: linear("fc2", inner, width)?,
    })
}

impl Layer {
    fn attention(&self, rows: &[Vec<f64>]) -> Rows {
        let (queries, keys) = (self.query.apply_rows(rows), self.key.apply_rows(rows));
        let values = self.value.apply_rows(rows);
        self.output.apply_rows(&self.heads.attend(&queries, &keys, &values))
    }

    fn mlp(&self, rows: &[Vec<f64>]) -> Rows {
        let activated = |row| self.up.apply(row).into_iter().map(|x| x.max(0.0)).collect::<Vec<_>>();
        rows.iter().map(|row| self.down.apply(&activated(row))).collect()
    }
}
