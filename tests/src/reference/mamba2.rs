//! Mamba-2: a state space whose decay is one number a head, so that its state is a matrix.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 6.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Linear, RmsNorm, Rows, add, dot};
use super::recurrent::{Convolution, silu, softplus};
use super::{Architecture, Folder};

/// A Mamba-2, opened as [`super::Reference`]`<Mamba2>`.
pub struct Mamba2 {
    embedding: Rows,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
}

struct Layer {
    config: Config,
    norm: RmsNorm,
    input: Linear,
    convolution: Convolution,
    step_bias: Vec<f64>,
    /// `ln(-A)`, one a head.
    log_rates: Vec<f64>,
    skip: Vec<f64>,
    /// One norm a group of channels.
    gated_norms: Vec<RmsNorm>,
    output: Linear,
}

#[derive(Deserialize, Clone)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_heads: usize,
    head_dim: usize,
    state_size: usize,
    n_groups: usize,
    num_hidden_layers: usize,
    conv_kernel: usize,
    layer_norm_epsilon: f64,
    /// Infinity reads as null.
    time_step_limit: (f64, Option<f64>),
    use_bias: bool,
    use_conv_bias: bool,
    rms_norm: bool,
    hidden_act: String,
    tie_word_embeddings: bool,
    /// Not of transformers, whose gated norm spans all channels: the original package norms group by group.
    reference_norm_groups: Option<usize>,
}

impl Config {
    fn inner(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Channels of all groups' keys.
    fn keys(&self) -> usize {
        self.n_groups * self.state_size
    }
}

impl Architecture for Mamba2 {
    const MODEL_TYPE: &'static str = "mamba2";
    const NAME: &'static str = "reference-mamba2";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        folder.insist("hidden_act", config.hidden_act == "silu")?;
        folder.insist("rms_norm", config.rms_norm)?;
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embedding = folder.rows("backbone.embeddings.weight", vocab, width)?;
        let head = if config.tie_word_embeddings {
            Linear::from_outputs(&embedding, None)
        } else {
            folder.linear("lm_head", width, vocab, false)?
        };
        let layers = (0..config.num_hidden_layers).map(|l| layer(folder, &config, l));
        Ok(Self {
            embedding,
            layers: layers.collect::<Result<_, _>>()?,
            norm: norm(folder, &config, "backbone.norm_f", width)?,
            head,
        })
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.embedding[t as usize].clone()).collect();
        for layer in &self.layers {
            let branch = layer.mix(&layer.norm.apply_rows(&rows));
            add(&mut rows, branch);
        }
        self.norm.apply_rows(&rows)
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

fn norm(folder: &Folder, config: &Config, name: &str, width: usize) -> Result<RmsNorm, Failure> {
    let weight = folder.vector(&format!("{name}.weight"), width)?;
    Ok(RmsNorm { weight, epsilon: config.layer_norm_epsilon })
}

fn layer(folder: &Folder, config: &Config, index: usize) -> Result<Layer, Failure> {
    let named = |part: &str| format!("backbone.layers.{index}.{part}");
    let (width, inner, heads) = (config.hidden_size, config.inner(), config.num_heads);
    let convolved = inner + 2 * config.keys();
    let taps = folder.blocks(&named("mixer.conv1d.weight"), convolved, 1, config.conv_kernel)?;
    let gated_norm = norm(folder, config, &named("mixer.norm"), inner)?;
    let group = inner / config.reference_norm_groups.unwrap_or(1);
    let gated_norms = gated_norm.weight.chunks_exact(group);
    let gated_norms = gated_norms.map(|w| RmsNorm { weight: w.to_vec(), epsilon: gated_norm.epsilon });
    Ok(Layer {
        norm: norm(folder, config, &named("norm"), width)?,
        input: folder.linear(&named("mixer.in_proj"), width, inner + convolved + heads, config.use_bias)?,
        convolution: Convolution {
            taps: taps.into_iter().flatten().collect(),
            bias: folder.optional(&named("mixer.conv1d.bias"), convolved, config.use_conv_bias)?,
        },
        step_bias: folder.vector(&named("mixer.dt_bias"), heads)?,
        log_rates: folder.vector(&named("mixer.A_log"), heads)?,
        skip: folder.vector(&named("mixer.D"), heads)?,
        gated_norms: gated_norms.collect(),
        output: folder.linear(&named("mixer.out_proj"), inner, width, config.use_bias)?,
        config: config.clone(),
    })
}

impl Layer {
    fn mix(&self, rows: &[Vec<f64>]) -> Rows {
        let (inner, heads) = (self.config.inner(), self.config.num_heads);
        // A row is z, then x, B and C, which are convolved, then the steps.
        let projected = self.input.apply_rows(rows);
        let xbc: Rows = projected.iter().map(|row| row[inner..row.len() - heads].to_vec()).collect();
        let mut states = vec![vec![vec![0.0; self.config.state_size]; self.config.head_dim]; heads];
        let step = |(xbc, projected): (Vec<f64>, &Vec<f64>)| {
            let xbc: Vec<f64> = xbc.into_iter().map(silu).collect();
            let y = self.scan(&xbc, &projected[projected.len() - heads..], &mut states);
            let gated: Vec<f64> = y.iter().zip(&projected[..inner]).map(|(y, z)| y * silu(*z)).collect();
            let groups = gated.chunks_exact(inner / self.gated_norms.len()).zip(&self.gated_norms);
            self.output.apply(&groups.flat_map(|(row, norm)| norm.apply(row)).collect::<Vec<_>>())
        };
        self.convolution.apply(&xbc).into_iter().zip(&projected).map(step).collect()
    }

    /// One step: `H = exp(dt A) H + dt x B'`, `y = H C + D x`, for each head.
    fn scan(&self, xbc: &[f64], steps: &[f64], states: &mut [Rows]) -> Vec<f64> {
        let Config { head_dim, state_size, n_groups, time_step_limit, .. } = self.config;
        let (x, bc) = xbc.split_at(self.config.inner());
        let (b, c) = bc.split_at(self.config.keys());
        let head = |(h, state): (usize, &mut Rows)| {
            let group = h / (self.config.num_heads / n_groups);
            let keys = group * state_size..(group + 1) * state_size;
            let dt = softplus(steps[h] + self.step_bias[h]);
            let dt = dt.clamp(time_step_limit.0, time_step_limit.1.unwrap_or(f64::INFINITY));
            let decay = (-self.log_rates[h].exp() * dt).exp();
            let channel = |(p, state): (usize, &mut Vec<f64>)| {
                let x = x[h * head_dim + p];
                for (s, b) in state.iter_mut().zip(&b[keys.clone()]) {
                    *s = decay * *s + dt * x * b;
                }
                dot(state, &c[keys.clone()]) + self.skip[h] * x
            };
            state.iter_mut().enumerate().map(channel).collect::<Vec<_>>()
        };
        states.iter_mut().enumerate().flat_map(head).collect()
    }
}
