//! Projections of blocks of channels, each block onto itself: xLSTM's queries, keys and values, whose blocks are small, and
//! its sLSTM's gates, whose blocks are heads (architectures.md 7).

use bheval_kernels::gemm::Store;
use bheval_kernels::product::{View, ViewMut, product};
use bheval_kernels::{Isa, Kernel, launch};
use rayon::prelude::*;

use crate::ops::rows::{sum_over_rows, task_rows};
use crate::ops::selection::{Columns, Rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Setting, Tape, Value};

/// Channels of a block from which on it is multiplied as a matrix.
const LARGE: usize = 16;

/// One projection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// What is projected.
    pub x: Columns,
    /// `[blocks, size, size]`, outputs by inputs in each block.
    pub weight: Parameter,
    /// `[blocks · size]`
    pub bias: Option<Parameter>,
    /// Channels of a block.
    pub size: usize,
}

impl Part {
    /// Its blocks, each with its first channel.
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.x.width / self.size).map(move |block| (block, block * self.size))
    }
}

/// All projections side by side, each as wide as what it projects: `[rows, Σ width]`.
///
/// # Panics
/// If a weight's blocks do not cover what it projects.
pub fn block_diagonal(tape: &mut Tape<'_>, parts: &[Part]) -> Value {
    let width = parts.iter().map(|part| part.x.width).sum();
    let mut y = tape.output(width);
    let mut first = 0;
    for part in parts {
        let bias = part.bias.map(|b| tape.parameter(b));
        let forward = Forward {
            setting: tape.setting,
            part: *part,
            weight: tape.parameter(part.weight),
            bias,
            x: part.x.of(tape.get(part.x.value), tape.setting.rows()),
        };
        forward.run(&mut y, width, first);
        first += part.x.width;
    }
    let parts = parts.to_vec();
    tape.push(y, |y| Record { parts, y })
}

struct Forward<'a> {
    setting: Setting,
    part: Part,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    x: Rows<'a>,
}

impl Forward<'_> {
    /// Writes the columns from `first` on of `y [rows, width]`.
    fn run(&self, y: &mut [f32], width: usize, first: usize) {
        let Self { setting, part, weight, bias, x } = *self;
        assert_eq!(weight.len(), part.x.width * part.size, "the blocks do not cover the columns");
        let own = first..first + part.x.width;
        if part.size < LARGE {
            let (planes, some) = (planes(weight, part.size, false), task_rows(width));
            y.par_chunks_mut(some * width).enumerate().for_each(|(task, y)| {
                for (row, y) in (task * some..).zip(y.chunks_exact_mut(width)) {
                    let y = &mut y[own.clone()];
                    launch(setting.isa, Small { size: part.size, planes: &planes, x: x.row(row), y });
                    bias.into_iter().for_each(|b| y.iter_mut().zip(b).for_each(|(y, b)| *y += b));
                }
            });
            return;
        }
        let store = if bias.is_some() { Store::Add } else { Store::Set };
        if let Some(bias) = bias {
            y.par_chunks_mut(width).for_each(|y| y[own.clone()].copy_from_slice(bias));
        }
        let (rows, size) = (setting.rows(), part.size);
        for (block, at) in part.blocks() {
            let x = x.share(block, part.x.width / size, 0, rows);
            let w = View::new(&weight[at * size..(at + size) * size], size, size);
            let c = ViewMut::with_stride(&mut y[first + at..], rows, size, width);
            product(setting.isa, setting.precision, x, w.t(), store, c);
        }
    }
}

/// The weights by the place of an input in its block, `[size, channels]`: `planes[i][c]` is what output channel `c` takes
/// from input `i` of its block. With `turned` outputs and inputs change places.
fn planes(weight: &[f32], size: usize, turned: bool) -> Vec<f32> {
    let (along, across) = if turned { (size, 1) } else { (1, size) };
    let at =
        |i: usize, channel: usize| weight[channel / size * size * size + i * along + channel % size * across];
    (0..size).flat_map(|i| (0..weight.len() / size).map(move |channel| at(i, channel))).collect()
}

