//! The recurrent models: a score depends on its path alone, bit for bit, on any instruction set.

mod support;

use std::path::{Path, PathBuf};

use bheval_abi::{Failure, NO_PARENT};
use bheval_candle::kernels::Isa;
use bheval_candle::models::{lstm, mamba, mamba2, xlstm, xlstm_block};
use bheval_candle::scorer::{Causal, CausalScorer, Network};
use support::{Numbers, OwnedForest, golden};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

type Scorer = Box<dyn CausalScorer>;

fn scorer<N: Network + 'static>(loaded: Result<(N, u64), Failure>, threads: usize, isa: Isa) -> Scorer {
    Box::new(Causal::new(loaded.expect("the model loads").0, threads, isa).expect("threads"))
}

/// Opens a model with so many threads on an instruction set.
type Open = fn(usize, Isa) -> Scorer;

/// One model of each architecture and design.
const MODELS: [(&str, Open); 8] = [
    ("lstm", |t, isa| scorer(lstm::Lstm::load(&golden("lstm")), t, isa)),
    ("mamba", |t, isa| scorer(mamba::Mamba::load(&golden("mamba")), t, isa)),
    ("mamba_options", |t, isa| scorer(mamba::Mamba::load(&fixture("mamba_options")), t, isa)),
    ("mamba2", |t, isa| scorer(mamba2::Mamba2::load(&golden("mamba2")), t, isa)),
    ("mamba2_groups", |t, isa| scorer(mamba2::Mamba2::load(&fixture("mamba2_groups")), t, isa)),
    ("xlstm", |t, isa| scorer(xlstm::Xlstm::load(&golden("xlstm")), t, isa)),
    ("xlstm_options", |t, isa| scorer(xlstm::Xlstm::load(&fixture("xlstm_options")), t, isa)),
    ("xlstm_block", |t, isa| scorer(xlstm_block::XlstmBlock::load(&fixture("xlstm_block")), t, isa)),
];

/// A random forest of paths, and the path of each node.
fn random_forest(numbers: &mut Numbers, size: usize, vocab: usize) -> (OwnedForest, Vec<Vec<u32>>) {
    let (mut forest, mut paths) = (OwnedForest::default(), Vec::<Vec<u32>>::new());
    for node in 0..size {
        let recent = node.saturating_sub(1 + numbers.below(8));
        let parent = if node == 0 || numbers.below(20) == 0 { NO_PARENT } else { recent as u32 };
        let token = numbers.below(vocab) as u32;
        let mut path = paths.get(parent as usize).cloned().unwrap_or_default();
        path.push(token);
        paths.push(path);
        forest.push(token, parent, parent != NO_PARENT && numbers.below(3) > 0);
    }
    (forest, paths)
}

fn score(model: &mut Scorer, forest: &OwnedForest) -> Vec<f32> {
    let mut log_prob = vec![f32::NAN; forest.token.len()];
    model.score(forest.view(), &mut log_prob).expect("scores");
    log_prob
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn random_forests_score_like_their_paths_one_by_one() {
    for (name, open) in MODELS {
        let (mut one, mut two) = (open(1, Isa::best()), open(2, Isa::best()));
        for size in [1, 2, 10, 97, 260] {
            let vocab = one.vocab() as usize;
            let (forest, paths) = random_forest(&mut Numbers(size as u64), size, vocab);
            let scores = score(&mut two, &forest);
            for (node, path) in paths.iter().enumerate() {
                assert_eq!(scores[node].is_nan(), forest.wanted[node] == 0, "only wanted nodes are written");
                if forest.wanted[node] == 1 {
                    let mut chain = OwnedForest::default();
                    chain.chain(path);
                    let last = score(&mut one, &chain).pop().expect("a node");
                    assert_eq!(last.to_bits(), scores[node].to_bits(), "{name} node {node} of {size}");
                }
            }
        }
    }
}

#[test]
fn threads_instruction_sets_and_earlier_calls_change_no_bit() {
    for (name, open) in MODELS {
        let mut first = open(1, Isa::PORTABLE);
        let (forest, _) = random_forest(&mut Numbers(5), 200, first.vocab() as usize);
        let (other, _) = random_forest(&mut Numbers(6), 333, first.vocab() as usize);
        let expected = bits(&score(&mut first, &forest));
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let mut model = open(threads, isa);
                score(&mut model, &other);
                assert_eq!(bits(&score(&mut model, &forest)), expected, "{name} {isa:?} {threads}");
            }
        }
    }
}

#[test]
fn logits_do_not_depend_on_their_neighbours_either() {
    for (name, open) in MODELS {
        let mut model = open(2, Isa::best());
        let vocab = model.vocab() as usize;
        let (forest, paths) = random_forest(&mut Numbers(3), 120, vocab);
        let wanted: Vec<usize> = (0..120).filter(|&n| forest.wanted[n] == 1).collect();
        let mut all = vec![0.0; wanted.len() * vocab];
        model.logits(forest.view(), &mut all).expect("logits");
        for (&node, row) in wanted.iter().zip(all.chunks_exact(vocab)) {
            let mut chain = OwnedForest::default();
            chain.chain(&paths[node]);
            chain.wanted.fill(0);
            *chain.wanted.last_mut().expect("a node") = 1;
            let mut one = vec![0.0; vocab];
            model.logits(chain.view(), &mut one).expect("logits");
            assert_eq!(bits(&one), bits(row), "{name}");
        }
    }
}

#[test]
fn a_path_of_five_thousand_tokens_works() {
    for (name, open) in MODELS {
        let mut model = open(2, Isa::best());
        let (vocab, mut numbers) = (model.vocab() as usize, Numbers(5));
        let ids: Vec<_> = (0..5_000).map(|_| numbers.below(vocab) as u32).collect();
        let (mut long, mut short) = (OwnedForest::default(), OwnedForest::default());
        long.chain(&ids);
        short.chain(&ids[..300]);
        let (long, short) = (score(&mut model, &long), score(&mut model, &short));
        assert!(long[1..].iter().all(|s| s.is_finite() && *s <= 0.0), "{name}");
        assert_eq!(bits(&long[1..300]), bits(&short[1..]), "{name}");
    }
}

#[test]
fn wrong_forests_are_refused_and_nothing_is_fed_for_nothing() {
    for (name, open) in MODELS {
        let mut model = open(1, Isa::best());
        let mut forest = OwnedForest::default();
        forest.chain(&[1, model.vocab()]);
        let failure = model.score(forest.view(), &mut [0.0; 2]).expect_err("beyond the vocabulary");
        assert!(failure.text.contains("vocabulary"), "{name}: {failure}");
        forest.token[1] = 2;
        assert_eq!(model.score(forest.view(), &mut [0.0; 2]), Ok(1));
        forest.wanted.fill(0);
        assert_eq!(model.score(forest.view(), &mut [0.0; 2]), Ok(0));
        assert_eq!(model.score(OwnedForest::default().view(), &mut []), Ok(0));
    }
}
