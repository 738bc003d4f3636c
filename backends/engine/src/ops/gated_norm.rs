//! Mamba-2's norm (architectures.md 6): the gate first, `v = y ⊙ silu(z)`, then RMSNorm over groups of channels,
//! `w ⊙ v / sqrt(mean(v²) + ε)`.

use bheval_kernels::elementwise::{lane_sum, sigmoids, silu};
use bheval_kernels::gemm::Store;
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::{sum_over_rows, task_rows};
use crate::ops::selection::{Columns, Rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// A gated norm.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GatedNorm {
    /// `w [width]`
    pub weight: Parameter,
    /// Channels that one norm spans.
    pub group: usize,
    /// ε
    pub eps: f64,
}

/// The norm of `y [rows, width]` gated by `z [rows, width]`.
pub fn gated_norm(tape: &mut Tape<'_>, y: Value, z: Columns, norm: GatedNorm) -> Value {
    let (isa, width, rows) = (tape.setting.isa, tape.width(y), tape.setting.rows());
    let mut out = tape.output(width);
    let (weight, gates) = (tape.parameter(norm.weight), z.of(tape.get(z.value), rows));
    let some = task_rows(width);
    let parts = out.par_chunks_mut(some * width).zip(tape.get(y).par_chunks(some * width));
    parts.enumerate().for_each(|(task, (out, y))| {
        let row = Task { first: task * some, y, gates, weight, norm };
        launch(isa, Forward { row, out });
    });
    tape.push(out, |out| Record { y, z, out, norm })
}

/// What a task reads.
#[derive(Clone, Copy)]
struct Task<'a> {
    /// Its first row.
    first: usize,
    /// Its rows of `y`.
    y: &'a [f32],
    /// `z`
    gates: Rows<'a>,
    weight: &'a [f32],
    norm: GatedNorm,
}

/// `1 / sqrt(mean(v²) + ε)`
#[inline(always)]
fn scale(v: &[f32], eps: f64) -> f32 {
    let mean = lane_sum(v, |sum, v| v.mul_add(v, sum)) / v.len() as f64;
    (1.0 / (mean + eps).sqrt()) as f32
}

/// `v = y ⊙ silu(z)` of one row.
#[inline(always)]
fn gate(y: &[f32], z: &[f32], v: &mut [f32]) {
    for ((v, y), z) in v.iter_mut().zip(y).zip(z) {
        *v = y * silu(*z);
    }
}

struct Forward<'a> {
    row: Task<'a>,
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Task { first, y, gates, weight, norm } = self.row;
        let width = weight.len();
        let rows = self.out.chunks_exact_mut(width).zip(y.chunks_exact(width));
        for (row, (out, y)) in (first..).zip(rows) {
            gate(y, gates.row(row), out);
            for (v, w) in out.chunks_exact_mut(norm.group).zip(weight.chunks_exact(norm.group)) {
                let r = scale(v, norm.eps);
                v.iter_mut().zip(w).for_each(|(v, w)| *v = *v * r * w);
            }
        }
    }
}

struct Record {
    y: Value,
    z: Columns,
    out: Value,
    norm: GatedNorm,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(mut dout) = back.gradient(self.out) else { return };
        self.weight(back, &dout);
        let (isa, width, rows) = (back.setting().isa, back.width(self.y), back.setting().rows());
        let (store, mut dz) = self.z.open(back);
        let z_width = dz.len() / rows;
        let (weight, gates) = (back.parameter(self.norm.weight), self.z.of(back.get(self.z.value), rows));
        let some = task_rows(width);
        let parts = dout.par_chunks_mut(some * width).zip(dz.par_chunks_mut(some * z_width));
        let parts = parts.zip(back.get(self.y).par_chunks(some * width));
        parts.enumerate().for_each(|(task, ((dy, dz), y))| {
            let row = Task { first: task * some, y, gates, weight, norm: self.norm };
            let dz = Gate { data: dz, width: z_width, first: self.z.first, store };
            launch(isa, Inputs { row, dy, dz });
        });
        back.close(self.z.value, dz);
        back.pass(self.y, dout);
    }
}

/// Where the gate's gradient goes.
struct Gate<'a> {
    data: &'a mut [f32],
    width: usize,
    first: usize,
    store: Store,
}

/// With `g = r (w ⊙ dy - v r² mean(w ⊙ dy ⊙ v))`, the gradient of `v`: `dy ← g ⊙ silu(z)` and `dz = g ⊙ y ⊙ silu'(z)`.
struct Inputs<'a> {
    row: Task<'a>,
    /// Gradient of the output, and then of `y`.
    dy: &'a mut [f32],
    dz: Gate<'a>,
}

