//! LayerNorm of each head by itself, and with a weight that counts from 1: the norms of xLSTM (architectures.md 7).

use bheval_kernels::gemm::Store;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::layer_norm::{means, normalise};
use crate::ops::rows::{put, task_rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// Rows whose share of the weight's gradient is summed by one task.
const BLOCK: usize = 64;

/// A norm over equal parts of each row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HeadNorm {
    /// Parts of a row; one for a norm over whole rows.
    pub heads: usize,
    /// `[width]`, or none where the factor is 1.
    pub weight: Option<Parameter>,
    /// Whether the factor is 1 plus the weight: the authors' package of xLSTM stores what it exceeds 1 by.
    pub beyond_one: bool,
    /// `[width]`, or none where nothing is added.
    pub bias: Option<Parameter>,
    /// ε
    pub eps: f64,
}

impl HeadNorm {
    fn factors<'a>(&self, width: usize, get: impl Fn(Parameter) -> &'a [f32]) -> Vec<f32> {
        let offset = if self.beyond_one { 1.0 } else { 0.0 };
        self.weight.map_or_else(|| vec![1.0; width], |w| get(w).iter().map(|w| w + offset).collect())
    }
}

/// `y = w ⊙ x̂ + b` with `x̂ = (x − mean) / sqrt(variance + ε)` of each head, `[rows, width]`.
///
/// # Panics
/// If the columns are not shared out to the heads.
pub fn head_norm(tape: &mut Tape<'_>, x: Value, norm: HeadNorm) -> Value {
    let width = tape.width(x);
    assert!(width.is_multiple_of(norm.heads), "{width} columns, but {} heads", norm.heads);
    let mut y = tape.output(width);
    let (isa, chunk) = (tape.setting.isa, task_rows(width) * width);
    let factors = norm.factors(width, |w| tape.parameter(w));
    let bias = norm.bias.map_or_else(|| vec![0.0; width], |b| tape.parameter(b).to_vec());
    y.par_chunks_mut(chunk).zip(tape.get(x).par_chunks(chunk)).for_each(|(y, x)| {
        launch(
            isa,
            Forward { size: width / norm.heads, x, factors: &factors, bias: &bias, eps: norm.eps, y },
        );
    });
    tape.push(y, |y| Record { x, y, norm })
}

struct Forward<'a> {
    size: usize,
    x: &'a [f32],
    factors: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (size, width) = (self.size, self.factors.len());
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let tensors = self.factors.chunks_exact(size).zip(self.bias.chunks_exact(size));
            for ((x, y), (w, b)) in x.chunks_exact(size).zip(y.chunks_exact_mut(size)).zip(tensors) {
                normalise(x, self.eps, y);
                for ((y, w), b) in y.iter_mut().zip(w).zip(b) {
                    *y = y.mul_add(*w, *b);
                }
            }
        }
    }
}

struct Record {
    x: Value,
    y: Value,
    norm: HeadNorm,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (isa, width, norm) = (back.setting().isa, back.width(self.x), self.norm);
        let factors = norm.factors(width, |w| back.parameter(w));
        let (store, mut dx) = back.open(self.x);
        let (size, eps, chunk) = (width / norm.heads, norm.eps, BLOCK * width);
        let blocks = (dx.par_chunks_mut(chunk), back.get(self.x).par_chunks(chunk), dy.par_chunks(chunk));
        let one = |(dx, x, dy): (&mut [f32], &[f32], &[f32])| {
            let mut sums = vec![0.0; 2 * width];
            let (dw, db) = sums.split_at_mut(width);
            launch(isa, Backward { size, x, dy, factors: &factors, eps, store, dx, dw, db });
            sums
        };
        let blocks: Vec<Vec<f32>> = blocks.into_par_iter().map(one).collect();
        back.close(self.x, dx);
        let mut sums = vec![0.0; 2 * width];
        for block in &blocks {
            sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
        }
        for (parameter, sums) in [norm.weight, norm.bias].into_iter().zip(sums.chunks_exact(width)) {
            let Some(parameter) = parameter else { continue };
            let (store, mut gradient) = back.open_parameter(parameter);
            put(store, &mut gradient, sums);
            back.close_parameter(parameter, gradient);
        }
        back.recycle(dy);
    }
}

