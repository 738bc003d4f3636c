//! Mamba: a selective state space per channel, `A` diagonal, between a short convolution and a gate.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 5.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Linear, RmsNorm, Rows, add, dot};
use super::recurrent::{Convolution, silu, softplus};
use super::{Architecture, Folder};

/// A Mamba, opened as [`super::Reference`]`<Mamba>`.
pub struct Mamba {
    embedding: Rows,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
}

struct Layer {
    norm: RmsNorm,
    input: Linear,
    convolution: Convolution,
    selection: Linear,
    step: Linear,
    /// `ln(-A)`, one row a channel.
    log_rates: Rows,
    skip: Vec<f64>,
    output: Linear,
    rank: usize,
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    state_size: usize,
    num_hidden_layers: usize,
    conv_kernel: usize,
    time_step_rank: usize,
    layer_norm_epsilon: f64,
    use_bias: bool,
    use_conv_bias: bool,
    hidden_act: String,
    /// Tied unless it says otherwise.
    tie_word_embeddings: Option<bool>,
}

impl Architecture for Mamba {
    const MODEL_TYPE: &'static str = "mamba";
    const NAME: &'static str = "reference-mamba";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        folder.insist("hidden_act", config.hidden_act == "silu")?;
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embedding = folder.rows("backbone.embeddings.weight", vocab, width)?;
        let head = if config.tie_word_embeddings == Some(false) {
            folder.linear("lm_head", width, vocab, false)?
        } else {
            Linear::from_outputs(&embedding, None)
        };
        let layers = (0..config.num_hidden_layers).map(|l| layer(folder, &config, l));
        Ok(Self {
            embedding,
            layers: layers.collect::<Result<_, _>>()?,
            norm: norm(folder, &config, "backbone.norm_f")?,
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

fn norm(folder: &Folder, config: &Config, name: &str) -> Result<RmsNorm, Failure> {
    let weight = folder.vector(&format!("{name}.weight"), config.hidden_size)?;
    Ok(RmsNorm { weight, epsilon: config.layer_norm_epsilon })
}

fn layer(folder: &Folder, config: &Config, index: usize) -> Result<Layer, Failure> {
    let named = |part: &str| format!("backbone.layers.{index}.{part}");
    let (width, inner, state, rank) =
        (config.hidden_size, config.intermediate_size, config.state_size, config.time_step_rank);
    let taps = folder.blocks(&named("mixer.conv1d.weight"), inner, 1, config.conv_kernel)?;
    Ok(Layer {
        norm: norm(folder, config, &named("norm"))?,
        input: folder.linear(&named("mixer.in_proj"), width, 2 * inner, config.use_bias)?,
        convolution: Convolution {
            taps: taps.into_iter().flatten().collect(),
            bias: folder.optional(&named("mixer.conv1d.bias"), inner, config.use_conv_bias)?,
        },
        selection: folder.linear(&named("mixer.x_proj"), inner, rank + 2 * state, false)?,
        step: folder.linear(&named("mixer.dt_proj"), rank, inner, true)?,
        log_rates: folder.rows(&named("mixer.A_log"), inner, state)?,
        skip: folder.vector(&named("mixer.D"), inner)?,
        output: folder.linear(&named("mixer.out_proj"), inner, width, config.use_bias)?,
        rank,
    })
}

impl Layer {
    fn mix(&self, rows: &[Vec<f64>]) -> Rows {
        let inner = self.skip.len();
        let projected = self.input.apply_rows(rows);
        let x: Rows = projected.iter().map(|row| row[..inner].to_vec()).collect();
        let mut states: Rows = self.log_rates.iter().map(|rates| vec![0.0; rates.len()]).collect();
        let step = |(x, projected): (Vec<f64>, &Vec<f64>)| {
            let x: Vec<f64> = x.into_iter().map(silu).collect();
            let y = self.scan(&x, &mut states);
            let gated = y.iter().zip(&projected[inner..]).map(|(y, z)| y * silu(*z));
            self.output.apply(&gated.collect::<Vec<_>>())
        };
        self.convolution.apply(&x).into_iter().zip(&projected).map(step).collect()
    }

    /// One step of the state space: `h = exp(dt A) h + dt B x`, `y = C h + D x`.
    fn scan(&self, x: &[f64], states: &mut Rows) -> Vec<f64> {
        let selected = self.selection.apply(x);
        let (step, bc) = selected.split_at(self.rank);
        let (b, c) = bc.split_at(bc.len() / 2);
        let steps = self.step.apply(step);
        let channel = |(i, state): (usize, &mut Vec<f64>)| {
            let dt = softplus(steps[i]);
            for (n, h) in state.iter_mut().enumerate() {
                *h = (-self.log_rates[i][n].exp() * dt).exp() * *h + dt * b[n] * x[i];
            }
            dot(state, c) + self.skip[i] * x[i]
        };
        states.iter_mut().enumerate().map(channel).collect()
    }
}
