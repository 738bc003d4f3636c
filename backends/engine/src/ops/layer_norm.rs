//! LayerNorm, `y = w ⊙ x̂ + b` with `x̂ = (x - mean) / sqrt(variance + ε)` (Ba et al. 2016).

use bheval_kernels::elementwise::{lane_sum, layer_norm as forward};
use bheval_kernels::gemm::Store;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::task_rows;
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// Rows whose share of the weight's gradient is summed by one task.
const BLOCK: usize = 64;

/// A norm over whole rows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LayerNorm {
    /// `w [width]`, or none where the factor is 1.
    pub weight: Option<Parameter>,
    /// `b [width]`, or none where nothing is added.
    pub bias: Option<Parameter>,
    /// ε
    pub eps: f64,
}

impl LayerNorm {
    /// What stands in for a weight and a bias that are not there.
    fn absent(self, width: usize) -> (Vec<f32>, Vec<f32>) {
        let len = |part: Option<Parameter>| if part.is_none() { width } else { 0 };
        (vec![1.0; len(self.weight)], vec![0.0; len(self.bias)])
    }
}

/// `[rows, width]`, normed row by row.
pub fn layer_norm(tape: &mut Tape<'_>, x: Value, norm: LayerNorm) -> Value {
    let width = tape.width(x);
    let (ones, zeros) = norm.absent(width);
    let mut y = tape.output(width);
    let (isa, chunk) = (tape.setting.isa, task_rows(width) * width);
    let weight = norm.weight.map_or(&ones[..], |w| tape.parameter(w));
    let bias = norm.bias.map_or(&zeros[..], |b| tape.parameter(b));
    y.par_chunks_mut(chunk)
        .zip(tape.get(x).par_chunks(chunk))
        .for_each(|(y, x)| forward(isa, x, weight, bias, norm.eps, y));
    tape.push(y, |y| Record { x, y, norm })
}

struct Record {
    x: Value,
    y: Value,
    norm: LayerNorm,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (isa, width, eps) = (back.setting().isa, back.width(self.x), self.norm.eps);
        let (ones, _) = self.norm.absent(width);
        let (store, mut dx) = back.open(self.x);
        let (x, weight) = (back.get(self.x), self.norm.weight.map_or(&ones[..], |w| back.parameter(w)));
        let chunk = BLOCK * width;
        let blocks = (dx.par_chunks_mut(chunk), x.par_chunks(chunk), dy.par_chunks(chunk));
        let one = |(dx, x, dy): (&mut [f32], &[f32], &[f32])| {
            let mut sums = vec![0.0; 2 * width];
            let (dw, db) = sums.split_at_mut(width);
            launch(isa, Block { x, dy, weight, eps, store, dx, dw, db });
            sums
        };
        let sums: Vec<Vec<f32>> = blocks.into_par_iter().map(one).collect();
        back.close(self.x, dx);
        for (parameter, part) in [(self.norm.weight, 0), (self.norm.bias, 1)] {
            let Some(parameter) = parameter else { continue };
            let (store, mut gradient) = back.open_parameter(parameter);
            if store == Store::Set {
                gradient.fill(0.0);
            }
            for sums in &sums {
                let part = &sums[part * width..][..width];
                gradient.iter_mut().zip(part).for_each(|(g, s)| *g += s);
            }
            back.close_parameter(parameter, gradient);
        }
        back.recycle(dy);
    }
}

/// `dx = r (g - mean(g) - x̂ mean(g ⊙ x̂))` with `g = w ⊙ dy` and `r = 1 / sqrt(variance + ε)`; `dw = Σ dy ⊙ x̂`,
/// `db = Σ dy`.
struct Block<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
    eps: f64,
    store: Store,
    dx: &'a mut [f32],
    dw: &'a mut [f32],
    db: &'a mut [f32],
}

impl Kernel for Block<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        let mut normed = vec![0.0; width];
        for (dx, (x, dy)) in self.dx.chunks_exact_mut(width).zip(rows) {
            let r = normalise(x, self.eps, &mut normed);
            for (((dw, db), dy), x) in self.dw.iter_mut().zip(&mut *self.db).zip(dy).zip(&normed) {
                *dw = dy.mul_add(*x, *dw);
                *db += dy;
            }
            let (mean, along) = means(dy, self.weight, &normed);
            for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(self.weight).zip(&normed) {
                let g = r * (-x).mul_add(along, w * dy - mean);
                *dx = if self.store == Store::Add { *dx + g } else { g };
            }
        }
    }
}

/// Writes `x̂`; returns `1 / sqrt(variance + ε)`.
#[inline(always)]
pub(crate) fn normalise(x: &[f32], eps: f64, normed: &mut [f32]) -> f32 {
    let mean = (lane_sum(x, |sum, x| sum + x) / x.len() as f64) as f32;
    for (y, x) in normed.iter_mut().zip(x) {
        *y = x - mean;
    }
    let variance = lane_sum(normed, |sum, x| x.mul_add(x, sum)) / x.len() as f64;
    let r = (1.0 / (variance + eps).sqrt()) as f32;
    for y in normed {
        *y *= r;
    }
    r
}

/// `mean(w ⊙ dy)` and `mean(w ⊙ dy ⊙ x̂)`, in lanes.
#[inline(always)]
pub(crate) fn means(dy: &[f32], w: &[f32], normed: &[f32]) -> (f32, f32) {
    const LANES: usize = bheval_kernels::LANES;
    let (mut plain, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
    for ((dy, w), x) in dy.chunks(LANES).zip(w.chunks(LANES)).zip(normed.chunks(LANES)) {
        for ((((p, a), dy), w), x) in plain.iter_mut().zip(&mut along).zip(dy).zip(w).zip(x) {
            let g = dy * w;
            *p += g;
            *a = g.mul_add(*x, *a);
        }
    }
    let mean = |sums: [f32; LANES]| sums.iter().map(|&s| f64::from(s)).sum::<f64>() / dy.len() as f64;
    (mean(plain) as f32, mean(along) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, setting};

    fn twin(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        let width = w.len();
        let row = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / width as f64;
            let r = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64 + 1e-2).sqrt();
            x.iter().zip(w).zip(b).map(|((x, w), b)| w * (x - mean) / r + b).collect::<Vec<f64>>()
        };
        x.chunks(width).flat_map(row).collect()
    }

    #[test]
    fn output_and_gradients_are_the_definitions() {
        for (steps, width) in [(1, 1), (2, 37), (35, 16), (65, 5)] {
            let case = Case {
                setting: setting(2, steps),
                inputs: &[normal(2 * steps * width, 1.0, 1)],
                parameters: &[normal(width, 1.0, 2), normal(width, 1.0, 3)],
                tolerance: 3e-6,
            };
            hold(
                &case,
                |tape, x, p| {
                    layer_norm(tape, x[0], LayerNorm { weight: Some(p[0]), bias: Some(p[1]), eps: 1e-2 })
                },
                |x, p| twin(&x[0], &p[0], &p[1]),
            );
        }
    }

    #[test]
    fn without_weight_and_bias() {
        let width = 24;
        let inputs = [normal(5 * width, 2.0, 1)];
        let case = Case { setting: setting(1, 5), inputs: &inputs, parameters: &[], tolerance: 3e-6 };
        let norm = LayerNorm { weight: None, bias: None, eps: 1e-2 };
        hold(
            &case,
            |tape, x, _| layer_norm(tape, x[0], norm),
            |x, _| twin(&x[0], &vec![1.0; width], &vec![0.0; width]),
        );
    }
}