/// `dx = r (g − mean(g) − x̂ mean(g ⊙ x̂))` with `g = w ⊙ dy` and `r = 1 / sqrt(variance + ε)`, head by head;
/// `dw = Σ dy ⊙ x̂`, `db = Σ dy`.
struct Backward<'a> {
    size: usize,
    x: &'a [f32],
    dy: &'a [f32],
    factors: &'a [f32],
    eps: f64,
    store: Store,
    dx: &'a mut [f32],
    dw: &'a mut [f32],
    db: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (size, heads) = (self.size, self.factors.len() / self.size);
        let parts = self.x.chunks_exact(size).zip(self.dy.chunks_exact(size));
        let mut normed = vec![0.0; size];
        for (part, (dx, (x, dy))) in self.dx.chunks_exact_mut(size).zip(parts).enumerate() {
            let own = part % heads * size..(part % heads + 1) * size;
            let w = &self.factors[own.clone()];
            let r = normalise(x, self.eps, &mut normed);
            let sums = self.dw[own.clone()].iter_mut().zip(&mut self.db[own]);
            for (((dw, db), dy), x) in sums.zip(dy).zip(&normed) {
                *dw = dy.mul_add(*x, *dw);
                *db += dy;
            }
            let (mean, along) = means(dy, w, &normed);
            for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(w).zip(&normed) {
                let g = r * (-x).mul_add(along, w * dy - mean);
                *dx = if self.store == Store::Add { *dx + g } else { g };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, same_bits, setting};

    fn twin(x: &[f64], w: &[f64], b: &[f64], heads: usize, offset: f64) -> Vec<f64> {
        let size = w.len() / heads;
        let head = |(i, x): (usize, &[f64])| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / size as f64;
            let r = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64 + 1e-2).sqrt();
            let at = |j: usize| i % heads * size + j;
            x.iter().enumerate().map(|(j, x)| (offset + w[at(j)]) * (x - mean) / r + b[at(j)]).collect()
        };
        x.chunks(size).enumerate().flat_map(head).collect()
    }

    #[test]
    fn output_and_gradients_are_the_definitions() {
        for (steps, heads, size) in [(1, 1, 5), (3, 2, 1), (35, 3, 16), (65, 4, 5)] {
            for beyond_one in [false, true] {
                let width = heads * size;
                let inputs = [normal(2 * steps * width, 1.0, 1)];
                let parameters = [normal(width, 1.0, 2), normal(width, 1.0, 3)];
                let case = Case {
                    setting: setting(2, steps),
                    inputs: &inputs,
                    parameters: &parameters,
                    tolerance: 3e-6,
                };
                let operation = |tape: &mut Tape<'_>, x: &[Value], p: &[Parameter]| {
                    let (weight, bias) = (Some(p[0]), Some(p[1]));
                    head_norm(tape, x[0], HeadNorm { heads, weight, beyond_one, bias, eps: 1e-2 })
                };
                let offset = if beyond_one { 1.0 } else { 0.0 };
                hold(&case, operation, |x, p| twin(&x[0], &p[0], &p[1], heads, offset));
                same_bits(&case, operation);
            }
        }
    }

    #[test]
    fn without_weight_and_bias() {
        let inputs = [normal(5 * 24, 2.0, 1)];
        let case = Case { setting: setting(1, 5), inputs: &inputs, parameters: &[], tolerance: 3e-6 };
        let norm = HeadNorm { heads: 3, weight: None, beyond_one: true, bias: None, eps: 1e-2 };
        hold(
            &case,
            |tape, x, _| head_norm(tape, x[0], norm),
            |x, _| twin(&x[0], &[1.0; 24], &[0.0; 24], 3, 0.0),
        );
    }
}