/// One row of small blocks.
struct Small<'a> {
    size: usize,
    planes: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Small<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        match self.size {
            // The package's default.
            4 => self.fours(),
            _ => self.any(),
        }
    }
}

/// Channels that lie in one register: four blocks of four.
const WIDE: usize = 16;

impl Small<'_> {
    #[inline(always)]
    fn fours(self) {
        let channels = self.x.len();
        let whole = channels / WIDE * WIDE;
        for first in (0..whole).step_by(WIDE) {
            let mut x = [0.0f32; WIDE];
            x.copy_from_slice(&self.x[first..first + WIDE]);
            let mut sums = [0.0f32; WIDE];
            for i in 0..4 {
                let plane = &self.planes[i * channels + first..][..WIDE];
                for (l, (sum, w)) in sums.iter_mut().zip(plane).enumerate() {
                    *sum = x[l / 4 * 4 + i].mul_add(*w, *sum);
                }
            }
            self.y[first..first + WIDE].copy_from_slice(&sums);
        }
        let rest = Self { x: &self.x[whole..], y: &mut self.y[whole..], ..self };
        rest.from(whole, channels);
    }

    #[inline(always)]
    fn any(self) {
        let channels = self.x.len();
        self.from(0, channels);
    }

    /// The channels from `first` of all `channels` on, one by one.
    #[inline(always)]
    fn from(self, first: usize, channels: usize) {
        for (c, y) in self.y.iter_mut().enumerate() {
            let x = &self.x[c / self.size * self.size..];
            let term = |sum: f32, i: usize| x[i].mul_add(self.planes[i * channels + first + c], sum);
            *y = (0..self.size).fold(0.0, term);
        }
    }
}

struct Record {
    parts: Vec<Part>,
    y: Value,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let width = back.width(self.y);
        let mut first = 0;
        for part in self.parts {
            let dy = Rows::new(&dy, width, first, part.x.width);
            inputs(back, part, dy);
            weights(back, part, dy);
            if let Some(bias) = part.bias {
                let (store, mut db) = back.open_parameter(bias);
                sum_over_rows(store, back.setting().rows(), &mut db, |row, sums| {
                    sums.iter_mut().zip(dy.row(row)).for_each(|(sum, dy)| *sum += dy);
                });
                back.close_parameter(bias, db);
            }
            first += part.x.width;
        }
        back.recycle(dy);
    }
}

/// `dx = dy W`, block by block.
fn inputs(back: &mut Back<'_, '_>, part: Part, dy: Rows<'_>) {
    let (setting, stride, size) = (back.setting(), back.width(part.x.value), part.size);
    let (mut store, mut dx) = back.open(part.x.value);
    let weight = back.parameter(part.weight);
    if size < LARGE {
        let planes = planes(weight, size, true);
        part.x.put(store, stride, &mut dx, |row, out| {
            launch(setting.isa, Small { size, planes: &planes, x: dy.row(row), y: out });
        });
    } else {
        if store == Store::Set && part.x.width < stride {
            dx.par_chunks_mut(1 << 14).for_each(|part| part.fill(0.0));
            store = Store::Add;
        }
        let rows = setting.rows();
        for (block, at) in part.blocks() {
            let dy = dy.share(block, part.x.width / size, 0, rows);
            let w = View::new(&weight[at * size..(at + size) * size], size, size);
            let c = ViewMut::with_stride(&mut dx[part.x.first + at..], rows, size, stride);
            product(setting.isa, setting.precision, dy, w, store, c);
        }
    }
    back.close(part.x.value, dx);
}

/// `dW = dyᵀ x`, block by block.
fn weights(back: &mut Back<'_, '_>, part: Part, dy: Rows<'_>) {
    let (setting, size) = (back.setting(), part.size);
    let (store, mut dw) = back.open_parameter(part.weight);
    let (rows, blocks) = (setting.rows(), part.x.width / size);
    let x = part.x.of(back.get(part.x.value), rows);
    if size < LARGE {
        sum_over_rows(store, rows, &mut dw, |row, sums| {
            launch(setting.isa, Outer { size, x: x.row(row), dy: dy.row(row), sums });
        });
    } else {
        for (block, dw) in dw.chunks_exact_mut(size * size).enumerate() {
            let (dy, x) = (dy.share(block, blocks, 0, rows), x.share(block, blocks, 0, rows));
            product(setting.isa, setting.precision, dy.t(), x, store, ViewMut::new(dw, size, size));
        }
    }
    back.close_parameter(part.weight, dw);
}

