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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{differences, near, normal, setting};
    use crate::parameters::{Init, Parameters};
    use crate::pool::Pool;
    use crate::tape::{Back, Operation};

    const VOCAB: usize = 19;
    const WIDTH: usize = 5;
    const TARGETS: [i32; 6] = [3, -100, 18, 0, 3, 7];
    const WEIGHT: f32 = 0.3;

    struct Leaf;

    impl Operation for Leaf {
        fn backward(self: Box<Self>, _: &mut Back<'_, '_>) {}
    }

    /// `ln softmax(z / T)`
    fn log_softmax(z: &[f64], temperature: f64) -> Vec<f64> {
        let max = z.iter().fold(f64::MIN, |m, &x| m.max(x));
        let sum: f64 = z.iter().map(|x| ((x - max) / temperature).exp()).sum();
        z.iter().map(|x| (x - max) / temperature - sum.ln()).collect()
    }

    /// The teacher's log-probabilities of single events, each with its tokens.
    fn events(teacher: &Teacher<'_>, row: usize, u: &[f64]) -> Vec<(f64, Vec<usize>)> {
        match teacher.kind {
            TeacherKind::Top { k, ids, log_probs, rest } => {
                let ids: Vec<usize> = ids[row * k..][..k].iter().map(|&id| id as usize).collect();
                let others = (0..VOCAB).filter(|i| !ids.contains(i)).collect();
                let mut all: Vec<_> =
                    ids.iter().zip(&log_probs[row * k..]).map(|(&id, &l)| (f64::from(l), vec![id])).collect();
                all.push((f64::from(rest[row]), others));
                all
            }
            _ => {
                let log_p = log_softmax(u, f64::from(teacher.temperature));
                log_p.into_iter().enumerate().map(|(i, l)| (l, vec![i])).collect()
            }
        }
    }

    /// The weighted loss in f64, word for word as the module says.
    fn twin(x: &[Vec<f64>], cap: Option<f32>, targets: &Targets<'_>, u: &[f64]) -> f64 {
        let (hidden, weight, bias) = (&x[0], &x[1], &x[2]);
        let mut loss = 0.0;
        for (row, &target) in targets.tokens.iter().enumerate() {
            let dot = |v: usize| -> f64 {
                (0..WIDTH).map(|d| hidden[row * WIDTH + d] * weight[v * WIDTH + d]).sum::<f64>() + bias[v]
            };
            let capped = |z: f64| cap.map_or(z, |c| f64::from(c) * (z / f64::from(c)).tanh());
            let z: Vec<f64> = (0..VOCAB).map(|v| capped(dot(v))).collect();
            if target >= 0 {
                loss -= f64::from(targets.weight) * log_softmax(&z, 1.0)[target as usize];
            }
            let Some(teacher) = targets.teacher.filter(|t| target >= 0 || t.every_position) else { continue };
            let log_q = log_softmax(&z, f64::from(teacher.temperature));
            for (log_p, tokens) in events(&teacher, row, &u[row * VOCAB..][..VOCAB]) {
                let q: f64 = tokens.iter().map(|&i| log_q[i].exp()).sum();
                loss += f64::from(teacher.weight) * log_p.exp() * (log_p - q.ln());
            }
        }
        loss
    }

    /// Loss and gradients of hidden states, head and bias, beside the twin's.
    fn compare(cap: Option<f32>, teacher: Option<Teacher<'_>>, u: &[f32]) {
        let (hidden, weight, bias) =
            (normal(6 * WIDTH, 1.0, 1), normal(VOCAB * WIDTH, 1.0, 2), normal(VOCAB, 1.0, 3));
        let mut parameters = Parameters::default();
        let w = parameters.matrix("w", &[VOCAB, WIDTH], Init::Values(weight.clone()));
        let b = parameters.vector("b", &[VOCAB], Init::Values(bias.clone()));
        parameters.initialise(0);
        let head = Head { weight: w, bias: Some(b), soft_cap: cap, vocab: VOCAB, width: WIDTH };
        let targets = Targets { tokens: &TARGETS, weight: WEIGHT, teacher };
        let (mut pool, mut gradients) = (Pool::default(), Gradients::new(&parameters));
        let mut tape = Tape::new(setting(2, 3), &parameters, &mut pool, true);
        let x = tape.push(hidden.clone(), |_| Leaf);
        let only = losses(&mut tape, x, head, &targets);
        let (found, dx) = descend(&mut tape, x, head, &targets, &mut gradients);
        assert_eq!(only, found);
        assert_eq!(found.targets, 5);
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (all, u) = (vec![wide(&hidden), wide(&weight), wide(&bias)], wide(u));
        let loss = |x: &[Vec<f64>]| twin(x, cap, &targets, &u);
        let total =
            f64::from(WEIGHT) * found.nats + teacher.map_or(0.0, |t| f64::from(t.weight) * found.divergence);
        near("loss", &[total as f32], &[loss(&all)], 2e-6);
        let got = [dx].into_iter().chain(gradients.finish().iter().cloned());
        for (i, got) in got.enumerate() {
            near(&format!("gradient {i}"), &got, &differences(&all, i, loss), 3e-6);
        }
    }

    fn teacher(kind: TeacherKind<'_>, temperature: f32, every_position: bool) -> Option<Teacher<'_>> {
        Some(Teacher { kind, temperature, weight: 0.7, every_position })
    }

    #[test]
    fn cross_entropy_with_bias_and_soft_cap() {
        compare(None, None, &[0.0; 6 * VOCAB]);
        compare(Some(1.5), None, &[0.0; 6 * VOCAB]);
    }

    #[test]
    fn divergence_from_logits() {
        let u = normal(6 * VOCAB, 2.0, 4);
        for (temperature, every) in [(1.0, false), (2.0, true), (0.5, false)] {
            compare(None, teacher(TeacherKind::Logits(&u), temperature, every), &u);
            compare(Some(2.0), teacher(TeacherKind::Logits(&u), temperature, every), &u);
        }
    }

    #[test]
    fn divergence_from_hidden_states() {
        let (hidden, head, bias) = (normal(6 * 3, 1.0, 5), normal(VOCAB * 3, 1.0, 6), normal(VOCAB, 1.0, 7));
        let logit = |i: usize| {
            let (row, v) = (i / VOCAB, i % VOCAB);
            (0..3).map(|d| hidden[row * 3 + d] * head[v * 3 + d]).sum::<f32>() + bias[v]
        };
        let u: Vec<f32> = (0..6 * VOCAB).map(logit).collect();
        let kind = TeacherKind::Hidden { width: 3, hidden: &hidden, head: &head, bias: Some(&bias) };
        compare(None, teacher(kind, 2.0, true), &u);
    }

    #[test]
    fn divergence_from_the_most_probable_tokens() {
        let (u, k) = (normal(6 * VOCAB, 2.0, 8), 4);
        let (mut ids, mut log_probs, mut rest) = (vec![], vec![], vec![]);
        for row in u.chunks(VOCAB) {
            let log_p = log_softmax(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), 2.0);
            let mut order: Vec<usize> = (0..VOCAB).collect();
            order.sort_by(|&a, &b| log_p[b].total_cmp(&log_p[a]));
            ids.extend(order[..k].iter().map(|&i| i as u32));
            log_probs.extend(order[..k].iter().map(|&i| log_p[i] as f32));
            rest.push(order[k..].iter().map(|&i| log_p[i].exp()).sum::<f64>().ln() as f32);
        }
        let kind = TeacherKind::Top { k, ids: &ids, log_probs: &log_probs, rest: &rest };
        for every in [false, true] {
            compare(None, teacher(kind, 2.0, every), &u);
        }
    }
}
