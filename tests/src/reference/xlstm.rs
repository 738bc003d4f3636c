//! xLSTM as transformers has it: mLSTM blocks without convolutions, soft caps on gates and logits, a gated MLP.
//!
//! The formulas are those of transformers' `modeling_xlstm.py`; the cell is that of `shared/reference/architectures.md`,
//! section 7.1.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{LayerNorm, Linear, RmsNorm, Rows, add};
use super::mlstm::Memory;
use super::recurrent::{sigmoid, silu, soft_cap};
use super::{Architecture, Folder};

/// An xLSTM of transformers, opened as [`super::Reference`]`<Xlstm>`.
pub struct Xlstm {
    config: Config,
    embedding: Rows,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
}

/// An RMS norm with a bias.
struct Norm {
    norm: RmsNorm,
    bias: Vec<f64>,
}

struct Block {
    norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    output_gate: Linear,
    input_gate: Linear,
    forget_gate: Linear,
    /// One norm a head.
    head_norms: Vec<LayerNorm>,
    output: Linear,
    mlp_norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Deserialize, Clone)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_blocks: usize,
    num_heads: usize,
    use_bias: bool,
    norm_eps: f64,
    eps: f64,
    qk_dim_factor: f64,
    v_dim_factor: f64,
    ffn_proj_factor: f64,
    ffn_round_up_to_multiple_of: f64,
    /// No cap where it is null.
    gate_soft_cap: Option<f64>,
    output_logit_soft_cap: Option<f64>,
    weight_mode: String,
    tie_word_embeddings: bool,
}

impl Architecture for Xlstm {
    const MODEL_TYPE: &'static str = "xlstm";
    const NAME: &'static str = "reference-xlstm";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        folder.insist("weight_mode", config.weight_mode == "single")?;
        folder.insist("tie_word_embeddings", !config.tie_word_embeddings)?;
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let out_norm = folder.vector("backbone.out_norm.weight", width)?;
        let blocks = (0..config.num_blocks).map(|l| block(folder, &config, l));
        Ok(Self {
            embedding: folder.rows("backbone.embeddings.weight", vocab, width)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            norm: Norm {
                norm: RmsNorm { weight: out_norm, epsilon: config.norm_eps },
                bias: vec![0.0; width],
            },
            head: folder.linear("lm_head", width, vocab, false)?,
            config,
        })
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.embedding[t as usize].clone()).collect();
        for block in &self.blocks {
            let branch = block.mix(&block.norm.apply_rows(&rows), &self.config);
            add(&mut rows, branch);
            let branch = block.mlp(&block.mlp_norm.apply_rows(&rows));
            add(&mut rows, branch);
        }
        self.norm.apply_rows(&rows)
    }

    fn head(&self) -> &Linear {
        &self.head
    }

    fn logits(&self, state: &[f64]) -> Vec<f64> {
        let cap = |x| self.config.output_logit_soft_cap.map_or(x, |cap| soft_cap(x, cap));
        self.head.apply(state).into_iter().map(cap).collect()
    }
}

impl Norm {
    fn apply_rows(&self, rows: &[Vec<f64>]) -> Rows {
        let biased = |row: Vec<f64>| row.iter().zip(&self.bias).map(|(x, b)| x + b).collect();
        self.norm.apply_rows(rows).into_iter().map(biased).collect()
    }
}

/// A vector that is zero where the model has none.
fn bias(folder: &Folder, config: &Config, name: &str, len: usize) -> Result<Vec<f64>, Failure> {
    let bias = folder.optional(&format!("{name}.bias"), len, config.use_bias)?;
    Ok(bias.unwrap_or_else(|| vec![0.0; len]))
}

fn norm(folder: &Folder, config: &Config, name: &str) -> Result<Norm, Failure> {
    let weight = folder.vector(&format!("{name}.weight"), config.hidden_size)?;
    let norm = RmsNorm { weight, epsilon: config.norm_eps };
    Ok(Norm { norm, bias: bias(folder, config, name, config.hidden_size)? })
}

