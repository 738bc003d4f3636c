//! xLSTM as the authors' package has it: residual blocks of mLSTM and sLSTM with short convolutions.
//!
//! The formulas are those of `shared/reference/architectures.md`, section 7.

use bheval_abi::Failure;
use serde::Deserialize;

use super::bert::gelu;
use super::layers::{LayerNorm, Linear, Rows, add};
use super::mlstm::Memory;
use super::recurrent::{Convolution, log_sigmoid, sigmoid, silu};
use super::{Architecture, Folder};

/// ε of every norm of the package.
const NORM_EPSILON: f64 = 1e-5;
/// ε beside the normaliser of the mLSTM cell.
const CELL_EPSILON: f64 = 1e-6;

/// An xLSTM of the authors' package, opened as [`super::Reference`]`<XlstmBlock>`.
pub struct XlstmBlock {
    embedding: Rows,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    head: Linear,
}

enum Block {
    Matrix(LayerNorm, Matrix),
    Scalar(LayerNorm, Scalar, Option<(LayerNorm, Mlp)>),
}

/// The mLSTM layer.
struct Matrix {
    up: Linear,
    convolution: Convolution,
    query: Blocks,
    key: Blocks,
    value: Blocks,
    input_gate: Linear,
    forget_gate: Linear,
    head_norms: Vec<LayerNorm>,
    skip: Vec<f64>,
    down: Linear,
}

/// The sLSTM layer. Gates come in the order i, f, z, o.
struct Scalar {
    convolution: Option<Convolution>,
    gates: [Blocks; 4],
    /// For each head and gate, from the head's output to the gate.
    recurrent: Vec<Vec<Linear>>,
    /// For each gate, head by head.
    bias: Vec<Vec<f64>>,
    head_norms: Vec<LayerNorm>,
}

struct Mlp {
    up: Linear,
    down: Linear,
    activation: String,
}

/// A projection that keeps to its block of channels.
struct Blocks {
    blocks: Vec<Linear>,
    bias: Option<Vec<f64>>,
}

impl Blocks {
    fn apply(&self, row: &[f64]) -> Vec<f64> {
        let blocks = row.chunks_exact(row.len() / self.blocks.len()).zip(&self.blocks);
        let row: Vec<f64> = blocks.flat_map(|(row, block)| block.apply(row)).collect();
        let biased = |bias: &Vec<f64>| row.iter().zip(bias).map(|(x, b)| x + b).collect();
        self.bias.as_ref().map_or_else(|| row.clone(), biased)
    }
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    embedding_dim: usize,
    num_blocks: usize,
    bias: bool,
    slstm_at: Vec<usize>,
    tie_weights: bool,
    add_post_blocks_norm: Option<bool>,
    mlstm_block: Option<MatrixBlock>,
    slstm_block: Option<ScalarBlock>,
}

#[derive(Deserialize)]
struct MatrixBlock {
    mlstm: MatrixConfig,
}

#[derive(Deserialize)]
struct MatrixConfig {
    conv1d_kernel_size: usize,
    qkv_proj_blocksize: usize,
    num_heads: usize,
}

#[derive(Deserialize)]
struct ScalarBlock {
    slstm: ScalarConfig,
    feedforward: Option<MlpConfig>,
}

#[derive(Deserialize)]
struct ScalarConfig {
    conv1d_kernel_size: usize,
    num_heads: usize,
    backend: String,
}

#[derive(Deserialize)]
struct MlpConfig {
    proj_factor: f64,
    act_fn: String,
}

impl Architecture for XlstmBlock {
    const MODEL_TYPE: &'static str = "xlstm";
    const NAME: &'static str = "reference-xlstm-block";