/// Adds one row's `dyᵀ x` of each block.
struct Outer<'a> {
    size: usize,
    x: &'a [f32],
    dy: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Outer<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        match self.size {
            4 => self.fours(),
            size => self.any(size),
        }
    }
}

impl Outer<'_> {
    #[inline(always)]
    fn fours(self) {
        let blocks = self.x.chunks_exact(4).zip(self.dy.chunks_exact(4));
        for (sums, (x, dy)) in self.sums.chunks_exact_mut(WIDE).zip(blocks) {
            let (mut from, mut to) = ([0.0f32; 4], [0.0f32; 4]);
            from.copy_from_slice(x);
            to.copy_from_slice(dy);
            for (l, sum) in sums.iter_mut().enumerate() {
                *sum = to[l / 4].mul_add(from[l % 4], *sum);
            }
        }
    }

    #[inline(always)]
    fn any(self, size: usize) {
        let blocks = self.x.chunks_exact(size).zip(self.dy.chunks_exact(size));
        for (sums, (x, dy)) in self.sums.chunks_exact_mut(size * size).zip(blocks) {
            for (sums, dy) in sums.chunks_exact_mut(size).zip(dy) {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = dy.mul_add(*x, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, same_bits, setting};

    /// One projection: blocks of `size` of `x [rows, width]`.
    fn twin(x: &[f64], width: usize, w: &[f64], b: &[f64], size: usize) -> Vec<f64> {
        let one = |n: usize| {
            let (row, channel) = (n / width, n % width);
            let (block, out) = (channel / size, channel % size);
            let term = |i: usize| x[row * width + block * size + i] * w[(block * size + out) * size + i];
            b[channel] + (0..size).map(term).sum::<f64>()
        };
        (0..x.len()).map(one).collect()
    }

    #[test]
    fn output_and_gradients_are_the_definitions() {
        for (blocks, size, steps) in [(3, 4, 35), (6, 4, 3), (2, 5, 3), (1, 1, 1), (2, 17, 2)] {
            let (width, rows) = (blocks * size, 2 * steps);
            // Two projections of one half of a value, and one of another value, without a bias.
            let inputs = [normal(rows * 2 * width, 1.0, 1), normal(rows * width, 1.0, 2)];
            let weights = [3, 4, 5].map(|seed| normal(width * size, 1.0, seed));
            let parameters = [&weights[..], &[normal(width, 1.0, 6), normal(width, 1.0, 7)]].concat();
            let case = Case {
                setting: setting(2, steps),
                inputs: &inputs,
                parameters: &parameters,
                tolerance: 2e-6,
            };
            let operation = |tape: &mut Tape<'_>, x: &[Value], p: &[Parameter]| {
                let (half, all) = (Columns::share(tape, x[0], 2, 1), Columns::all(tape, x[1]));
                let part = |x, weight, bias| Part { x, weight, bias, size };
                let parts =
                    [part(half, p[0], Some(p[3])), part(all, p[1], None), part(half, p[2], Some(p[4]))];
                block_diagonal(tape, &parts)
            };
            hold(&case, operation, |x, p| {
                let half: Vec<f64> = x[0].chunks(2 * width).flat_map(|row| row[width..].to_vec()).collect();
                let zeros = vec![0.0; width];
                let parts = [(&half, &p[0], &p[3]), (&x[1], &p[1], &zeros), (&half, &p[2], &p[4])];
                let parts = parts.map(|(x, w, b)| twin(x, width, w, b, size));
                let row = |r: usize| parts.iter().flat_map(move |y| y[r * width..][..width].to_vec());
                (0..rows).flat_map(row).collect()
            });
            same_bits(&case, operation);
        }
    }
}
