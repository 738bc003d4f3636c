//! GPT-2: layer norms before each branch, learned positions, tanh GELU, and the embedding as head.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 3.1.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Heads, LayerNorm, Linear, Rows, add};
use super::{Architecture, Folder};

/// A GPT-2, opened as [`super::Reference`]`<Gpt2>`.
pub struct Gpt2 {
    tokens: Rows,
    positions: Rows,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
}

struct Layer {
    attention_norm: LayerNorm,
    query_key_value: Linear,
    output: Linear,
    heads: Heads,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    layer_norm_epsilon: f64,
    activation_function: String,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    /// Tied unless it says otherwise.
    tie_word_embeddings: Option<bool>,
}

impl Architecture for Gpt2 {
    const MODEL_TYPE: &'static str = "gpt2";
    const NAME: &'static str = "reference-gpt2";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        folder.insist("activation_function", config.activation_function == "gelu_new")?;
        folder.insist("scale_attn_weights", config.scale_attn_weights)?;
        folder.insist("scale_attn_by_inverse_layer_idx", !config.scale_attn_by_inverse_layer_idx)?;
        folder.insist("tie_word_embeddings", config.tie_word_embeddings != Some(false))?;
        let width = config.n_embd;
        let tokens = folder.rows("transformer.wte.weight", config.vocab_size, width)?;
        Ok(Self {
            head: Linear::from_outputs(&tokens, None),
            tokens,
            positions: folder.rows("transformer.wpe.weight", config.n_positions, width)?,
            layers: (0..config.n_layer).map(|l| layer(folder, &config, l)).collect::<Result<_, _>>()?,
            norm: folder.layer_norm("transformer.ln_f", width, config.layer_norm_epsilon)?,
        })
    }

    fn context(&self) -> usize {
        self.positions.len()
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.tokens[t as usize].clone()).collect();
        add(&mut rows, self.positions[..tokens.len()].to_vec());
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
    let (width, epsilon) = (config.n_embd, config.layer_norm_epsilon);
    let inner = config.n_inner.unwrap_or(4 * width);
    let named = |part: &str| format!("transformer.h.{index}.{part}");
    Ok(Layer {
        attention_norm: folder.layer_norm(&named("ln_1"), width, epsilon)?,
        query_key_value: folder.conv1d(&named("attn.c_attn"), width, 3 * width)?,
        output: folder.conv1d(&named("attn.c_proj"), width, width)?,
        heads: Heads { queries: config.n_head, keys: config.n_head, width: width / config.n_head },
        mlp_norm: folder.layer_norm(&named("ln_2"), width, epsilon)?,
        up: folder.conv1d(&named("mlp.c_fc"), width, inner)?,
        down: folder.conv1d(&named("mlp.c_proj"), inner, width)?,
    })
}

impl Layer {
    fn attention(&self, rows: &[Vec<f64>]) -> Rows {
        let all = self.query_key_value.apply_rows(rows);
        // The fused projection gives all queries, then all keys, then all values.
        let third = |i: usize| -> Rows {
            all.iter().map(|row| row[i * row.len() / 3..(i + 1) * row.len() / 3].to_vec()).collect()
        };
        self.output.apply_rows(&self.heads.attend(&third(0), &third(1), &third(2)))
    }

    fn mlp(&self, rows: &[Vec<f64>]) -> Rows {
        let activated = |row| self.up.apply(row).into_iter().map(gelu_tanh).collect::<Vec<_>>();
        rows.iter().map(|row| self.down.apply(&activated(row))).collect()
    }
}

/// The tanh approximation of GELU, `gelu_new` in `config.json`.
fn gelu_tanh(x: f64) -> f64 {
    let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}