    fn load(folder: &Folder) -> Result<Self, Failure> {
        let config: Config = folder.config()?;
        let (vocab, width) = (config.vocab_size, config.embedding_dim);
        let embedding = folder.rows("token_embedding.weight", vocab, width)?;
        let head = if config.tie_weights {
            Linear::from_outputs(&embedding, None)
        } else {
            folder.linear("lm_head", width, vocab, false)?
        };
        let with_norm = config.add_post_blocks_norm != Some(false);
        let norm = with_norm.then(|| norm(folder, "xlstm_block_stack.post_blocks_norm", width));
        let blocks = (0..config.num_blocks).map(|l| block(folder, &config, l));
        Ok(Self { embedding, blocks: blocks.collect::<Result<_, _>>()?, norm: norm.transpose()?, head })
    }

    fn states(&self, tokens: &[u32]) -> Rows {
        let mut rows: Rows = tokens.iter().map(|&t| self.embedding[t as usize].clone()).collect();
        for block in &self.blocks {
            match block {
                Block::Matrix(norm, layer) => add_branch(&mut rows, |x| layer.mix(&norm.apply_rows(x))),
                Block::Scalar(norm, layer, mlp) => {
                    add_branch(&mut rows, |x| layer.mix(&norm.apply_rows(x)));
                    if let Some((norm, mlp)) = mlp {
                        add_branch(&mut rows, |x| mlp.apply_rows(&norm.apply_rows(x)));
                    }
                }
            }
        }
        self.norm.as_ref().map_or_else(|| rows.clone(), |norm| norm.apply_rows(&rows))
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

fn add_branch(rows: &mut Rows, branch: impl Fn(&Rows) -> Rows) {
    let branch = branch(rows);
    add(rows, branch);
}

/// A norm whose stored weight is what its factor exceeds 1 by.
fn norm(folder: &Folder, name: &str, width: usize) -> Result<LayerNorm, Failure> {
    let weight = folder.vector(&format!("{name}.weight"), width)?.iter().map(|w| 1.0 + w).collect();
    Ok(LayerNorm { weight, bias: vec![0.0; width], epsilon: NORM_EPSILON })
}

fn head_norms(folder: &Folder, name: &str, width: usize, heads: usize) -> Result<Vec<LayerNorm>, Failure> {
    let whole = norm(folder, name, width)?;
    let head = |w: &[f64]| LayerNorm { weight: w.to_vec(), bias: vec![0.0; w.len()], epsilon: NORM_EPSILON };
    Ok(whole.weight.chunks_exact(width / heads).map(head).collect())
}

fn convolution(folder: &Folder, name: &str, channels: usize, taps: usize) -> Result<Convolution, Failure> {
    let weight = folder.blocks(&format!("{name}.weight"), channels, 1, taps)?;
    let bias = folder.vector(&format!("{name}.bias"), channels)?;
    Ok(Convolution { taps: weight.into_iter().flatten().collect(), bias: Some(bias) })
}

fn blocks(folder: &Folder, name: &str, count: usize, width: usize, bias: bool) -> Result<Blocks, Failure> {
    let block = width / count;
    let weights = folder.blocks(&format!("{name}.weight"), count, block, block)?;
    let bias = folder.optional(&format!("{name}.bias"), width, bias)?;
    Ok(Blocks { blocks: weights.iter().map(|w| Linear::from_outputs(w, None)).collect(), bias })
}

/// A multiple of 64, as the package rounds up.
fn rounded_up(width: f64) -> usize {
    (width / 64.0).ceil() as usize * 64
}

fn block(folder: &Folder, config: &Config, index: usize) -> Result<Block, Failure> {
    let name = format!("xlstm_block_stack.blocks.{index}");
    let width = config.embedding_dim;
    let norm_before = norm(folder, &format!("{name}.xlstm_norm"), width)?;
    match (&config.mlstm_block, &config.slstm_block) {
        (Some(block), _) if !config.slstm_at.contains(&index) => {
            Ok(Block::Matrix(norm_before, matrix(folder, config, &block.mlstm, &name)?))
        }
        (_, Some(block)) => {
            let layer = scalar(folder, &block.slstm, width, &name)?;
            let mlp = block.feedforward.as_ref().map(|mlp_config| {
                let inner = rounded_up(width as f64 * mlp_config.proj_factor);
                let norm = norm(folder, &format!("{name}.ffn_norm"), width)?;
                let up = folder.linear(&format!("{name}.ffn.proj_up"), width, 2 * inner, false)?;
                let down = folder.linear(&format!("{name}.ffn.proj_down"), inner, width, false)?;
                Ok((norm, Mlp { up, down, activation: mlp_config.act_fn.clone() }))
            });
            Ok(Block::Scalar(norm_before, layer, mlp.transpose()?))
        }
        _ => Err(Failure::model(format!("block {index} has no configuration"))),
    }
}

fn matrix(folder: &Folder, config: &Config, layer: &MatrixConfig, name: &str) -> Result<Matrix, Failure> {
    let (width, bias) = (config.embedding_dim, config.bias);
    let inner = rounded_up(2.0 * width as f64);
    let named = |part: &str| format!("{name}.xlstm.{part}");
    let qkv = |part: &str| blocks(folder, &named(part), inner / layer.qkv_proj_blocksize, inner, bias);
    let gate = |part: &str| folder.linear(&named(part), 3 * inner, layer.num_heads, true);
    Ok(Matrix {
        up: folder.linear(&named("proj_up"), width, 2 * inner, bias)?,
        convolution: convolution(folder, &named("conv1d.conv"), inner, layer.conv1d_kernel_size)?,
        query: qkv("q_proj")?,
        key: qkv("k_proj")?,
        value: qkv("v_proj")?,
        input_gate: gate("mlstm_cell.igate")?,
        forget_gate: gate("mlstm_cell.fgate")?,
        head_norms: head_norms(folder, &named("mlstm_cell.outnorm"), inner, layer.num_heads)?,
        skip: folder.vector(&named("learnable_skip"), inner)?,
        down: folder.linear(&named("proj_down"), inner, width, bias)?,
    })
}

fn scalar(folder: &Folder, layer: &ScalarConfig, width: usize, name: &str) -> Result<Scalar, Failure> {
    folder.insist("slstm_block", layer.backend == "vanilla")?;
    let (heads, unit) = (layer.num_heads, width / layer.num_heads);
    let named = |part: &str| format!("{name}.xlstm.{part}");
    let gate = |part: &str| blocks(folder, &named(part), heads, width, false);
    let taps = layer.conv1d_kernel_size;
    let convolve = || convolution(folder, &named("conv1d.conv"), width, taps);
    let kernel = folder.blocks(&named("slstm_cell._recurrent_kernel_"), heads, 4 * unit, unit)?;
    let by_gate = |rows: &Rows| rows.chunks_exact(unit).map(|g| Linear::from_outputs(g, None)).collect();
    let bias = folder.vector(&named("slstm_cell._bias_"), 4 * width)?;
    Ok(Scalar {
        convolution: (taps > 0).then(convolve).transpose()?,
        // The package hands what it calls fgate to the cell as the input gate, and igate as the forget gate.
        gates: [gate("fgate")?, gate("igate")?, gate("zgate")?, gate("ogate")?],
        recurrent: kernel.iter().map(by_gate).collect(),
        bias: bias.chunks_exact(width).map(<[f64]>::to_vec).collect(),
        head_norms: head_norms(folder, &named("group_norm"), width, heads)?,
    })
}

impl Matrix {
    fn mix(&self, rows: &[Vec<f64>]) -> Rows {
        let (inner, heads) = (self.skip.len(), self.head_norms.len());
        let size = inner / heads;
        let projected = self.up.apply_rows(rows);
        let x: Rows = projected.iter().map(|row| row[..inner].to_vec()).collect();
        let mut memories: Vec<_> = (0..heads).map(|_| Memory::new(size, size, f64::NEG_INFINITY)).collect();
        let step = |(convolved, projected): (Vec<f64>, &Vec<f64>)| {
            let activated: Vec<f64> = convolved.into_iter().map(silu).collect();
            let (q, k) = (self.query.apply(&activated), self.key.apply(&activated));
            let v = self.value.apply(&projected[..inner]);
            let qkv = [&q[..], &k, &v].concat();
            let (input, forget) = (self.input_gate.apply(&qkv), self.forget_gate.apply(&qkv));
            let head = |(h, memory): (usize, &mut Memory)| {
                let at = h * size..(h + 1) * size;
                let qkv = [&q[at.clone()], &k[at.clone()], &v[at]];
                self.head_norms[h].apply(&memory.step(qkv, input[h], forget[h], CELL_EPSILON))
            };
            let read: Vec<f64> = memories.iter_mut().enumerate().flat_map(head).collect();
            let gated =
                (0..inner).map(|j| (read[j] + self.skip[j] * activated[j]) * silu(projected[inner + j]));
            self.down.apply(&gated.collect::<Vec<_>>())
        };
        self.convolution.apply(&x).into_iter().zip(&projected).map(step).collect()
    }
}

impl Scalar {
    fn mix(&self, rows: &[Vec<f64>]) -> Rows {
        let width = rows[0].len();
        let convolved = self.convolution.as_ref().map_or_else(
            || rows.to_vec(),
            |c| c.apply(rows).into_iter().map(|row| row.into_iter().map(silu).collect()).collect(),
        );
        let (mut y, mut c, mut n, mut m) =
            (vec![0.0; width], vec![0.0; width], vec![0.0; width], vec![f64::NEG_INFINITY; width]);
        let step = |(row, convolved): (&Vec<f64>, &Vec<f64>)| {
            let raw = self.raw(row, convolved, &y);
            for j in 0..width {
                let [input, forget, z, o] = [0, 1, 2, 3].map(|g: usize| raw[g][j]);
                let forget = log_sigmoid(forget) + m[j];
                m[j] = forget.max(input);
                let (forget, input) = ((forget - m[j]).exp(), (input - m[j]).exp());
                c[j] = forget * c[j] + input * z.tanh();
                n[j] = forget * n[j] + input;
                y[j] = sigmoid(o) * c[j] / n[j];
            }
            let heads = y.chunks_exact(width / self.head_norms.len()).zip(&self.head_norms);
            heads.flat_map(|(y, norm)| norm.apply(y)).collect()
        };
        rows.iter().zip(&convolved).map(step).collect()
    }

    /// The four gates before their activation: from the input, from the last output, and their biases.
    fn raw(&self, row: &[f64], convolved: &[f64], y: &[f64]) -> Rows {
        let unit = row.len() / self.recurrent.len();
        let gate = |g: usize| {
            let input = self.gates[g].apply(if g < 2 { convolved } else { row });
            let heads = y.chunks_exact(unit).zip(&self.recurrent);
            let recurrent: Vec<f64> = heads.flat_map(|(y, gates)| gates[g].apply(y)).collect();
            (0..row.len()).map(|j| input[j] + recurrent[j] + self.bias[g][j]).collect()
        };
        (0..4).map(gate).collect()
    }
}

impl Mlp {
    fn apply_rows(&self, rows: &[Vec<f64>]) -> Rows {
        let gated = |row: &Vec<f64>| {
            let both = self.up.apply(row);
            let (gate, up) = both.split_at(both.len() / 2);
            let products = gate.iter().zip(up).map(|(g, u)| self.activate(*g) * u);
            self.down.apply(&products.collect::<Vec<_>>())
        };
        rows.iter().map(gated).collect()
    }

    fn activate(&self, x: f64) -> f64 {
        match self.activation.as_str() {
            "relu" => x.max(0.0),
            "swish" => silu(x),
            _ => gelu(x),
        }
    }
}
