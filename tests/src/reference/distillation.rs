//! The loss of a student with teachers, and its gradient, in f64: the definition that fast forms are compared with.
//!
//! With `q_T = softmax(z / T)` of the student's logits `z` and `p` the teacher's distribution at the same temperature,
//!
//! ```text
//! loss = a · CE + b · [T²] · KL(p || q_T),   CE = mean of -ln q_1(target)
//! ```
//!
//! where `a = alpha, b = 1 - alpha` (BabyLlama, golden `kd.json`) or the other way round (paper.md 7). KL is either the
//! mean over the rows that have a target, or (`batchmean` of BabyLlama's trainer) the sum over all rows divided by the
//! number of sequences.

use super::layers::log_sum_exp;

/// What the teacher says of a row, at the temperature of the loss.
#[derive(Clone, Debug)]
pub enum Said {
    /// Logits `[vocab]`.
    Logits(Vec<f64>),
    /// Some tokens with their log-probabilities, and the logarithm of the probability of all others: one event.
    Top(Vec<(usize, f64)>, f64),
    /// A hidden state `[width]`, the head's rows `[vocab][width]`, and its bias.
    Hidden(Vec<f64>, Vec<Vec<f64>>, Vec<f64>),
}

impl Said {
    /// The teacher's events: each a log-probability and the tokens that it consists of.
    #[must_use]
    pub fn events(&self, temperature: f64, vocab: usize) -> Vec<(f64, Vec<usize>)> {
        let single = |logits: &[f64]| {
            log_softmax(logits, temperature).into_iter().zip(0..).map(|(log_p, token)| (log_p, vec![token]))
        };
        match self {
            Self::Logits(logits) => single(logits).collect(),
            Self::Hidden(state, head, bias) => {
                let logit =
                    |(row, b): (&Vec<f64>, &f64)| row.iter().zip(state).map(|(w, x)| w * x).sum::<f64>() + b;
                single(&head.iter().zip(bias).map(logit).collect::<Vec<_>>()).collect()
            }
            Self::Top(named, rest) => {
                let mut events: Vec<_> = named.iter().map(|&(token, log_p)| (log_p, vec![token])).collect();
                let other = |token: &usize| named.iter().all(|(named, _)| named != token);
                events.push((*rest, (0..vocab).filter(other).collect()));
                events
            }
        }
    }
}

/// `ln softmax(z / T)`
#[must_use]
pub fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let cooled: Vec<f64> = logits.iter().map(|z| z / temperature).collect();
    let total = log_sum_exp(&cooled);
    cooled.iter().map(|z| z - total).collect()
}

/// `KL(p || q)` of one row in nats, and its gradient by the student's logits.
///
/// `KL = Σ_e p_e (ln p_e - ln q_e)` over events `e`, with `q_e` the sum of its tokens' `q`. From
/// `∂ ln q_e / ∂z_j = ([j ∈ e] q_j / q_e - q_j) / T` follows the gradient.
#[must_use]
pub fn divergence(said: &Said, student: &[f64], temperature: f64) -> (f64, Vec<f64>) {
    let log_q = log_softmax(student, temperature);
    let (mut value, mut gradient) = (0.0, vec![0.0; student.len()]);
    for (log_p, tokens) in said.events(temperature, student.len()) {
        let p = log_p.exp();
        let log_event = log_sum_exp(&tokens.iter().map(|&t| log_q[t]).collect::<Vec<_>>());
        value += p * (log_p - log_event);
        for (slope, log_q) in gradient.iter_mut().zip(&log_q) {
            *slope += p * log_q.exp() / temperature;
        }
        for &token in &tokens {
            gradient[token] -= p * (log_q[token] - log_event).exp() / temperature;
        }
    }
    (value, gradient)
}

/// `-ln softmax(z)[target]` of one row in nats, and its gradient by the student's logits.
#[must_use]
pub fn cross_entropy(student: &[f64], target: usize) -> (f64, Vec<f64>) {
    let log_q = log_softmax(student, 1.0);
    let mut gradient: Vec<f64> = log_q.iter().map(|l| l.exp()).collect();
    gradient[target] -= 1.0;
    (-log_q[target], gradient)
}

/// How rows are put together.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Weight of CE.
    pub ce: f64,
    /// Weight of KL, `T²` not included.
    pub kl: f64,
    /// Temperature of the KL.
    pub temperature: f64,
    /// Whether KL is multiplied with `T²`.
    pub t2: bool,
    /// The sum over every row divided by so many sequences, in place of the mean over the rows with a target.
    pub batchmean: Option<usize>,
}

/// The loss of a batch, its parts before they are weighted, and its gradient.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The whole.
    pub loss: f64,
    /// Mean cross-entropy.
    pub ce: f64,
    /// The divergence as `batchmean` or its absence asks for.
    pub kl: f64,
    /// By the student's logits, row by row.
    pub gradient: Vec<Vec<f64>>,
}

/// The loss over rows of the student's logits, each with its target (or none) and what the teacher says.
#[must_use]
pub fn loss(student: &[Vec<f64>], targets: &[Option<usize>], said: &[Said], rule: &Rule) -> Loss {
    let count = targets.iter().flatten().count() as f64;
    let scale = 1.0 / rule.batchmean.map_or(count, |sequences| sequences as f64);
    let factor = rule.kl * if rule.t2 { rule.temperature.powi(2) } else { 1.0 };
    let mut all = Loss { loss: 0.0, ce: 0.0, kl: 0.0, gradient: vec![] };
    for ((row, target), said) in student.iter().zip(targets).zip(said) {
        let mut gradient = vec![0.0; row.len()];
        let mut add = |weight: f64, slopes: Vec<f64>| {
            gradient.iter_mut().zip(slopes).for_each(|(g, slope)| *g += weight * slope);
        };
        if let Some(target) = target {
            let (value, slopes) = cross_entropy(row, *target);
            all.ce += value / count;
            add(rule.ce / count, slopes);
        }
        if target.is_some() || rule.batchmean.is_some() {
            let (value, slopes) = divergence(said, row, rule.temperature);
            all.kl += value * scale;
            add(factor * scale, slopes);
        }
        all.gradient.push(gradient);
    }
    all.loss = rule.ce * all.ce + factor * all.kl;
    all
}
