//! The trained model against its definition, a hand calculation, and what must hold of any distribution.

mod support;

use bheval_ngram::file::write_to;
use bheval_ngram::train::Trained;
use proptest::prelude::*;

use support::{Gram, Naive, after, path, train};

/// Up to five factors, each rounded to f32.
const ROUNDING: f64 = 5e-7;

fn bytes(trained: &Trained) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_to(&trained.model, &mut bytes).expect("memory takes everything");
    bytes
}

/// `0 a b 1` and `0 a a 1` with a = 2, b = 3. Bigrams: 02 twice, 23 31 22 21 once. Unigrams by words before them: a after
/// 0 and a, b after a, 1 after b and a: 2, 1, 2. No count of 3, so D = ½, 1, 1½.
#[test]
fn bigrams_by_hand() {
    let trained = train(4, 2, &[vec![0, 2, 3, 1], vec![0, 2, 2, 1]], 1);
    let p = |tokens: &[u32]| *path(&trained.model, tokens).last().expect("a value");
    // Unigrams: b = (½ + 1 + 1) / 5 = ½, a quarter of it to each id. Contexts 0: b = 1/2, 2: b = 3·½ / 3.
    for (tokens, expected) in [
        ([1, 0], 0.125),
        ([1, 3], 0.5 / 5.0 + 0.125),
        ([1, 2], 1.0 / 5.0 + 0.125),
        ([0, 2], 1.0 / 2.0 + 0.5 * 0.325),
        ([0, 3], 0.5 * 0.225),
        ([2, 3], 0.5 / 3.0 + 0.5 * 0.225),
        ([2, 0], 0.5 * 0.125),
        ([3, 1], 0.5 / 1.0 + 0.5 * 0.325),
    ] {
        assert!((p(&tokens) - expected).abs() < 1e-7, "{tokens:?}: {} and not {expected}", p(&tokens));
    }
    assert!(trained.discounts.iter().all(|d| d.fallback.is_some()));
}

/// Corpora with and without a token of their own in front, and ones in which that token also ends sequences.
fn corpora() -> impl Strategy<Value = (u32, Vec<Gram>)> {
    let framed = |vocab: u32, frame: u8, mut s: Gram| {
        if frame != 0 {
            s.insert(0, 0);
        }
        if frame == 2 {
            s.push(0);
        } else if frame == 3 {
            s.push(vocab - 1);
        }
        s
    };
    (1_u32..9, 0_u8..4).prop_flat_map(move |(vocab, frame)| {
        // Small ids are more frequent, so that counts differ.
        let id = (0..vocab, 0..vocab, 0..vocab).prop_map(|(a, b, c)| a.min(b).min(c));
        let sequence = prop::collection::vec(id, 0..12).prop_map(move |s| framed(vocab, frame, s));
        let pair = prop::collection::vec(0..vocab, 2);
        (prop::collection::vec(sequence, 0..40), pair)
            .prop_map(move |(s, pair)| (vocab, [s, vec![pair]].concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn training_follows_the_definition(
        (vocab, sequences) in corpora(),
        order in 1_u32..=5,
        walk in prop::collection::vec(any::<u32>(), 2..30),
    ) {
        let trained = train(vocab, order, &sequences, 1);
        let naive = Naive::train(vocab, order as usize, &sequences);
        for (found, expected) in trained.discounts.iter().zip(&naive.discounts) {
            prop_assert!(found.values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        let walk: Vec<u32> = walk.iter().map(|t| t % vocab).collect();
        for tokens in sequences.iter().filter(|s| s.len() > 1).take(10).chain([&walk]) {
            for (i, p) in path(&trained.model, tokens).iter().enumerate() {
                let expected = naive.p(&tokens[..=i], tokens[i + 1]);
                prop_assert!((p / expected - 1.0).abs() < ROUNDING, "{p} and not {expected}, order {order}");
            }
        }
    }

    #[test]
    fn every_context_is_a_distribution(
        (vocab, sequences) in corpora(),
        order in 1_u32..=5,
        context in prop::collection::vec(any::<u32>(), 0..6),
    ) {
        let trained = train(vocab, order, &sequences, 1);
        let naive = Naive::train(vocab, order as usize, &sequences);
        let context: Vec<u32> = context.iter().map(|t| t % vocab).collect();
        let exact: f64 = (0..vocab).map(|w| naive.p(&context, w)).sum();
        prop_assert!((exact - 1.0).abs() < 1e-12, "the definition sums to {exact}");
        let state = after(&trained.model, &context);
        let all: Vec<f64> = (0..vocab).map(|w| trained.model.step(state, w).0).collect();
        prop_assert!(all.iter().all(|&p| p > 0.0 && p <= 1.0));
        prop_assert!((all.iter().sum::<f64>() - 1.0).abs() < ROUNDING, "it sums to {}", all.iter().sum::<f64>());
        let mut row = vec![0.0; vocab as usize];
        trained.model.log_probs(state, &mut row);
        let by_step: Vec<f32> = all.iter().map(|p| p.ln() as f32).collect();
        prop_assert_eq!(row, by_step);
    }

    #[test]
    fn threads_change_no_byte((vocab, sequences) in corpora(), order in 1_u32..=5) {
        prop_assert_eq!(bytes(&train(vocab, order, &sequences, 1)), bytes(&train(vocab, order, &sequences, 4)));
    }

    #[test]
    fn the_order_of_sentences_changes_no_byte((vocab, mut sequences) in corpora(), order in 1_u32..=5) {
        let before = bytes(&train(vocab, order, &sequences, 2));
        sequences.reverse();
        prop_assert_eq!(before, bytes(&train(vocab, order, &sequences, 2)));
    }
}

/// More windows than are sorted together, and a token with more of them than a group has.
#[test]
fn a_corpus_of_many_groups_has_each_ngram_once_and_sums_to_one() {
    let mut seed = 7_u64;
    let mut next = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let sequences: Vec<Gram> = (0..60_000)
        .map(|_| (0..12).map(|_| if next(3) == 0 { next(40_000) as u32 } else { next(5) as u32 }).collect())
        .collect();
    let (one, two) = (train(40_000, 3, &sequences, 1), train(40_000, 3, &sequences, 2));
    assert!(one.model == two.model);
    let mut bigrams = std::collections::BTreeSet::new();
    let mut trigrams = std::collections::BTreeSet::new();
    for s in &sequences {
        bigrams.extend(s.windows(2).map(<[u32]>::to_vec));
        trigrams.extend(s.windows(3).map(<[u32]>::to_vec));
    }
    assert_eq!(one.model.ngrams(), [40_000, bigrams.len() as u64, trigrams.len() as u64]);
    for context in [vec![1, 2], vec![0, 0], vec![39_999, 3], vec![]] {
        let state = after(&one.model, &context);
        let sum: f64 = (0..40_000).map(|w| one.model.step(state, w).0).sum();
        assert!((sum - 1.0).abs() < ROUNDING, "{context:?} sums to {sum}");
    }
}
