//! Mamba's selective state space with its gate (architectures.md 5), per channel:
//!
//! ```text
//! Δ = softplus(δ);  h = exp(Δ A) ⊙ h + (Δ x) B;  y = (h · C + D x) silu(z);  A = -exp(A_log)
//! ```
//! A task takes some channels of one sequence, [`LANES`] of them side by side. The way back keeps the states at the borders
//! of chunks of `CHUNK` tokens alone, and runs each chunk forward again. The gradients of B and C are sums over channels:
//! each task writes its own, and those are added in order.

mod backward;
mod forward;

use bheval_kernels::cells::softplus;
use bheval_kernels::gemm::Store;
use bheval_kernels::{LANES, launch};
use rayon::prelude::*;

use crate::ops::blocks::{bounds, column_blocks};
use crate::ops::rows::task_rows;
use crate::ops::selection::{Columns, Rows};
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Setting, Tape, Value};

/// Tokens between kept states.
const CHUNK: usize = 32;
/// Groups of [`LANES`] channels that a task handles.
const GROUPS: usize = 8;
/// Channels that a task handles.
const BLOCK: usize = GROUPS * LANES;

/// Channels side by side.
type Lanes = [f32; LANES];

/// A selective scan. Its inputs are columns of four different values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SelectiveScan {
    /// `x [rows, channels]`
    pub x: Columns,
    /// `δ [rows, channels]`, its bias added.
    pub step: Columns,
    /// `z [rows, channels]`
    pub gate: Columns,
    /// `B` and then `C`, `[rows, 2 states]`.
    pub bc: Columns,
    /// `A_log [channels, states]`
    pub log_rates: Parameter,
    /// `D [channels]`
    pub skip: Parameter,
    /// Channels.
    pub channels: usize,
    /// States of a channel.
    pub states: usize,
}

impl SelectiveScan {
    /// Lanes of the states that a task keeps.
    fn border_len(&self, steps: usize) -> usize {
        steps.div_ceil(CHUNK) * GROUPS * self.states * LANES
    }
}

/// The scan's outputs, `[rows, channels]`.
pub fn selective_scan(tape: &mut Tape<'_>, scan: SelectiveScan) -> Value {
    let Setting { isa, batch, steps, .. } = tape.setting;
    let mut y = tape.output(scan.channels);
    let count = batch * scan.channels.div_ceil(BLOCK);
    let len = if tape.recording() { scan.border_len(steps) } else { 0 };
    let mut borders = tape.buffer(count * len);
    let rates = Rates::new(scan, tape.parameter(scan.log_rates), tape.parameter(scan.skip));
    let inputs = Inputs::new(scan, tape.setting, |value| tape.get(value));
    let blocks = column_blocks(y.chunks_exact_mut(scan.channels), &bounds(scan.channels, BLOCK));
    let mut kept = borders.chunks_exact_mut(len.max(1));
    let tasks: Vec<_> =
        sequences(blocks, steps).into_iter().map(|(place, y)| (place, y, kept.next())).collect();
    tasks.into_par_iter().for_each(|(place, y, borders)| {
        launch(isa, forward::Forward { place, inputs, rates: &rates, y, borders });
    });
    tape.push(y, |y| Record { y, scan, borders })
}

/// What a task handles.
#[derive(Clone, Copy)]
struct Place {
    /// First row of its sequence.
    row: usize,
    /// First channel, a multiple of [`BLOCK`].
    channel: usize,
}

/// Divides blocks of columns among the tasks: one for each block and sequence, the sequences of a block after each other.
fn sequences(blocks: Vec<Vec<&mut [f32]>>, steps: usize) -> Vec<(Place, Vec<&mut [f32]>)> {
    let mut tasks = vec![];
    for (block, rows) in blocks.into_iter().enumerate() {
        let count = rows.len() / steps;
        let mut rows = rows.into_iter();
        for sequence in 0..count {
            let place = Place { row: sequence * steps, channel: block * BLOCK };
            tasks.push((place, rows.by_ref().take(steps).collect()));
        }
    }
    tasks
}

