//! A masked model's answer depends on its sequence alone, bit for bit; and what it refuses.

mod support;

use bheval_abi::MaskedView;
use support::{MASKED, Numbers, Opened, golden, open, sentences};

/// Sequences side by side, each asked at every position for its own token.
fn ask(model: &mut Opened, sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let tokens = sequences.concat();
    let ends = sequences.iter().scan(0, |end, s| {
        *end += s.len() as u32;
        Some(*end)
    });
    let begin: Vec<u32> = std::iter::once(0).chain(ends).collect();
    let position: Vec<u32> = (0..tokens.len() as u32).collect();
    let view = MaskedView::new(&tokens, &begin, &position, &tokens).expect("well formed");
    let mut log_prob = vec![f32::NAN; tokens.len()];
    assert_eq!(model.masked(view, &mut log_prob), Ok(tokens.len() as u64));
    let bits: Vec<u32> = log_prob.iter().map(|l| l.to_bits()).collect();
    begin.windows(2).map(|pair| bits[pair[0] as usize..pair[1] as usize].to_vec()).collect()
}

#[test]
fn neighbours_order_and_threads_do_not_change_a_bit() {
    for model in MASKED {
        let mut one = open(&golden(model), 1);
        let sequences: Vec<Vec<u32>> = sentences(model).into_iter().map(|s| s.ids).collect();
        let mut expected: Vec<_> =
            sequences.into_iter().map(|s| (ask(&mut one, std::slice::from_ref(&s)).remove(0), s)).collect();
        let mut numbers = Numbers(4);
        for threads in [1, 2, 3] {
            let mut opened = open(&golden(model), threads);
            for _ in 0..4 {
                let some = 1 + numbers.below(expected.len());
                let part: Vec<_> = expected[..some].iter().map(|(_, s)| s.clone()).collect();
                for (got, (bits, _)) in ask(&mut opened, &part).iter().zip(&expected) {
                    assert_eq!(got, bits, "{model} on {threads} threads");
                }
                numbers.shuffle(&mut expected);
            }
        }
    }
}

#[test]
fn what_a_masked_model_refuses() {
    for (model, context) in [("bert", 96), ("roberta", 96)] {
        let mut opened = open(&golden(model), 1);
        assert_eq!(opened.info().context, context);
        let mut refused = |tokens: &[u32], target: u32, essential: &str| {
            let begin = [0, tokens.len() as u32];
            let view =
                MaskedView::new(tokens, &begin, &[0], std::slice::from_ref(&target)).expect("well formed");
            let failure = opened.masked(view, &mut [0.0]).expect_err(essential);
            assert!(failure.text.contains(essential), "{}", failure.text);
        };
        refused(&[1, 768], 1, "token id 768");
        refused(&[1, 2], 900, "token id 900");
        refused(&[5; 97], 5, "97 tokens");
        let forest = support::OwnedForest::default();
        let failure = opened.score(forest.view(), &mut []).expect_err("no next token");
        assert!(failure.text.contains("masked model"), "{}", failure.text);
    }
    let mut causal = open(&golden("llama"), 1);
    let view = MaskedView::new(&[1], &[0, 1], &[0], &[1]).expect("well formed");
    assert!(causal.masked(view, &mut [0.0]).is_err_and(|f| f.text.contains("llama is causal")));
}

#[test]
fn a_causal_model_reads_no_further_than_its_positions() {
    for (model, context) in [("gpt2", 128), ("opt", 128), ("llama", 256), ("gpt_neox", 128)] {
        let mut opened = open(&golden(model), 1);
        assert_eq!(opened.info().context, context);
        let mut forest = support::OwnedForest::default();
        forest.chain(&vec![5; context as usize]);
        let scores = support::score(&mut opened, &forest);
        assert!(scores[1..].iter().all(|s| s.is_finite()));
        forest.chain(&vec![5; context as usize + 1]);
        let mut log_prob = vec![0.0; forest.token.len()];
        let failure = opened.score(forest.view(), &mut log_prob).expect_err("too long");
        assert!(failure.text.contains(&format!("reads {context} at most")), "{}", failure.text);
    }
}
