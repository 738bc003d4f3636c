//! Two short runs that show what no signature tells: the vocabulary, and whether the graph reads left to right.

use bheval_abi::{Failure, Status};

use crate::graph::Graph;

/// Tokens of a probe: half of them stay, half of them change.
const TOKENS: usize = 8;
/// By how much of a row's spread its logits may move when only later tokens change. Rounding to f16 stays far below;
/// a model that sees what comes after lies far above.
const MOVES: f32 = 0.01;

/// Number of logits in a row.
pub(crate) fn vocab(graph: &mut Graph) -> Result<u32, Failure> {
    let vocab = graph.run(&[0], |rows| Ok(rows.vocab()))?;
    u32::try_from(vocab).map_err(|_| Failure::model("the vocabulary has more than 2^32 entries"))
}

/// Refuses a graph whose logits depend on what comes after.
///
/// # Errors
/// [`Status::UNSUPPORTED`], saying by how much.
pub(crate) fn left_to_right(graph: &mut Graph, vocab: u32, limit: Option<usize>) -> Result<(), Failure> {
    let tokens = limit.map_or(TOKENS, |limit| limit.min(TOKENS));
    let kept = tokens / 2;
    let mut rows = |shift: u32| {
        let token = |i: usize| (7 * i as u32 + if i < kept { 0 } else { shift }) % vocab;
        let ids: Vec<u32> = (0..tokens).map(token).collect();
        graph.run(&ids, |rows| Ok((0..kept).map(|t| rows.row(t)).collect::<Vec<_>>()))
    };
    let (before, after) = (rows(1)?, rows(3)?);
    let moved = before.iter().zip(&after).map(|(a, b)| moved(a, b)).fold(0.0, f32::max);
    if moved <= MOVES {
        return Ok(());
    }
    Err(Failure::new(
        Status::UNSUPPORTED,
        format!(
            "the graph does not read from left to right: its logits move by {:.1}% of their spread when only later tokens \
             change. A masked model, or one that is quantised by the range of the whole input, gives no probability of a \
             token from what stands before it; export a causal model in f32 or f16",
            100.0 * moved
        ),
    ))
}

/// The largest difference of two rows, as a part of the first one's spread. What is not finite is left to the scoring,
/// which names it.
fn moved(a: &[f32], b: &[f32]) -> f32 {
    let finite = || a.iter().copied().filter(|x| x.is_finite());
    let spread = finite().fold(f32::NEG_INFINITY, f32::max) - finite().fold(f32::INFINITY, f32::min);
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs()).filter(|d| d.is_finite());
    let largest = differences.fold(0.0, f32::max);
    if largest == 0.0 { 0.0 } else { largest / spread.max(f32::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_by_hand() {
        assert_eq!(moved(&[0.0, 2.0, -2.0], &[0.0, 2.0, -2.0]), 0.0);
        assert_eq!(moved(&[0.0, 2.0, -2.0], &[1.0, 2.0, -2.0]), 0.25);
        assert_eq!(moved(&[0.0, f32::NAN, 1.0], &[0.0, 0.0, 1.0]), 0.0);
        assert_eq!(moved(&[0.0, f32::NEG_INFINITY, 1.0], &[0.5, f32::NEG_INFINITY, 1.0]), 0.5);
    }
}