/// Tensors of the scan in lanes, those beyond the last channel 0.
struct Rates {
    /// `A`, `[groups, states]`
    a: Vec<Lanes>,
    /// `D`, one a group.
    skip: Vec<Lanes>,
}

impl Rates {
    fn new(scan: SelectiveScan, log_rates: &[f32], skip: &[f32]) -> Self {
        let groups = scan.channels.div_ceil(BLOCK) * GROUPS;
        let mut a = vec![[0.0; LANES]; groups * scan.states];
        let mut lanes = vec![[0.0; LANES]; groups];
        for (channel, (row, &skip)) in log_rates.chunks_exact(scan.states).zip(skip).enumerate() {
            let (group, lane) = (channel / LANES, channel % LANES);
            lanes[group][lane] = skip;
            for (n, &log) in row.iter().enumerate() {
                a[group * scan.states + n][lane] = -f64::from(log).exp() as f32;
            }
        }
        Self { a, skip: lanes }
    }

    /// Those of a task: a group's `A` after the other, and its `D`.
    fn of(&self, place: Place, states: usize) -> (&[Lanes], &[Lanes]) {
        let group = place.channel / LANES;
        (&self.a[group * states..][..GROUPS * states], &self.skip[group..][..GROUPS])
    }
}

/// Up to [`LANES`] channels of a row, padded with zeros.
#[inline(always)]
fn lanes(rows: Rows<'_>, row: usize, channel: usize, len: usize) -> Lanes {
    let values = &rows.row(row)[channel..channel + len];
    match <Lanes>::try_from(values) {
        Ok(lanes) => lanes,
        Err(_) => {
            let mut lanes = [0.0; LANES];
            lanes[..len].copy_from_slice(values);
            lanes
        }
    }
}

/// Softplus of each lane. A loop, because what `map` calls does not get the instructions that the kernel is launched with: it
/// took a third of a step of Mamba.
#[inline(always)]
fn softplus_lanes(mut x: Lanes) -> Lanes {
    for lane in &mut x {
        *lane = softplus(*lane);
    }
    x
}

/// What the scan reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    x: Rows<'a>,
    step: Rows<'a>,
    gate: Rows<'a>,
    bc: Rows<'a>,
    channels: usize,
    states: usize,
    steps: usize,
}

impl<'a> Inputs<'a> {
    fn new(scan: SelectiveScan, setting: Setting, get: impl Fn(Value) -> &'a [f32]) -> Self {
        let rows = |columns: Columns| columns.of(get(columns.value), setting.rows());
        Self {
            x: rows(scan.x),
            step: rows(scan.step),
            gate: rows(scan.gate),
            bc: rows(scan.bc),
            channels: scan.channels,
            states: scan.states,
            steps: setting.steps,
        }
    }

    /// `B` and `C` of a row.
    #[inline(always)]
    fn bc(&self, row: usize) -> (&'a [f32], &'a [f32]) {
        self.bc.row(row).split_at(self.states)
    }

    /// Where the channels of a task's group begin, and how many there are; none beyond the last channel.
    #[inline(always)]
    fn group(&self, place: Place, group: usize) -> (usize, usize) {
        let first = place.channel + group * LANES;
        (first, self.channels.saturating_sub(first).min(LANES))
    }
}

