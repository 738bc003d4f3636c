//! RMSNorm, `y = w ⊙ x / sqrt(mean(x²) + ε)` (architectures.md 1.8).

use bheval_kernels::elementwise::{lane_sum, rms_norm as forward};
use bheval_kernels::gemm::Store;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::{sum_over_rows, task_rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// A norm over whole rows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RmsNorm {
    /// `[width]`, or none where the factor is 1.
    pub weight: Option<Parameter>,
    /// ε
    pub eps: f64,
}

/// `[rows, width]`, normed row by row.
pub fn rms_norm(tape: &mut Tape<'_>, x: Value, norm: RmsNorm) -> Value {
    let width = tape.width(x);
    let ones = vec![1.0; if norm.weight.is_none() { width } else { 0 }];
    let mut y = tape.output(width);
    let (isa, chunk) = (tape.setting.isa, task_rows(width) * width);
    let weight = norm.weight.map_or(&ones[..], |w| tape.parameter(w));
    y.par_chunks_mut(chunk)
        .zip(tape.get(x).par_chunks(chunk))
        .for_each(|(y, x)| forward(isa, x, weight, norm.eps, y));
    tape.push(y, |y| Record { x, y, norm })
}

struct Record {
    x: Value,
    y: Value,
    norm: RmsNorm,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (isa, width, eps) = (back.setting().isa, back.width(self.x), self.norm.eps);
        let chunk = task_rows(width) * width;
        let ones = vec![1.0; if self.norm.weight.is_none() { width } else { 0 }];
        let (store, mut dx) = back.open(self.x);
        let (x, weight) = (back.get(self.x), self.norm.weight.map_or(&ones[..], |w| back.parameter(w)));
        dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk))).for_each(
            |(dx, (x, dy))| {
                launch(isa, Inputs { x, dy, weight, eps, store, dx });
            },
        );
        back.close(self.x, dx);
        if let Some(weight) = self.norm.weight {
            let (store, mut dw) = back.open_parameter(weight);
            let x = back.get(self.x);
            sum_over_rows(store, back.setting().rows(), &mut dw, |row, sums| {
                let at = row * width..(row + 1) * width;
                launch(isa, Weight { x: &x[at.clone()], dy: &dy[at], eps, sums });
            });
            back.close_parameter(weight, dw);
        }
        back.recycle(dy);
    }
}

/// `1 / sqrt(mean(x²) + ε)`
#[inline(always)]
fn scale(x: &[f32], eps: f64) -> f32 {
    let mean = lane_sum(x, |sum, x| x.mul_add(x, sum)) / x.len() as f64;
    (1.0 / (mean + eps).sqrt()) as f32
}

/// `dx = r (w ⊙ dy - x̂ mean(w ⊙ dy ⊙ x̂))`
struct Inputs<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
    eps: f64,
    store: Store,
    dx: &'a mut [f32],
}

impl Kernel for Inputs<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for (dx, (x, dy)) in self.dx.chunks_exact_mut(width).zip(rows) {
            let r = scale(x, self.eps);
            let mean = weighted_dot(x, dy, self.weight) / width as f64 * f64::from(r) * f64::from(r);
            let mean = mean as f32;
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(self.weight) {
                let g = r * (w * dy - x * mean);
                *dx = if self.store == Store::Add { *dx + g } else { g };
            }
        }
    }
}

/// `Σ x ⊙ dy ⊙ w`, in lanes.
#[inline(always)]
fn weighted_dot(x: &[f32], dy: &[f32], w: &[f32]) -> f64 {
    const LANES: usize = bheval_kernels::LANES;
    let mut sums = [0.0f32; LANES];
    for ((x, dy), w) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(w.chunks(LANES)) {
        for (((sum, x), dy), w) in sums.iter_mut().zip(x).zip(dy).zip(w) {
            *sum = (x * dy).mul_add(*w, *sum);
        }
    }
    sums.iter().map(|&s| f64::from(s)).sum()
}

/// `dw = Σ dy ⊙ x̂`, one row.
struct Weight<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    eps: f64,
    sums: &'a mut [f32],
}

impl Kernel for Weight<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let r = scale(self.x, self.eps);
        for ((sum, x), dy) in self.sums.iter_mut().zip(self.x).zip(self.dy) {
            *sum = (x * r).mul_add(*dy, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, setting};

    #[test]
    fn output_and_gradients_are_the_definitions() {
        let width = 37;
        let case = Case {
            setting: setting(1, 4),
            inputs: &[normal(4 * width, 1.0, 1)],
            parameters: &[normal(width, 1.0, 2)],
            tolerance: 2e-6,
        };
        hold(
            &case,
            |tape, x, p| rms_norm(tape, x[0], RmsNorm { weight: Some(p[0]), eps: 1e-2 }),
            |x, p| {
                let row = |x: &[f64]| {
                    let r = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-2).sqrt();
                    x.iter().zip(&p[0]).map(|(x, w)| w * x / r).collect::<Vec<f64>>()
                };
                x[0].chunks(width).flat_map(row).collect()
            },
        );
    }
}
