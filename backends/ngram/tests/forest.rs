//! Through the contract: a node's score depends on its path alone, and rows of logits say the same as scores.

mod support;

use bheval_abi::{ForestView, LanguageModel, NO_PARENT, Status};
use bheval_ngram::Ngram;
use proptest::prelude::*;

use support::{Gram, Naive, train};

const VOCAB: u32 = 6;

fn text() -> Vec<Gram> {
    (0..50_u32)
        .map(|i| (0..10).map(|k| if k == 0 { 0 } else { (i * i + 3 * k * i + k) % VOCAB }).collect())
        .collect()
}

fn opened(order: u32) -> Ngram {
    Ngram::new(train(VOCAB, order, &text(), 1).model, 1 << 16)
}

/// A forest of up to 40 nodes: tokens, and parents that come before them.
fn forests() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    prop::collection::vec((0..VOCAB, any::<Option<prop::sample::Index>>()), 1..40).prop_map(|nodes| {
        let parent = |i: usize, p: &Option<prop::sample::Index>| match p {
            Some(p) if i > 0 => p.index(i) as u32,
            _ => NO_PARENT,
        };
        let parents = nodes.iter().enumerate().map(|(i, (_, p))| parent(i, p)).collect();
        (nodes.iter().map(|(token, _)| *token).collect(), parents)
    })
}

/// Tokens from the root down to a node.
fn path(tokens: &[u32], parents: &[u32], mut i: usize) -> Vec<u32> {
    let mut path = vec![tokens[i]];
    while parents[i] != NO_PARENT {
        i = parents[i] as usize;
        path.insert(0, tokens[i]);
    }
    path
}

proptest! {
    #[test]
    fn nodes_are_scored_by_their_paths(order in 1_u32..=5, (tokens, parents) in forests()) {
        let wanted: Vec<u8> = parents.iter().map(|&p| u8::from(p != NO_PARENT)).collect();
        let mut ngram = opened(order);
        let mut scores = vec![f32::NAN; tokens.len()];
        let forest = ForestView::new(&tokens, &parents, &wanted).expect("well formed");
        prop_assert_eq!(ngram.score(forest, &mut scores), Ok(tokens.len() as u64));
        let naive = Naive::train(VOCAB, order as usize, &text());
        for i in 0..tokens.len() {
            if wanted[i] == 0 {
                prop_assert!(scores[i].is_nan(), "an unwanted node is left alone");
                continue;
            }
            let path = path(&tokens, &parents, i);
            let (token, context) = path.split_last().expect("a path");
            prop_assert!((f64::from(scores[i]) - naive.p(context, *token).ln()).abs() < 1e-6);
            // The same path as a chain of its own.
            let chain: Vec<u32> = (0..path.len() as u32).map(|k| k.checked_sub(1).unwrap_or(NO_PARENT)).collect();
            let marks: Vec<u8> = (0..path.len()).map(|k| u8::from(k + 1 == path.len())).collect();
            let mut alone = vec![0.0; path.len()];
            ngram.score(ForestView::new(&path, &chain, &marks).expect("well formed"), &mut alone).expect("scored");
            prop_assert_eq!(alone[path.len() - 1].to_bits(), scores[i].to_bits());
        }
    }

    #[test]
    fn rows_of_logits_are_the_scores_of_all_children(order in 1_u32..=5, (tokens, parents) in forests()) {
        let mut ngram = opened(order);
        let wanted: Vec<u8> = (0..tokens.len()).map(|i| u8::from(i % 3 != 1)).collect();
        let rows = wanted.iter().filter(|&&w| w != 0).count();
        let mut logits = vec![0.0; rows * VOCAB as usize];
        let forest = ForestView::new(&tokens, &parents, &wanted).expect("well formed");
        ngram.logits(forest, &mut logits).expect("rows");
        let nodes = (0..tokens.len()).filter(|&i| wanted[i] != 0);
        for (i, row) in nodes.zip(logits.chunks(VOCAB as usize)) {
            let mut path = path(&tokens, &parents, i);
            path.push(0);
            let chain: Vec<u32> = (0..path.len() as u32).map(|k| k.checked_sub(1).unwrap_or(NO_PARENT)).collect();
            let marks: Vec<u8> = (0..path.len()).map(|k| u8::from(k + 1 == path.len())).collect();
            for (child, logit) in row.iter().enumerate() {
                *path.last_mut().expect("a path") = child as u32;
                let mut scores = vec![0.0; path.len()];
                let view = ForestView::new(&path, &chain, &marks).expect("well formed");
                ngram.score(view, &mut scores).expect("scored");
                prop_assert_eq!(scores[path.len() - 1].to_bits(), logit.to_bits());
            }
        }
    }
}

#[test]
fn wrong_forests_are_refused() {
    let mut ngram = opened(3);
    let mut scores = [0.0; 2];
    let mut refused = |tokens: &[u32], wanted: &[u8], part: &str| {
        let forest = ForestView::new(tokens, &[NO_PARENT, 0], wanted).expect("well formed");
        let failure = ngram.score(forest, &mut scores).expect_err("should be refused");
        assert_eq!(failure.status, Status::BAD_INPUT);
        assert!(failure.text.contains(part), "{}", failure.text);
    };
    refused(&[0, VOCAB], &[0, 1], "token id 6");
    refused(&[0, 1], &[1, 1], "node 0 is a root");
}
