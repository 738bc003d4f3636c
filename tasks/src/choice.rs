//! "The more probable one wins": the rule that minimal pairs and world knowledge share.

use bheval_data::protocol::Ties;

/// Two queries of an item, of which one should be the more probable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Index of the query that should win. Listed first, as every published pipeline does.
    pub better: usize,
    /// Index of the other.
    pub worse: usize,
}

/// The outcome of an item under one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Mean over the comparisons: 1 for a right one, 0 for a wrong one, a tie as the protocol says.
    pub score: f64,
    /// Comparisons in which both log-probabilities were equal.
    pub ties: usize,
}

/// Judges an item by its queries' log-probabilities, in nats. `None` if one that is needed is missing.
#[must_use]
pub fn judge(comparisons: &[Comparison], log_probs: &[Option<f64>], ties: Ties) -> Option<Judgement> {
    let mut score = 0.0;
    let mut tied = 0;
    for comparison in comparisons {
        let (better, worse) = (log_probs[comparison.better]?, log_probs[comparison.worse]?);
        tied += usize::from(better == worse);
        score += point(better, worse, ties);
    }
    Some(Judgement { score: score / comparisons.len() as f64, ties: tied })
}

fn point(better: f64, worse: f64, ties: Ties) -> f64 {
    match (better == worse, ties) {
        (true, Ties::Half) => 0.5,
        (true, Ties::FirstWins) => 1.0,
        (false, _) => f64::from(u8::from(better > worse)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: [Comparison; 1] = [Comparison { better: 0, worse: 1 }];

    #[test]
    fn the_more_probable_wins() {
        let right = judge(&PAIR, &[Some(-1.0), Some(-2.0)], Ties::Half);
        assert_eq!(right, Some(Judgement { score: 1.0, ties: 0 }));
        let wrong = judge(&PAIR, &[Some(-3.0), Some(-2.0)], Ties::FirstWins);
        assert_eq!(wrong, Some(Judgement { score: 0.0, ties: 0 }));
    }

    #[test]
    fn a_tie_is_worth_what_the_protocol_says_and_is_counted_either_way() {
        let tie = [Some(-2.0), Some(-2.0)];
        assert_eq!(judge(&PAIR, &tie, Ties::Half), Some(Judgement { score: 0.5, ties: 1 }));
        assert_eq!(judge(&PAIR, &tie, Ties::FirstWins), Some(Judgement { score: 1.0, ties: 1 }));
    }

    #[test]
    fn a_missing_score_gives_no_judgement() {
        assert_eq!(judge(&PAIR, &[Some(-2.0), None], Ties::Half), None);
    }
}
