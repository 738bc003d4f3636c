//! Llama: RMS norms, rotary positions, grouped-query attention and a gated MLP, without biases.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 2.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Heads, Linear, RmsNorm, Rows, add, rotate};
use super::{Architecture, Folder};

/// A llama, opened as [`super::Reference`]`<Llama>`.
pub struct Llama {
    embedding: Rows,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    context: usize,
}

struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: Heads,
    rope_theta: f64,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
    tie_word_embeddings: bool,
    hidden_act: String,
    attention_bias: bool,
    mlp_bias: bool,
}

impl Architecture for Llama {
    const MODEL_TYPE: &'static str = "llama";
    const NAME: &'static str = "reference-llama";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        folder.insist("hidden_act", config.hidden_act == "silu")?;
        folder.insist("rope_scaling", config.rope_scaling.is_none())?;
        folder.insist("attention_bias", !config.attention_bias)?;
        folder.insist("mlp_bias", !config.mlp_bias)?;
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embedding = folder.rows("model.embed_tokens.weight", vocab, width)?;
        let head = if config.tie_word_embeddings {
            Linear::from_outputs(&embedding, None)
        } else {
            folder.linear("lm_head", width, vocab, false)?
        };
        Ok(Self {
            embedding,
            layers: (0..config.num_hidden_layers)
                .map(|l| layer(folder, &config, l))
                .collect::<Result<_, _>>()?,
            norm: norm(folder, &config, "model.norm")?,
            head,
            context: config.max_position_embeddings,
        })
    }

    fn context(&self) -> usize {
        self.context
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        self.states_padded(tokens, tokens.len())
    }

    fn states_padded(&self, tokens: &[u32], padding: usize) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.embedding[t as usize].clone()).collect();
        for layer in &self.layers {
            let branch = layer.attention(&layer.attention_norm.apply_rows(&rows), padding);
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

fn norm(folder: &Folder, config: &Config, name: &str) -> Result<RmsNorm, Failure> {
    let weight = folder.vector(&format!("{name}.weight"), config.hidden_size)?;
    Ok(RmsNorm { weight, epsilon: config.rms_norm_eps })
}

fn layer(folder: &Folder, config: &Config, index: usize) -> Result<Layer, Failure> {
    let heads = Heads {
        queries: config.num_attention_heads,
        keys: config.num_key_value_heads,
        width: config.head_dim,
    };
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let (query, key) = (heads.queries * heads.width, heads.keys * heads.width);
    let named = |part: &str| format!("model.layers.{index}.{part}");
    let linear = |part, inputs, outputs| folder.linear(&named(part), inputs, outputs, false);
    Ok(Layer {
        attention_norm: norm(folder, config, &named("input_layernorm"))?,
        query: linear("self_attn.q_proj", width, query)?,
        key: linear("self_attn.k_proj", width, key)?,
        value: linear("self_attn.v_proj", width, key)?,
        output: linear("self_attn.o_proj", query, width)?,
        heads,
        rope_theta: config.rope_theta,
        mlp_norm: norm(folder, config, &named("post_attention_layernorm"))?,
        gate: linear("mlp.gate_proj", width, inner)?,
        up: linear("mlp.up_proj", width, inner)?,
        down: linear("mlp.down_proj", inner, width)?,
    })
}

impl Layer {
    fn attention(&self, rows: &[Vec<f64>], padding: usize) -> Rows {
        let queries = self.rotated(self.query.apply_rows(rows));
        let keys = self.rotated(self.key.apply_rows(rows));
        let values = self.value.apply_rows(rows);
        self.output.apply_rows(&self.heads.attend_before(&queries, &keys, &values, padding))
    }

    /// Rotary positions, head by head.
    fn rotated(&self, mut rows: Rows) -> Rows {
        let width = self.heads.width;
        for (t, row) in rows.iter_mut().enumerate() {
            row.chunks_exact_mut(width).for_each(|head| rotate(head, t, self.rope_theta));
        }
        rows
    }

    fn mlp(&self, rows: &[Vec<f64>]) -> Rows {
        let gated = |row: &Vec<f64>| {
            let (gate, up) = (self.gate.apply(row), self.up.apply(row));
            self.down.apply(&gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect::<Vec<_>>())
        };
        rows.iter().map(gated).collect()
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}
