//! The LSTM language model: `torch.nn.LSTM` between an embedding and a linear head.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 4.

use bheval_abi::Failure;
use serde::Deserialize;

use super::layers::{Linear, Rows};
use super::recurrent::sigmoid;
use super::{Architecture, Folder};

/// An LSTM, opened as [`super::Reference`]`<Lstm>`.
pub struct Lstm {
    embedding: Rows,
    layers: Vec<Layer>,
    projection: Option<Linear>,
    head: Linear,
}

struct Layer {
    input: Linear,
    recurrent: Linear,
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    embedding_size: usize,
    hidden_size: usize,
    num_layers: usize,
    tie_word_embeddings: bool,
}

impl Architecture for Lstm {
    const MODEL_TYPE: &'static str = "lstm_lm";
    const NAME: &'static str = "reference-lstm";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let Config { vocab_size, embedding_size, hidden_size, num_layers, tie_word_embeddings } =
            folder.config()?;
        let embedding = folder.rows("embedding.weight", vocab_size, embedding_size)?;
        let layers = (0..num_layers).map(|l| {
            let inputs = if l == 0 { embedding_size } else { hidden_size };
            layer(folder, l, inputs, hidden_size)
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let projected = tie_word_embeddings && embedding_size != hidden_size;
        let projection =
            projected.then(|| folder.linear("proj", hidden_size, embedding_size, false)).transpose()?;
        let head = if tie_word_embeddings {
            Linear::from_outputs(&embedding, Some(folder.vector("decoder.bias", vocab_size)?))
        } else {
            folder.linear("decoder", hidden_size, vocab_size, true)?
        };
        Ok(Self { embedding, layers, projection, head })
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        let embedded: Rows = tokens.iter().map(|&t| self.embedding[t as usize].clone()).collect();
        let rows = self.layers.iter().fold(embedded, |rows, layer| layer.run(&rows));
        self.projection.as_ref().map_or_else(|| rows.clone(), |projection| projection.apply_rows(&rows))
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

fn layer(folder: &Folder, index: usize, inputs: usize, hidden: usize) -> Result<Layer, Failure> {
    let linear = |kind: &str, inputs: usize| {
        let weight = folder.rows(&format!("lstm.weight_{kind}_l{index}"), 4 * hidden, inputs)?;
        let bias = folder.vector(&format!("lstm.bias_{kind}_l{index}"), 4 * hidden)?;
        Ok(Linear::from_outputs(&weight, Some(bias)))
    };
    Ok(Layer { input: linear("ih", inputs)?, recurrent: linear("hh", hidden)? })
}

impl Layer {
    fn run(&self, rows: &[Vec<f64>]) -> Rows {
        let hidden = self.input.outputs() / 4;
        let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
        let step = |row: &Vec<f64>| {
            let (from_input, from_state) = (self.input.apply(row), self.recurrent.apply(&h));
            // The gates come in the order i, f, g, o.
            let gate = |g: usize, j: usize| from_input[g * hidden + j] + from_state[g * hidden + j];
            for j in 0..hidden {
                c[j] = sigmoid(gate(1, j)) * c[j] + sigmoid(gate(0, j)) * gate(2, j).tanh();
                h[j] = sigmoid(gate(3, j)) * c[j].tanh();
            }
            h.clone()
        };
        rows.iter().map(step).collect()
    }
}
