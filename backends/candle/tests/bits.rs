//! A score depends on its path alone, bit for bit: not on what else is in the call, its order, threads or earlier calls.

mod support;

use std::collections::HashMap;

use bheval_abi::NO_PARENT;
use support::{CAUSAL, HGRN2S, Numbers, Opened, OwnedForest, Trie, golden, open, score, sentences};

/// Each sentence scored in a call of its own by one thread.
fn alone(model: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut opened = open(&golden(model), 1);
    let bits = |ids: Vec<u32>| {
        let mut forest = OwnedForest::default();
        let nodes = forest.chain(&ids);
        let scores = score(&mut opened, &forest);
        let bits = nodes[1..].iter().map(|&n| scores[n as usize].to_bits()).collect();
        (ids, bits)
    };
    sentences(model).into_iter().map(|s| s.ids).map(bits).collect()
}

fn check(model: &mut Opened, forest: &OwnedForest, nodes: &[(Vec<u32>, Vec<u32>)], what: &str) {
    let scores = score(model, forest);
    for (nodes, expected) in nodes {
        let got: Vec<_> = nodes[1..].iter().map(|&n| scores[n as usize].to_bits()).collect();
        assert_eq!(&got, expected, "{what}");
    }
}

#[test]
fn batches_orders_and_threads_do_not_change_a_bit() {
    for model in CAUSAL {
        let mut expected = alone(model);
        let mut numbers = Numbers(1);
        for threads in [1, 2, 3] {
            let mut opened = open(&golden(model), threads);
            for round in 0..6 {
                let some = if round == 0 { expected.len() } else { 1 + numbers.below(expected.len()) };
                let (mut chains, mut trie) = (OwnedForest::default(), Trie::default());
                let flat: Vec<_> =
                    expected[..some].iter().map(|(ids, e)| (chains.chain(ids), e.clone())).collect();
                let shared: Vec<_> =
                    expected[..some].iter().map(|(ids, e)| (trie.add(ids), e.clone())).collect();
                assert!(trie.forest.token.len() < chains.token.len() || round > 0);
                check(&mut opened, &chains, &flat, "chains");
                check(&mut opened, &trie.forest, &shared, "trie");
                numbers.shuffle(&mut expected);
            }
        }
    }
}

/// A random forest of paths, and the path of each node.
fn random_forest(numbers: &mut Numbers, size: usize, vocab: usize) -> (OwnedForest, Vec<Vec<u32>>) {
    let (mut forest, mut paths) = (OwnedForest::default(), Vec::<Vec<u32>>::new());
    for node in 0..size {
        let recent = node.saturating_sub(1 + numbers.below(8));
        let deep = paths.get(recent).is_some_and(|p| p.len() > 100);
        let parent = if node == 0 || deep || numbers.below(20) == 0 { NO_PARENT } else { recent as u32 };
        let token = numbers.below(vocab) as u32;
        let mut path = paths.get(parent as usize).cloned().unwrap_or_default();
        path.push(token);
        paths.push(path);
        forest.push(token, parent, parent != NO_PARENT && numbers.below(3) > 0);
    }
    (forest, paths)
}

#[test]
fn random_forests_in_any_topological_order_score_like_their_paths() {
    for model in CAUSAL {
        let mut numbers = Numbers(7);
        let (mut one, mut two) = (open(&golden(model), 1), open(&golden(model), 2));
        for size in [1, 2, 10, 97, 400] {
            let (forest, paths) = random_forest(&mut numbers, size, one.info().vocab as usize);
            let scores = score(&mut two, &forest);
            for (node, path) in paths.iter().enumerate() {
                assert_eq!(scores[node].is_nan(), forest.wanted[node] == 0, "only wanted nodes are written");
                if forest.wanted[node] == 1 {
                    let mut chain = OwnedForest::default();
                    chain.chain(path);
                    let last = score(&mut one, &chain).pop().expect("a node");
                    assert_eq!(last.to_bits(), scores[node].to_bits(), "{model} node {node} of {size}");
                }
            }
        }
    }
}

#[test]
fn logits_do_not_depend_on_their_neighbours_either() {
    let mut opened = open(&golden("hgrn2_conv"), 2);
    let (forest, paths) = random_forest(&mut Numbers(3), 200, 768);
    let rows: HashMap<_, _> =
        (0..200).filter(|&n| forest.wanted[n] == 1).enumerate().map(|(row, node)| (node, row)).collect();
    let mut all = vec![0.0; rows.len() * 768];
    opened.logits(forest.view(), &mut all).expect("logits");
    for (node, row) in rows {
        let mut chain = OwnedForest::default();
        chain.chain(&paths[node]);
        chain.wanted.fill(0);
        *chain.wanted.last_mut().expect("a node") = 1;
        let mut one = vec![0.0; 768];
        opened.logits(chain.view(), &mut one).expect("logits");
        assert_eq!(one, all[row * 768..][..768]);
    }
}

#[test]
fn only_nodes_above_wanted_ones_are_fed() {
    let mut opened = open(&golden("hgrn2"), 1);
    let mut forest = OwnedForest::default();
    let nodes = forest.chain(&[1, 5, 6, 7]);
    forest.push(9, nodes[1], false);
    let mut log_prob = vec![0.0; 5];
    assert_eq!(opened.score(forest.view(), &mut log_prob), Ok(3));
    forest.wanted = vec![0, 1, 0, 0, 0];
    assert_eq!(opened.score(forest.view(), &mut log_prob), Ok(1));
    forest.wanted.fill(0);
    assert_eq!(opened.score(forest.view(), &mut log_prob), Ok(0));
    assert_eq!(opened.score(OwnedForest::default().view(), &mut []), Ok(0));
}

#[test]
fn a_path_of_twenty_thousand_tokens_works() {
    for model in HGRN2S {
        let mut opened = open(&golden(model), 2);
        let mut numbers = Numbers(5);
        let ids: Vec<_> = (0..20_000).map(|_| numbers.below(768) as u32).collect();
        let mut forest = OwnedForest::default();
        forest.chain(&ids);
        let scores = score(&mut opened, &forest);
        assert!(scores[1..].iter().all(|s| s.is_finite() && *s <= 0.0));
        let mut short = OwnedForest::default();
        short.chain(&ids[..300]);
        let first = score(&mut opened, &short);
        assert!(first[1..].iter().zip(&scores[1..]).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn wrong_forests_are_refused_in_words() {
    let mut opened = open(&golden("hgrn2"), 1);
    let mut forest = OwnedForest::default();
    forest.chain(&[1, 768]);
    let failure = opened.score(forest.view(), &mut [0.0; 2]).expect_err("beyond the vocabulary");
    assert!(failure.text.contains("768") && failure.text.contains("vocabulary"), "{failure}");
    let failure = opened.logits(forest.view(), &mut [0.0; 768]).expect_err("beyond the vocabulary");
    assert!(failure.text.contains("token id 768"), "{failure}");
    forest.token[1] = 2;
    forest.wanted[0] = 1;
    let failure = opened.score(forest.view(), &mut [0.0; 2]).expect_err("a wanted root");
    assert!(failure.text.contains("node 0"), "{failure}");
}
