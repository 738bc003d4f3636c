//! The end of a pass: head, softmax, cross-entropy and the divergence from a teacher, block by block of rows, so that the
//! logits of a batch never lie in memory together.
//!
//! For each row with logits `z` and target `y`, teacher logits `u` and temperature `T` (paper.md 7):
//!
//! ```text
//! loss = weight · (ln Σ exp z - z_y) + weight_T · KL(softmax(u / T) || softmax(z / T))
//! ∂loss/∂z = weight · (softmax(z) - onehot(y)) + weight_T / T · (softmax(z / T) - softmax(u / T))
//! ```
//! The factors `α`, `T²` and one over a count are part of the weights.

mod row;

use bheval_abi::{Found, Teacher, TeacherKind};
use bheval_kernels::activation::soft_cap;
use bheval_kernels::gemm::Store;
use bheval_kernels::product::{View, ViewMut, product};
use rayon::prelude::*;

use crate::parameters::{Gradients, Parameter};
use crate::tape::{Setting, Tape, Value};
use row::{Row, Term};

/// Logits that a block holds.
const BLOCK: usize = 1 << 22;

/// What turns hidden states into logits: `logits = cap(hidden · Wᵀ + b)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Head {
    /// `[vocab, width]`; the embedding's where they are tied.
    pub weight: Parameter,
    /// `[vocab]`
    pub bias: Option<Parameter>,
    /// `cap · tanh(logits / cap)`
    pub soft_cap: Option<f32>,
    /// Tokens.
    pub vocab: usize,
    /// Columns of the hidden states.
    pub width: usize,
}

/// What the rows of a batch are to predict.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// For each row a token, or below 0.
    pub tokens: &'a [i32],
    /// What one target's cross-entropy counts for.
    pub weight: f32,
    /// What a teacher says.
    pub teacher: Option<Teacher<'a>>,
}

/// The losses of a batch, without a way back.
#[must_use]
pub fn losses(tape: &mut Tape<'_>, hidden: Value, head: Head, targets: &Targets<'_>) -> Found {
    let rows = tape.setting.rows();
    let mut blocks = Blocks::new(tape, head, targets);
    let mut logits = tape.buffer(blocks.rows.min(rows) * head.vocab);
    let mut found = Found::default();
    for begin in (0..rows).step_by(blocks.rows) {
        let len = blocks.rows.min(rows - begin);
        let out = &mut logits[..len * head.vocab];
        let x = &tape.get(hidden)[begin * head.width..][..len * head.width];
        blocks.logits(tape, x, len, out);
        blocks.finish(begin, out, false, &mut found);
    }
    tape.recycle(logits);
    blocks.give(tape);
    found
}

/// The losses of a batch, and the way back to the hidden states: their gradient, and that of the head.
#[must_use]
pub fn descend(
    tape: &mut Tape<'_>,
    hidden: Value,
    head: Head,
    targets: &Targets<'_>,
    gradients: &mut Gradients,
) -> (Found, Vec<f32>) {
    let (setting, rows) = (tape.setting, tape.setting.rows());
    let mut blocks = Blocks::new(tape, head, targets);
    let mut logits = tape.buffer(blocks.rows.min(rows) * head.vocab);
    let mut back = tape.output(head.width);
    let (mut found, weight) = (Found::default(), tape.parameter(head.weight));
    for begin in (0..rows).step_by(blocks.rows) {
        let len = blocks.rows.min(rows - begin);
        let out = &mut logits[..len * head.vocab];
        let x = &tape.get(hidden)[begin * head.width..][..len * head.width];
        blocks.logits(tape, x, len, out);
        blocks.finish(begin, out, true, &mut found);
        let g = View::new(out, len, head.vocab);
        let dx = ViewMut::new(&mut back[begin * head.width..][..len * head.width], len, head.width);
        let w = View::new(weight, head.vocab, head.width);
        product(setting.isa, setting.precision, g, w, Store::Set, dx);
        let (store, mut dw) = gradients.open(head.weight);
        let (dx, c) = (View::new(x, len, head.width), ViewMut::new(&mut dw, head.vocab, head.width));
        product(setting.isa, setting.precision, g.t(), dx, store, c);
        gradients.close(head.weight, dw);
        if let Some(bias) = head.bias {
            bias_gradient(gradients, bias, out);
        }
    }
    tape.recycle(logits);
    blocks.give(tape);
    (found, back)
}

/// Columns summed over the rows, in their order.
fn bias_gradient(gradients: &mut Gradients, bias: Parameter, rows: &[f32]) {
    let (store, mut sums) = gradients.open(bias);
    let (vocab, columns) = (sums.len(), 1 << 10);
    sums.par_chunks_mut(columns).enumerate().for_each(|(part, sums)| {
        if store == Store::Set {
            sums.fill(0.0);
        }
        for row in rows.chunks_exact(vocab) {
            sums.iter_mut().zip(&row[part * columns..]).for_each(|(s, g)| *s += g);
        }
    });
    gradients.close(bias, sums);
}

