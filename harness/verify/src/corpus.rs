//! What a model is asked: token ids at random, the same in every process. They fit any vocabulary, context and size of a
//! call, so no tokenizer is needed.

use std::collections::BTreeSet;

use crate::random::Random;
use crate::raw::Info;
use crate::verdict::{Finding, Stop, failed};

/// Longest sequence and most tokens of a corpus: enough for arithmetic that changes its form with the number of rows,
/// little enough for a large model on a laptop.
const LONGEST: usize = 32;
const TOKENS: usize = 400;

/// Sorted sequences, six beginnings with up to four ways to go on; together one call of the model.
pub(crate) fn corpus(info: &Info) -> Vec<Vec<u32>> {
    let room = (info.nodes as usize).clamp(2, TOKENS);
    let longest = longest(info).min(room / 2).max(2);
    let mut random = Random::new(u64::from(info.vocab));
    let mut sequences = BTreeSet::new();
    let mut used = 0;
    for stem in 0..6 {
        let beginning = random.tokens(1 + (longest - 1) * stem / 8, info.vocab);
        for ending in 1..=4 {
            let len = (beginning.len() + (longest * ending / 6).max(1)).min(longest);
            let mut sequence = beginning.clone();
            sequence.extend(random.tokens(len.saturating_sub(beginning.len()), info.vocab));
            if sequence.len() >= 2 && used + sequence.len() <= room && sequences.insert(sequence.clone()) {
                used += sequence.len();
            }
        }
    }
    sequences.into_iter().collect()
}

/// The first few sequences, cut short: enough to see whether a model still scores as it did.
pub(crate) fn probe(info: &Info) -> Vec<Vec<u32>> {
    let mut sequences = corpus(info);
    sequences.truncate(3);
    sequences.iter_mut().for_each(|sequence| sequence.truncate(6));
    sequences
}

/// Longest sequence that a corpus may hold.
pub(crate) fn longest(info: &Info) -> usize {
    if info.context == 0 { LONGEST } else { LONGEST.min(info.context as usize) }
}

/// Values of each sequence: of its tokens after the first, or of the questions about it.
pub(crate) type Values = Vec<Vec<f32>>;

/// Compares two ways to ask the same sequences; returns the largest difference. Without a tolerance they must agree bit
/// for bit.
pub(crate) fn agree(
    sequences: &[Vec<u32>],
    ways: [&str; 2],
    values: [&Values; 2],
    tolerance: Option<f32>,
) -> Result<f32, Stop> {
    let (mut largest, mut count, mut all, mut first) = (0.0_f32, 0, 0, None);
    for (s, (a, b)) in values[0].iter().zip(values[1]).enumerate() {
        for (t, (x, y)) in a.iter().zip(b).enumerate() {
            all += 1;
            let apart = (x - y).abs();
            largest = largest.max(apart);
            let same = x.to_bits() == y.to_bits() || tolerance.is_some_and(|most| apart <= most);
            if !same {
                count += 1;
                first.get_or_insert((s, t, *x, *y));
            }
        }
    }
    match first {
        None => Ok(largest),
        Some((s, t, x, y)) => failed(format!(
            "{count} of {all} values differ, by {largest:.3e} at most; the first: value {t} of the sequence {} is {x:?} \
             {} and {y:?} {}",
            shown(&sequences[s]),
            ways[0],
            ways[1]
        )),
    }
}

/// [`agree`] bit for bit, and how many values that were.
pub(crate) fn same(sequences: &[Vec<u32>], ways: [&str; 2], a: &Values, b: &Values) -> Finding {
    agree(sequences, ways, [a, b], None)?;
    Ok(format!("{} values of {} sequences, bit for bit", a.iter().map(Vec::len).sum::<usize>(), a.len()))
}

/// Token ids as evidence: the first ones, and how many there are.
pub(crate) fn shown(ids: &[u32]) -> String {
    let head = ids.iter().take(8).map(u32::to_string).collect::<Vec<_>>().join(" ");
    if ids.len() <= 8 { format!("[{head}]") } else { format!("[{head} ... {} tokens]", ids.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bheval_abi::Kind;

    fn info(vocab: u32, context: u32, nodes: u32) -> Info {
        let (architecture, dtype) = (None, None);
        Info { vocab, context, nodes, kind: Kind::CAUSAL, parameters: 0, architecture, dtype }
    }

    #[test]
    fn a_corpus_fits_any_model() {
        for vocab in [1, 2, 7, 768, u32::MAX] {
            for context in [0, 2, 3, 64, 100_000] {
                for nodes in [1, 2, 8, 100, 4096, u32::MAX] {
                    let info = info(vocab, context, nodes);
                    let sequences = corpus(&info);
                    assert!(!sequences.is_empty(), "{info:?}");
                    assert!(sequences.iter().flatten().all(|&t| t < vocab));
                    let longest = sequences.iter().map(Vec::len).max().expect("not empty");
                    assert!(context == 0 || longest <= context as usize, "{info:?}");
                    assert!(
                        sequences.iter().map(Vec::len).sum::<usize>() <= nodes.max(2) as usize,
                        "{info:?}"
                    );
                    assert!(sequences.is_sorted() && sequences.iter().all(|s| s.len() > 1));
                }
            }
        }
        let usual = corpus(&info(768, 0, 4096));
        assert!(usual.len() >= 18, "{}", usual.len());
    }

    #[test]
    fn a_difference_is_named() {
        let sequences = [vec![1, 2, 3]];
        let (a, b) = (vec![vec![-1.0, -2.0]], vec![vec![-1.0, -2.5]]);
        let Err(Stop::Failed(text)) = agree(&sequences, ["alone", "together"], [&a, &b], None) else {
            panic!("they differ")
        };
        for part in ["1 of 2 values", "value 1", "[1 2 3]", "-2.0 alone", "-2.5 together"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(agree(&sequences, ["", ""], [&a, &b], Some(0.5)), Ok(0.5));
        let nan = vec![vec![f32::NAN, -2.0]];
        assert!(agree(&sequences, ["", ""], [&nan, &a], Some(0.5)).is_err());
        assert!(agree(&sequences, ["", ""], [&a, &nan], Some(0.5)).is_err());
    }
}