fn block(folder: &Folder, config: &Config, index: usize) -> Result<Block, Failure> {
    let named = |part: &str| format!("backbone.blocks.{index}.{part}");
    let (width, heads) = (config.hidden_size, config.num_heads);
    let (keys, values) = (width as f64 * config.qk_dim_factor, width as f64 * config.v_dim_factor);
    let (keys, values) = (keys as usize, values as usize);
    let multiple = config.ffn_round_up_to_multiple_of;
    let inner = ((width as f64 * config.ffn_proj_factor + multiple - 1.0) / multiple).floor() * multiple;
    let inner = inner as usize;
    let linear = |part, inputs, outputs| folder.linear(&named(part), inputs, outputs, config.use_bias);
    let gate = |part| folder.linear(&named(part), width, heads, true);
    let head_norm = folder.vector(&named("mlstm_layer.multihead_norm.weight"), values)?;
    let head_bias = bias(folder, config, &named("mlstm_layer.multihead_norm"), values)?;
    let head_norms = head_norm.chunks_exact(values / heads).zip(head_bias.chunks_exact(values / heads));
    let head_norm = |(w, b): (&[f64], &[f64])| LayerNorm {
        weight: w.to_vec(),
        bias: b.to_vec(),
        epsilon: config.norm_eps,
    };
    Ok(Block {
        norm: norm(folder, config, &named("norm_mlstm"))?,
        query: linear("mlstm_layer.q", width, keys)?,
        key: linear("mlstm_layer.k", width, keys)?,
        value: linear("mlstm_layer.v", width, values)?,
        output_gate: linear("mlstm_layer.ogate_preact", width, values)?,
        input_gate: gate("mlstm_layer.igate_preact")?,
        forget_gate: gate("mlstm_layer.fgate_preact")?,
        head_norms: head_norms.map(head_norm).collect(),
        output: linear("mlstm_layer.out_proj", values, width)?,
        mlp_norm: norm(folder, config, &named("norm_ffn"))?,
        gate: linear("ffn.proj_up_gate", width, inner)?,
        up: linear("ffn.proj_up", width, inner)?,
        down: linear("ffn.proj_down", inner, width)?,
    })
}

impl Block {
    fn mix(&self, rows: &[Vec<f64>], config: &Config) -> Rows {
        let heads = self.head_norms.len();
        let (keys, values) = (self.query.outputs() / heads, self.value.outputs() / heads);
        let mut memories: Vec<_> = (0..heads).map(|_| Memory::new(keys, values, 0.0)).collect();
        let step = |x: &Vec<f64>| {
            let (q, k, v) = (self.query.apply(x), self.key.apply(x), self.value.apply(x));
            let (input, forget) = (self.input_gate.apply(x), self.forget_gate.apply(x));
            let cap = |gate: f64| config.gate_soft_cap.map_or(gate, |cap| soft_cap(gate, cap));
            let head = |(h, memory): (usize, &mut Memory)| {
                let (keys, values) = (h * keys..(h + 1) * keys, h * values..(h + 1) * values);
                let qkv = [&q[keys.clone()], &k[keys], &v[values]];
                self.head_norms[h].apply(&memory.step(qkv, cap(input[h]), cap(forget[h]), config.eps))
            };
            let read: Vec<f64> = memories.iter_mut().enumerate().flat_map(head).collect();
            let gates = self.output_gate.apply(x);
            self.output.apply(&read.iter().zip(gates).map(|(h, o)| h * sigmoid(o)).collect::<Vec<_>>())
        };
        rows.iter().map(step).collect()
    }

    fn mlp(&self, rows: &[Vec<f64>]) -> Rows {
        let gated = |row: &Vec<f64>| {
            let (gate, up) = (self.gate.apply(row), self.up.apply(row));
            self.down.apply(&gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect::<Vec<_>>())
        };
        rows.iter().map(gated).collect()
    }
}