impl Kernel for Inputs<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let Task { first, y, gates, weight, norm } = self.row;
        let (width, group) = (weight.len(), norm.group);
        let mut v = vec![0.0; width];
        let rows = self.dy.chunks_exact_mut(width).zip(self.dz.data.chunks_exact_mut(self.dz.width));
        for (row, ((dy, dz), y)) in (first..).zip(rows.zip(y.chunks_exact(width))) {
            let z = gates.row(row);
            gate(y, z, &mut v);
            for ((v, dy), w) in
                v.chunks_exact(group).zip(dy.chunks_exact_mut(group)).zip(weight.chunks_exact(group))
            {
                let r = scale(v, norm.eps);
                let mean = weighted_dot(v, dy, w) / group as f64 * f64::from(r) * f64::from(r);
                let mean = mean as f32;
                for ((dy, v), w) in dy.iter_mut().zip(v).zip(w) {
                    *dy = r * (w * *dy - v * mean);
                }
            }
            let dz = dz[self.dz.first..].iter_mut();
            for (((dy, dz), y), &z) in dy.iter_mut().zip(dz).zip(y).zip(z) {
                let (open, closed) = sigmoids(z);
                let g = *dy * y * open * z.mul_add(closed, 1.0);
                *dz = if self.dz.store == Store::Add { *dz + g } else { g };
                *dy *= z * open;
            }
        }
    }
}

/// `Σ v ⊙ dy ⊙ w`, in lanes.
#[inline(always)]
fn weighted_dot(v: &[f32], dy: &[f32], w: &[f32]) -> f64 {
    const LANES: usize = bheval_kernels::LANES;
    let mut sums = [0.0f32; LANES];
    for ((v, dy), w) in v.chunks(LANES).zip(dy.chunks(LANES)).zip(w.chunks(LANES)) {
        for (((sum, v), dy), w) in sums.iter_mut().zip(v).zip(dy).zip(w) {
            *sum = (v * dy).mul_add(*w, *sum);
        }
    }
    sums.iter().map(|&s| f64::from(s)).sum()
}

impl Record {
    /// `dw = Σ dy ⊙ v r`
    fn weight(&self, back: &mut Back<'_, '_>, dout: &[f32]) {
        let (isa, width, rows) = (back.setting().isa, back.width(self.y), back.setting().rows());
        let (store, mut dw) = back.open_parameter(self.norm.weight);
        let (y, gates) = (back.get(self.y), self.z.of(back.get(self.z.value), rows));
        sum_over_rows(store, rows, &mut dw, |row, sums| {
            let at = row * width..(row + 1) * width;
            let (y, z, dy) = (&y[at.clone()], gates.row(row), &dout[at]);
            launch(isa, Weight { y, z, dy, norm: self.norm, sums });
        });
        back.close_parameter(self.norm.weight, dw);
    }
}

/// One row's part of `dw`.
struct Weight<'a> {
    y: &'a [f32],
    z: &'a [f32],
    dy: &'a [f32],
    norm: GatedNorm,
    sums: &'a mut [f32],
}

impl Kernel for Weight<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let mut v = vec![0.0; self.y.len()];
        gate(self.y, self.z, &mut v);
        let group = self.norm.group;
        let parts = self.sums.chunks_exact_mut(group).zip(self.dy.chunks_exact(group));
        for (v, (sums, dy)) in v.chunks_exact(group).zip(parts) {
            let r = scale(v, self.norm.eps);
            for ((sum, v), dy) in sums.iter_mut().zip(v).zip(dy) {
                *sum = (v * r).mul_add(*dy, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, same_bits, setting};

    const WIDTH: usize = 36;

    fn apply(tape: &mut Tape<'_>, x: &[Value], p: &[Parameter], group: usize) -> Value {
        let z = Columns { value: x[1], first: 2, width: WIDTH };
        gated_norm(tape, x[0], z, GatedNorm { weight: p[0], group, eps: 1e-2 })
    }

    #[test]
    fn output_and_gradients_are_the_definitions() {
        for group in [WIDTH, 12] {
            let case = Case {
                setting: setting(2, 3),
                inputs: &[normal(6 * WIDTH, 1.0, 1), normal(6 * (WIDTH + 5), 2.0, 2)],
                parameters: &[normal(WIDTH, 1.0, 3)],
                tolerance: 5e-6,
            };
            let silu = |z: f64| z / (1.0 + (-z).exp());
            hold(
                &case,
                |tape, x, p| apply(tape, x, p, group),
                |x, p| {
                    let rows = x[0].chunks(WIDTH).zip(x[1].chunks(WIDTH + 5));
                    let gated = rows.flat_map(|(y, z)| y.iter().zip(&z[2..]).map(|(y, z)| y * silu(*z)));
                    let gated: Vec<f64> = gated.collect();
                    let norm =
                        |v: &[f64]| (v.iter().map(|v| v * v).sum::<f64>() / group as f64 + 1e-2).sqrt();
                    let scaled = gated.chunks(group).flat_map(|v| v.iter().map(move |x| x / norm(v)));
                    scaled.enumerate().map(|(i, v)| v * p[0][i % WIDTH]).collect()
                },
            );
            same_bits(&case, |tape, x, p| apply(tape, x, p, group));
        }
    }
}
