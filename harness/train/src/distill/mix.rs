//! Many teachers' logits become one teacher's; and a row is cut to its most probable tokens.

use rayon::prelude::*;

use super::{Average, DistillPlan};
use crate::ABSENT;

/// How teachers' logits are put together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    probabilities: bool,
    temperature: f64,
    /// Tokens that all teachers and the student have. What is beyond is padding of an embedding: no text holds it.
    pub(super) shared: usize,
}

impl Mix {
    pub(super) fn new(plan: &DistillPlan, shared: usize) -> Self {
        Self { probabilities: plan.average == Average::Probabilities, temperature: plan.temperature, shared }
    }

    /// Writes rows of `width` logits, `width >= shared`; tokens beyond the shared ones are [`ABSENT`]. Each teacher is its rows
    /// and their length.
    pub(super) fn write(&self, teachers: &[(Vec<f32>, usize)], width: usize, out: &mut [f32]) {
        out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let (shared, beyond) = out.split_at_mut(self.shared);
            beyond.fill(ABSENT);
            let of =
                |(rows, vocab): &'_ (Vec<f32>, usize)| row * vocab..row * vocab + self.shared.min(rows.len());
            let rows: Vec<&[f32]> = teachers.iter().map(|teacher| &teacher.0[of(teacher)]).collect();
            match rows.as_slice() {
                [one] => shared.copy_from_slice(one),
                several if self.probabilities => self.mean_of_probabilities(several, shared),
                several => mean(several, shared),
            }
        });
    }

    /// `T ln(mean of softmax(z / T))`: the logits whose softmax at the temperature is that mean.
    fn mean_of_probabilities(&self, rows: &[&[f32]], out: &mut [f32]) {
        let mut sums = vec![0.0_f64; out.len()];
        for row in rows {
            let total = log_sum_exp(row, self.temperature);
            sums.iter_mut()
                .zip(*row)
                .for_each(|(sum, z)| *sum += (f64::from(*z) / self.temperature - total).exp());
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = ((self.temperature * (sum / rows.len() as f64).ln()) as f32).max(ABSENT);
        }
    }
}

fn mean(rows: &[&[f32]], out: &mut [f32]) {
    for (token, out) in out.iter_mut().enumerate() {
        *out = (rows.iter().map(|row| f64::from(row[token])).sum::<f64>() / rows.len() as f64) as f32;
    }
}

/// `ln Σ exp(z / T)`
fn log_sum_exp(row: &[f32], temperature: f64) -> f64 {
    let highest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max)) / temperature;
    highest + row.iter().map(|z| (f64::from(*z) / temperature - highest).exp()).sum::<f64>().ln()
}

/// A row's most probable tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Top {
    /// Their ids, rising.
    pub(super) ids: Vec<u32>,
    /// `ln p` of each at the temperature.
    pub(super) log_probs: Vec<f32>,
    /// The logarithm of the probability of all others.
    pub(super) rest: f32,
}

/// The `k` most probable tokens of `softmax(z / T)`, the lower id first where two are alike; `k` is below the row's length.
pub(super) fn top(row: &[f32], k: usize, temperature: f64) -> Top {
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    let higher = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    order.select_nth_unstable_by(k, higher);
    let (ids, others) = order.split_at_mut(k);
    ids.sort_unstable();
    others.sort_unstable();
    let total = log_sum_exp(row, temperature);
    let of = |id: &u32| row[*id as usize];
    let log_probs = ids.iter().map(|id| (f64::from(of(id)) / temperature - total) as f32).collect();
    let others: Vec<f32> = others.iter().map(of).collect();
    Top { ids: ids.to_vec(), log_probs, rest: (log_sum_exp(&others, temperature) - total) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mix(average: &str, temperature: f64, shared: usize) -> Mix {
        let table = json!({"teachers": ["a"], "average": average, "temperature": temperature});
        let plan = DistillPlan::read(table.as_object().expect("a table")).expect("a plan");
        Mix::new(&plan, shared)
    }

    fn softmax(row: &[f32], temperature: f64) -> Vec<f64> {
        let all: Vec<f64> = row.iter().map(|z| (f64::from(*z) / temperature).exp()).collect();
        let sum: f64 = all.iter().sum();
        all.iter().map(|e| e / sum).collect()
    }

    fn near(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    }

    const A: [f32; 5] = [1.0, -2.0, 0.5, 3.0, 9.0];
    const B: [f32; 4] = [0.0, 4.0, -1.0, 2.0];

    fn mixed(average: &str, temperature: f64) -> Vec<f32> {
        let mut out = vec![f32::NAN; 12];
        // Two rows: B is padded to 4 tokens, A to 5, the student to 6, and 3 are shared.
        let twice = |row: &[f32]| [row, row].concat();
        mix(average, temperature, 3).write(&[(twice(&A), 5), (twice(&B), 4)], 6, &mut out);
        assert_eq!(out[..6], out[6..]);
        assert_eq!(out[3..6], [ABSENT; 3]);
        out.truncate(3);
        out
    }

    #[test]
    fn means_are_over_what_all_have() {
        assert_eq!(mixed("logits", 2.0), [0.5, 1.0, -0.25]);
        assert_eq!(mixed("log-probabilities", 2.0), mixed("logits", 2.0));
        let (a, b) = (softmax(&A[..3], 2.0), softmax(&B[..3], 2.0));
        let mean: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect();
        near(&softmax(&mixed("probabilities", 2.0), 2.0), &mean);
    }

    /// What [`Average::LogProbabilities`] says of itself.
    #[test]
    fn log_probabilities_average_to_what_logits_do() {
        let log = |row: &[f32]| softmax(row, 2.0).iter().map(|p| p.ln()).collect::<Vec<_>>();
        let mean: Vec<f32> =
            log(&A[..3]).iter().zip(log(&B[..3])).map(|(a, b)| ((a + b) / 2.0) as f32).collect();
        near(&softmax(&mean, 1.0), &softmax(&mixed("logits", 2.0), 2.0));
    }

    #[test]
    fn a_probability_that_underflows_is_absent_and_not_infinite() {
        let mut out = [f32::NAN; 2];
        let rows = || (vec![1e5, -1e5], 2);
        mix("probabilities", 0.5, 2).write(&[rows(), rows()], 2, &mut out);
        assert_eq!(out, [0.0, ABSENT]);
    }

    #[test]
    fn the_most_probable_stand_alone_and_the_rest_adds_up() {
        let found = top(&A, 2, 1.5);
        let p = softmax(&A, 1.5);
        assert_eq!(found.ids, [3, 4]);
        let exp = |log: &f32| f64::from(*log).exp();
        near(&found.log_probs.iter().map(exp).collect::<Vec<_>>(), &p[3..]);
        near(&[exp(&found.rest)], &[p[0] + p[1] + p[2]]);
        assert_eq!(top(&[1.0, 2.0, 2.0, 2.0], 2, 1.0).ids, [1, 2]);
        assert_eq!(top(&[5.0, ABSENT], 1, 1.0), Top { ids: vec![0], log_probs: vec![0.0], rest: ABSENT });
    }
}