/// The rows of a batch in blocks.
struct Blocks<'a> {
    setting: Setting,
    head: Head,
    targets: &'a Targets<'a>,
    /// Rows of a block.
    rows: usize,
    /// The teacher's logits for a block, where they are made here.
    teacher: Vec<f32>,
}

impl<'a> Blocks<'a> {
    fn new(tape: &mut Tape<'_>, head: Head, targets: &'a Targets<'a>) -> Self {
        let setting = tape.setting;
        let rows = (BLOCK / head.vocab).clamp(1, setting.rows());
        let hidden = matches!(&targets.teacher, Some(Teacher { kind: TeacherKind::Hidden { .. }, .. }));
        let teacher = if hidden { tape.buffer(rows * head.vocab) } else { vec![] };
        Self { setting, head, targets, rows, teacher }
    }

    fn give(self, tape: &mut Tape<'_>) {
        tape.recycle(self.teacher);
    }

    /// Logits of `len` rows, before the soft cap.
    fn logits(&self, tape: &Tape<'_>, x: &[f32], len: usize, out: &mut [f32]) {
        let Head { vocab, width, .. } = self.head;
        let bias = self.head.bias.map(|b| tape.parameter(b));
        let weight = View::new(tape.parameter(self.head.weight), vocab, width);
        self.project(View::new(x, len, width), weight, bias, out);
    }

    fn project(&self, x: View<'_>, weight: View<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
        if let Some(bias) = bias {
            out.par_chunks_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
        }
        let store = if bias.is_some() { Store::Add } else { Store::Set };
        let (len, vocab) = (x.rows, weight.rows);
        let c = ViewMut::new(out, len, vocab);
        product(self.setting.isa, self.setting.precision, x, weight.t(), store, c);
    }

    /// Adds the losses of the rows from `begin` on and, where there is a way back, turns their logits into gradients.
    fn finish(&mut self, begin: usize, logits: &mut [f32], back: bool, found: &mut Found) {
        let (isa, vocab) = (self.setting.isa, self.head.vocab);
        let len = logits.len() / vocab;
        self.make_teacher(begin, len);
        let row = |(r, z): (usize, &mut [f32])| {
            self.head.soft_cap.into_iter().for_each(|cap| soft_cap(isa, cap, z));
            let capped = self.head.soft_cap.filter(|_| back).map(|_| z.to_vec());
            let target = usize::try_from(self.targets.tokens[begin + r]).ok();
            let term = self.term(begin + r, r, target.is_some());
            let losses = Row { isa, z, target, weight: self.targets.weight, back }.finish(term);
            if let (Some(cap), Some(capped)) = (self.head.soft_cap, capped) {
                z.iter_mut().zip(&capped).for_each(|(g, y)| *g *= 1.0 - (y / cap) * (y / cap));
            }
            losses
        };
        let losses: Vec<(f64, f64)> = logits.par_chunks_mut(vocab).enumerate().map(row).collect();
        for (nats, divergence) in losses {
            found.nats += nats;
            found.divergence += divergence;
        }
        found.targets += self.targets.tokens[begin..begin + len].iter().filter(|&&t| t >= 0).count() as u64;
    }

    /// Makes the teacher's logits of `len` rows, where it gave hidden states.
    fn make_teacher(&mut self, begin: usize, len: usize) {
        let Some(Teacher { kind: TeacherKind::Hidden { width, hidden, head, bias }, .. }) =
            self.targets.teacher
        else {
            return;
        };
        let x = View::new(&hidden[begin * width..][..len * width], len, width);
        let mut out = std::mem::take(&mut self.teacher);
        let vocab = self.head.vocab;
        // The teacher's logits are made in f32 whatever the student's products are rounded to.
        let exact = Blocks {
            setting: Setting { precision: bheval_kernels::product::Precision::F32, ..self.setting },
            teacher: vec![],
            ..*self
        };
        exact.project(x, View::new(head, vocab, width), bias, &mut out[..len * vocab]);
        self.teacher = out;
    }

    /// What the teacher says of a row; `local` is its place in the block.
    fn term(&self, row: usize, local: usize, counted: bool) -> Option<Term<'_>> {
        let teacher = self.targets.teacher.as_ref().filter(|t| counted || t.every_position)?;
        let (vocab, at) = (self.head.vocab, row);
        let kind = match teacher.kind {
            TeacherKind::Logits(logits) => row::Said::Logits(&logits[at * vocab..][..vocab]),
            TeacherKind::Hidden { .. } => row::Said::Logits(&self.teacher[local * vocab..][..vocab]),
            TeacherKind::Top { k, ids, log_probs, rest } => row::Said::Top {
                ids: &ids[at * k..][..k],
                log_probs: &log_probs[at * k..][..k],
                rest: rest[at],
            },
        };
        Some(Term { said: kind, temperature: teacher.temperature, weight: teacher.weight })
    }
}
