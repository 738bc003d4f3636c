//! GPT-NeoX: layer norms, rotary positions on a part of each head, and attention and MLP side by side.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 3.2.

use bheval_abi::Failure;
use serde::Deserialize;

use super::bert::gelu;
use super::layers::{Heads, LayerNorm, Linear, Rows, add, rotate};
use super::{Architecture, Folder};

/// A GPT-NeoX, opened as [`super::Reference`]`<GptNeox>`.
pub struct GptNeox {
    embedding: Rows,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
    context: usize,
}

struct Layer {
    attention_norm: LayerNorm,
    query_key_value: Linear,
    output: Linear,
    heads: Heads,
    rotated: usize,
    rope_theta: f64,
    mlp_norm: LayerNorm,
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
    max_position_embeddings: usize,
    layer_norm_eps: f64,
    rotary_pct: f64,
    rotary_emb_base: f64,
    rope_scaling: Option<serde_json::Value>,
    use_parallel_residual: bool,
    attention_bias: bool,
    hidden_act: String,
    tie_word_embeddings: bool,
}

impl Architecture for GptNeox {
    const MODEL_TYPE: &'static str = "gpt_neox";
    const NAME: &'static str = "reference-gpt-neox";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        folder.insist("hidden_act", config.hidden_act == "gelu")?;
        folder.insist("rope_scaling", config.rope_scaling.is_none())?;
        folder.insist("use_parallel_residual", config.use_parallel_residual)?;
        folder.insist("attention_bias", config.attention_bias)?;
        folder.insist("tie_word_embeddings", !config.tie_word_embeddings)?;
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        Ok(Self {
            embedding: folder.rows("gpt_neox.embed_in.weight", vocab, width)?,
            layers: (0..config.num_hidden_layers)
                .map(|l| layer(folder, &config, l))
                .collect::<Result<_, _>>()?,
            norm: folder.layer_norm("gpt_neox.final_layer_norm", width, config.layer_norm_eps)?,
            head: folder.linear("embed_out", width, vocab, false)?,
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
            let attention = layer.attention(&layer.attention_norm.apply_rows(&rows), padding);
            let mlp = layer.mlp(&layer.mlp_norm.apply_rows(&rows));
            add(&mut rows, attention);
            add(&mut rows, mlp);
        }
        self.norm.apply_rows(&rows)
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

fn layer(folder: &Folder, config: &Config, index: usize) -> Result<Layer, Failure> {
    let (width, inner, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
    let named = |part: &str| format!("gpt_neox.layers.{index}.{part}");
    let linear = |part, inputs, outputs| folder.linear(&named(part), inputs, outputs, true);
    let norm = |part| folder.layer_norm(&named(part), width, config.layer_norm_eps);
    Ok(Layer {
        attention_norm: norm("input_layernorm")?,
        query_key_value: linear("attention.query_key_value", width, 3 * width)?,
        output: linear("attention.dense", width, width)?,
        heads: Heads { queries: heads, keys: heads, width: width / heads },
        rotated: ((width / heads) as f64 * config.rotary_pct) as usize,
        rope_theta: config.rotary_emb_base,
        mlp_norm: norm("post_attention_layernorm")?,
        up: linear("mlp.dense_h_to_4h", width, inner)?,
        down: linear("mlp.dense_4h_to_h", inner, width)?,
    })
}

impl Layer {
    fn attention(&self, rows: &[Vec<f64>], padding: usize) -> Rows {
        let all = self.query_key_value.apply_rows(rows);
        // The fused projection gives query, key and value of the first head, then those of the second.
        let third = |which: usize| -> Rows {
            let of_head = |head: &[f64]| head[which * self.heads.width..][..self.heads.width].to_vec();
            all.iter().map(|row| row.chunks_exact(3 * self.heads.width).flat_map(of_head).collect()).collect()
        };
        let (queries, keys) = (self.turned(third(0)), self.turned(third(1)));
        self.output.apply_rows(&self.heads.attend_before(&queries, &keys, &third(2), padding))
    }

    /// Rotary positions on the first channels of each head.
    fn turned(&self, mut rows: Rows) -> Rows {
        for (t, row) in rows.iter_mut().enumerate() {
            let heads = row.chunks_exact_mut(self.heads.width);
            heads.for_each(|head| rotate(&mut head[..self.rotated], t, self.rope_theta));
        }
        rows
    }

    fn mlp(&self, rows: &[Vec<f64>]) -> Rows {
        let activated = |row| self.up.apply(row).into_iter().map(gelu).collect::<Vec<_>>();
        rows.iter().map(|row| self.down.apply(&activated(row))).collect()
    }
}
