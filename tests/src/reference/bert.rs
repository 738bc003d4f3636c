//! BERT and RoBERTa: every token sees every other, layer norms after each branch, learned positions, exact GELU, and a
//! head that transforms a state before it is compared with the embeddings.
//!
//! The formulas are those of `shared/reference/architectures.md`, sections 8.2 and 8.3.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Heads, LayerNorm, Linear, Rows, add};
use super::{Architecture, Folder};

/// A BERT, opened as [`super::MaskedReference`]`<Bert>`.
pub struct Bert(Encoder);

/// A RoBERTa, opened as [`super::MaskedReference`]`<Roberta>`.
pub struct Roberta {
    encoder: Encoder,
    pad: u32,
}

struct Encoder {
    tokens: Rows,
    positions: Rows,
    /// The row of the token type table for the first of two texts.
    segment: Vec<f64>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    transform: Linear,
    transform_norm: LayerNorm,
    head: Linear,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: Heads,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    mlp_norm: LayerNorm,
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    pad_token_id: u32,
    hidden_act: String,
    position_embedding_type: String,
    /// Tied unless it says otherwise.
    tie_word_embeddings: Option<bool>,
}

/// What the two call their tensors.
struct Names {
    model: &'static str,
    transform: &'static str,
    transform_norm: &'static str,
    bias: &'static str,
}

impl Architecture for Bert {
    const MODEL_TYPE: &'static str = "bert";
    const NAME: &'static str = "reference-bert";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let names = Names {
            model: "bert",
            transform: "cls.predictions.transform.dense",
            transform_norm: "cls.predictions.transform.LayerNorm",
            bias: "cls.predictions.bias",
        };
        Ok(Self(encoder(folder, &folder.config()?, &names)?))
    }

    fn context(&self) -> usize {
        self.0.positions.len()
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        self.0.states(tokens, 0..tokens.len())
    }

    fn head(&self) -> &Linear {
        &self.0.head
    }
}

impl Architecture for Roberta {
    const MODEL_TYPE: &'static str = "roberta";
    const NAME: &'static str = "reference-roberta";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        let names = Names {
            model: "roberta",
            transform: "lm_head.dense",
            transform_norm: "lm_head.layer_norm",
            bias: "lm_head.bias",
        };
        Ok(Self { encoder: encoder(folder, &config, &names)?, pad: config.pad_token_id })
    }

    fn context(&self) -> usize {
        self.encoder.positions.len() - self.pad as usize - 1
    }

    /// Positions count the tokens that are no padding, from the row after padding's own; padding stays at its row.
    fn states(&self, tokens: &[u32]) -> Rows {
        let pad = self.pad as usize;
        let mut counted = pad;
        let positions = tokens.iter().map(|&token| {
            counted += usize::from(token != self.pad);
            if token == self.pad { pad } else { counted }
        });
        self.encoder.states(tokens, positions)
    }

    fn head(&self) -> &Linear {
        &self.encoder.head
    }
}

fn encoder(folder: &Folder, config: &Config, names: &Names) -> Result<Encoder, Failure> {
    folder.insist("hidden_act", config.hidden_act == "gelu")?;
    folder.insist("position_embedding_type", config.position_embedding_type == "absolute")?;
    folder.insist("tie_word_embeddings", config.tie_word_embeddings != Some(false))?;
    let (vocab, width, epsilon) = (config.vocab_size, config.hidden_size, config.layer_norm_eps);
    let embedding = |part: &str| format!("{}.embeddings.{part}", names.model);
    let rows = |part: &str, rows| folder.rows(&embedding(part), rows, width);
    let tokens = rows("word_embeddings.weight", vocab)?;
    let mut segments = rows("token_type_embeddings.weight", config.type_vocab_size)?;
    Ok(Encoder {
        head: Linear::from_outputs(&tokens, Some(folder.vector(names.bias, vocab)?)),
        tokens,
        positions: rows("position_embeddings.weight", config.max_position_embeddings)?,
        segment: segments.swap_remove(0),
        norm: folder.layer_norm(&embedding("LayerNorm"), width, epsilon)?,
        layers: (0..config.num_hidden_layers)
            .map(|l| layer(folder, config, &format!("{}.encoder.layer.{l}", names.model)))
            .collect::<Result<_, _>>()?,
        transform: folder.linear(names.transform, width, width, true)?,
        transform_norm: folder.layer_norm(names.transform_norm, width, epsilon)?,
    })
}

fn layer(folder: &Folder, config: &Config, name: &str) -> Result<Layer, Failure> {
    let (width, inner, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
    let linear =
        |part: &str, inputs, outputs| folder.linear(&format!("{name}.{part}"), inputs, outputs, true);
    let norm = |part: &str| folder.layer_norm(&format!("{name}.{part}"), width, config.layer_norm_eps);
    Ok(Layer {
        query: linear("attention.self.query", width, width)?,
        key: linear("attention.self.key", width, width)?,
        value: linear("attention.self.value", width, width)?,
        output: linear("attention.output.dense", width, width)?,
        heads: Heads { queries: heads, keys: heads, width: width / heads },
        attention_norm: norm("attention.output.LayerNorm")?,
        up: linear("intermediate.dense", width, inner)?,
        down: linear("output.dense", inner, width)?,
        mlp_norm: norm("output.LayerNorm")?,
    })
}

impl Encoder {
    /// States after the head's transform, of tokens at these rows of the position table.
    fn states(&self, tokens: &[u32], positions: impl Iterator<Item = usize>) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.tokens[t as usize].clone()).collect();
        add(&mut rows, positions.map(|p| self.positions[p].clone()).collect());
        add(&mut rows, vec![self.segment.clone(); tokens.len()]);
        rows = self.norm.apply_rows(&rows);
        for layer in &self.layers {
            let branch = layer.attention(&rows);
            add(&mut rows, branch);
            rows = layer.attention_norm.apply_rows(&rows);
            let branch = layer.mlp(&rows);
            add(&mut rows, branch);
            rows = layer.mlp_norm.apply_rows(&rows);
        }
        self.transform_norm.apply_rows(&activated(self.transform.apply_rows(&rows)))
    }
}

impl Layer {
    fn attention(&self, rows: &[Vec<f64>]) -> Rows {
        let (queries, keys) = (self.query.apply_rows(rows), self.key.apply_rows(rows));
        let values = self.value.apply_rows(rows);
        self.output.apply_rows(&self.heads.attend_to_all(&queries, &keys, &values))
    }

    fn mlp(&self, rows: &[Vec<f64>]) -> Rows {
        self.down.apply_rows(&activated(self.up.apply_rows(rows)))
    }
}

fn activated(rows: Rows) -> Rows {
    rows.into_iter().map(|row| row.into_iter().map(gelu).collect()).collect()
}

/// `x Phi(x)`, with the normal distribution itself and not one of its approximations.
pub(super) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// The error function by `2 exp(-x^2) / sqrt(pi) * sum 2^n x^(2n+1) / (1 * 3 * ... * (2n+1))`, whose terms all have the
/// sign of `x`, so that none cancels another (Abramowitz & Stegun 7.1.6).
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        // 1 - erf(6) is 2e-17, less than f64 can tell from 1.
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > f64::EPSILON * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abramowitz & Stegun, table 7.1, and Python's `math.erf`.
    #[test]
    fn the_error_function_is_that_of_the_tables() {
        let known = [
            (0.0, 0.0),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (-3.0, -0.9999779095030014),
            (7.0, 1.0),
        ];
        for (x, expected) in known {
            assert!((erf(x) - expected).abs() < 1e-15, "erf({x}) is {}", erf(x));
        }
    }
}