struct Record {
    y: Value,
    scan: SelectiveScan,
    /// States at the borders of chunks, `[tasks, chunks, groups, states, LANES]`.
    borders: Vec<f32>,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let Self { y, scan, borders } = *self;
        let Setting { isa, batch, steps, .. } = back.setting();
        let channels = scan.channels;
        let gradient = Columns { value: y, first: 0, width: channels }.of(&dy, batch * steps);
        let mut sinks = [scan.x, scan.step, scan.gate].map(|columns| columns.open(back));
        let stores = [sinks[0].0, sinks[1].0, sinks[2].0];
        let mut partial = back.buffer(channels.div_ceil(BLOCK) * batch * steps * 2 * scan.states);
        let rates = Rates::new(scan, back.parameter(scan.log_rates), back.parameter(scan.skip));
        let inputs = Inputs::new(scan, back.setting(), |value| back.get(value));
        let [dx, dstep, dgate] = sinks.each_mut().map(|(_, data)| data);
        let blocks = |data, columns: Columns| sequences(columns.blocks(data, batch * steps, BLOCK), steps);
        let (dx, dstep, dgate) = (blocks(dx, scan.x), blocks(dstep, scan.step), blocks(dgate, scan.gate));
        let sinks_of = dx.into_iter().zip(dstep).zip(dgate);
        let parts = partial.chunks_exact_mut(steps * 2 * scan.states);
        let kept = borders.chunks_exact(scan.border_len(steps));
        let work: Vec<_> = sinks_of.zip(parts.zip(kept)).collect();
        let found: Vec<backward::Found> = work
            .into_par_iter()
            .map(|((((place, dx), (_, dstep)), (_, dgate)), (dbc, borders))| {
                let mut found = backward::Found::new(scan.states);
                let sinks = backward::Sinks { rows: [dx, dstep, dgate], stores, dbc };
                let task = backward::Task { place, inputs, rates: &rates, dy: gradient, borders };
                launch(isa, backward::Backward { task, sinks, found: &mut found });
                found
            })
            .collect();
        for (columns, (_, data)) in [scan.x, scan.step, scan.gate].into_iter().zip(sinks) {
            back.close(columns.value, data);
        }
        projections(back, scan, &partial);
        tensors(back, scan, &found);
        [dy, borders, partial].into_iter().for_each(|buffer| back.recycle(buffer));
    }
}

/// Adds up the gradients of B and C: `partial [blocks, rows, 2 states]`.
fn projections(back: &mut Back<'_, '_>, scan: SelectiveScan, partial: &[f32]) {
    let (store, mut data) = scan.bc.open(back);
    let (rows, len) = (back.setting().rows(), 2 * scan.states);
    let width = data.len() / rows;
    let some = task_rows(width);
    data.par_chunks_mut(some * width).enumerate().for_each(|(task, data)| {
        for (row, data) in (task * some..).zip(data.chunks_exact_mut(width)) {
            let data = &mut data[scan.bc.first..][..len];
            for (block, part) in partial.chunks_exact(rows * len).enumerate() {
                let part = &part[row * len..][..len];
                match store {
                    Store::Set if block == 0 => data.copy_from_slice(part),
                    _ => data.iter_mut().zip(part).for_each(|(sum, g)| *sum += g),
                }
            }
        }
    });
    back.close(scan.bc.value, data);
}

/// Adds up the gradients of `A_log`, which is that of `A` times `A`, and of `D`, sequence by sequence.
fn tensors(back: &mut Back<'_, '_>, scan: SelectiveScan, found: &[backward::Found]) {
    let (channels, states, batch) = (scan.channels, scan.states, back.setting().batch);
    let sum = |channel: usize, get: &dyn Fn(&backward::Found, usize) -> Lanes| {
        let (block, group, lane) = (channel / BLOCK, channel % BLOCK / LANES, channel % LANES);
        found[block * batch..][..batch].iter().fold(0.0, |sum, found| sum + get(found, group)[lane])
    };
    let (store, mut skip) = back.open_parameter(scan.skip);
    for (channel, out) in skip.iter_mut().enumerate() {
        let g = sum(channel, &|found, group| found.skip[group]);
        *out = if store == Store::Add { *out + g } else { g };
    }
    back.close_parameter(scan.skip, skip);
    let (store, mut log) = back.open_parameter(scan.log_rates);
    let values = back.parameter(scan.log_rates);
    for channel in 0..channels {
        for n in 0..states {
            let at = channel * states + n;
            let a = -f64::from(values[at]).exp() as f32;
            let g = a * sum(channel, &|found, group| found.a[group * states + n]);
            log[at] = if store == Store::Add { log[at] + g } else { g };
        }
    }
    back.close_parameter(scan.log_rates, log);
}

#[cfg(test)]
mod tests;
