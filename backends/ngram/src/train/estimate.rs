//! From counts and discounts to probabilities, the lowest order first.
//!
//! Heafield et al. 2013, section 3.3 and 3.4, for a context c with children x:
//!
//! ```text
//! u(w|c) = (a(cw) - D(a(cw))) / Σx a(cx)          b(c) = Σx D(a(cx)) / Σx a(cx)
//! p(w|c) = u(w|c) + b(c) p(w|c'),  c' = c without its first word;  p(w|nothing) = u(w) + b / V
//! ```
//!
//! so that Σw p(w|c) = Σ u + b = 1. The uniform distribution is over all V ids: those never seen get b / V.

use rayon::prelude::*;

use super::{Counted, Discounts};
use crate::model::Level;

/// Contexts that one task computes.
const PART: usize = 1 << 14;

pub(super) fn estimate(counted: Vec<Counted>, discounts: &[Discounts]) -> Vec<Level> {
    let order = counted.len();
    let mut levels: Vec<Level> = Vec::with_capacity(order);
    // Exact probabilities of the order below: rounded ones would add up.
    let mut lower: Vec<f64> = Vec::new();
    for (n, (own, discounts)) in counted.into_iter().zip(discounts).enumerate() {
        let exact = match levels.last_mut() {
            None => unigrams(&own.count, discounts),
            Some(contexts) => children(contexts, &own, discounts, &lower),
        };
        let top = n + 1 == order;
        let prob = exact.par_iter().map(|&p| p as f32).collect();
        lower = exact;
        // The suffixes of the highest order are found again when they are needed: they would be half of the file.
        let suffix = if top || n == 0 { Vec::new() } else { own.suffix };
        levels.push(Level { word: own.word, prob, backoff: Vec::new(), suffix, child: own.child });
    }
    levels
}

fn unigrams(counts: &[u32], discounts: &Discounts) -> Vec<f64> {
    let context = Context::of(counts, discounts);
    let unseen = context.backoff / counts.len() as f64;
    counts.iter().map(|&a| context.discounted(a, discounts) + unseen).collect()
}

/// Fills in the back-off weights of `contexts`; returns the probabilities of their children.
fn children(contexts: &mut Level, own: &Counted, discounts: &Discounts, lower: &[f64]) -> Vec<f64> {
    let mut prob = vec![0.0; own.count.len()];
    contexts.backoff = vec![1.0; contexts.prob.len()];
    let mut parts = Vec::new();
    let mut rest = &mut prob[..];
    for (part, backoff) in contexts.backoff.chunks_mut(PART).enumerate() {
        let begin = part * PART;
        let child = &contexts.child[begin..=begin + backoff.len()];
        let (out, behind) = rest.split_at_mut((child[backoff.len()] - child[0]) as usize);
        parts.push((child, backoff, out));
        rest = behind;
    }
    parts.into_par_iter().for_each(|(child, backoff, out)| {
        for (pair, backoff) in child.windows(2).zip(backoff) {
            let range = pair[0] as usize..pair[1] as usize;
            if range.is_empty() {
                continue;
            }
            let base = child[0] as usize;
            let context = Context::of(&own.count[range.clone()], discounts);
            *backoff = context.backoff as f32;
            for i in range {
                let interpolated = context.backoff * lower[own.suffix[i] as usize];
                out[i - base] = context.discounted(own.count[i], discounts) + interpolated;
            }
        }
    });
    prob
}

/// What the children of a context share.
struct Context {
    /// Σx a(cx)
    total: f64,
    /// b(c)
    backoff: f64,
}

impl Context {
    fn of(counts: &[u32], discounts: &Discounts) -> Self {
        let mut total = 0_u64;
        let mut with = [0_u64; 3];
        for &count in counts.iter().filter(|&&c| c > 0) {
            total += u64::from(count);
            with[count.min(3) as usize - 1] += 1;
        }
        let taken: f64 = with.iter().zip(discounts.values).map(|(&n, d)| n as f64 * d).sum();
        Self { total: total as f64, backoff: taken / total as f64 }
    }

    /// u(w|c) of a child with this count.
    fn discounted(&self, count: u32, discounts: &Discounts) -> f64 {
        (f64::from(count) - discounts.discount(count)) / self.total
    }
}
