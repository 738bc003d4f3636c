//! The naive reference models against what transformers computed for the same checkpoints.

use bheval_abi::{Dtype, ForestView, LanguageModel, MaskedView, NO_PARENT, Opening, Status};
use bheval_tests::golden;
use bheval_tests::reference::{
    Architecture, Bert, Folder, Gpt2, Llama, MaskedReference, Opt, Reference, Roberta,
};
use safetensors::SafeTensors;
use serde::Deserialize;

/// f32 against f64 in the same peer is 5e-6 for a token and 2.2e-5 for a sentence (golden/README.md).
const TOKEN_TOLERANCE: f64 = 5e-5;
const TOTAL_TOLERANCE: f64 = 2e-4;
const LOGIT_TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    parameters: u64,
    logits_for: Vec<usize>,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<f64>,
    total: f64,
}

/// Chains in consecutive nodes, with every node wanted but the roots.
#[derive(Default)]
struct Flat {
    token: Vec<u32>,
    parent: Vec<u32>,
    wanted: Vec<u8>,
}

impl Flat {
    fn push(&mut self, ids: &[u32]) {
        let first = self.token.len() as u32;
        self.token.extend(ids);
        self.parent.extend((0..ids.len() as u32).map(|t| if t == 0 { NO_PARENT } else { first + t - 1 }));
        self.wanted.extend((0..ids.len()).map(|t| u8::from(t > 0)));
    }

    fn view(&self) -> ForestView<'_> {
        ForestView::new(&self.token, &self.parent, &self.wanted).expect("chains are well formed")
    }
}

fn open<A: Architecture>() -> Reference<A> {
    let path = golden().join(A::MODEL_TYPE);
    Reference::open(&Opening { path, threads: 2, dtype: Dtype::F32, memory: 1 << 30 })
        .expect("the model opens")
}

fn read<A: Architecture>() -> Golden {
    let path = golden().join(A::MODEL_TYPE).join("golden.json");
    serde_json::from_slice(&std::fs::read(path).expect("golden.json is there"))
        .expect("golden.json is understood")
}

/// Scores all sentences in one call.
fn scored<A: Architecture>(sentences: &[Sentence]) -> Vec<Vec<f64>> {
    let mut flat = Flat::default();
    sentences.iter().for_each(|s| flat.push(&s.ids));
    let mut out = vec![f32::NAN; flat.token.len()];
    let fed = open::<A>().score(flat.view(), &mut out).expect("the sentences are scored");
    assert_eq!(fed, out.len() as u64);
    let mut rest = out.as_slice();
    let mut take = |len: usize| rest.split_off(..len).expect("one value a node");
    sentences.iter().map(|s| take(s.ids.len())[1..].iter().map(|&x| f64::from(x)).collect()).collect()
}

fn scores_match<A: Architecture>() {
    let golden = read::<A>();
    assert_eq!(open::<A>().info().parameters, golden.parameters);
    for (sentence, ours) in golden.sentences.iter().zip(scored::<A>(&golden.sentences)) {
        assert_eq!(ours.len(), sentence.logprobs.len());
        for (t, (ours, theirs)) in ours.iter().zip(&sentence.logprobs).enumerate() {
            assert!(
                (ours - theirs).abs() < TOKEN_TOLERANCE,
                "{:?}, token {t}: {ours}, not {theirs}",
                sentence.text
            );
        }
        let total: f64 = ours.iter().sum();
        assert!((total - sentence.total).abs() < TOTAL_TOLERANCE, "{:?}: {total}", sentence.text);
    }
}

fn logits_match<A: Architecture>() {
    logits_are(|ids| logits::<A>(ids), &read::<A>(), A::MODEL_TYPE);
}

fn logits_are(logits: impl Fn(&[u32]) -> Vec<f32>, golden: &Golden, model: &str) {
    let bytes = std::fs::read(self::golden().join(model).join("golden.safetensors"));
    let bytes = bytes.expect("golden.safetensors is there");
    let tensors = SafeTensors::deserialize(&bytes).expect("golden.safetensors is understood");
    assert!(!golden.logits_for.is_empty());
    for &i in &golden.logits_for {
        let ours = logits(&golden.sentences[i].ids);
        let theirs = tensors.tensor(&format!("logits.{i}")).expect("the logits are there");
        let (theirs, _) = theirs.data().as_chunks();
        assert_eq!(ours.len(), theirs.len());
        for (at, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
            let theirs = f32::from_le_bytes(theirs);
            assert!(
                f64::from(ours - theirs).abs() < LOGIT_TOLERANCE,
                "sentence {i}, {at}: {ours}, not {theirs}"
            );
        }
    }
}

/// The logits after each token of a sentence.
fn logits<A: Architecture>(ids: &[u32]) -> Vec<f32> {
    let mut flat = Flat::default();
    flat.push(ids);
    flat.wanted.fill(1);
    let mut model = open::<A>();
    let mut out = vec![f32::NAN; ids.len() * model.info().vocab as usize];
    model.logits(flat.view(), &mut out).expect("the sentence has logits");
    out
}

fn wrong_input_is_refused<A: Architecture>() {
    let mut model = open::<A>();
    let (vocab, context) = (model.info().vocab, model.info().context as usize);
    let mut refusal = |ids: &[u32]| {
        let mut flat = Flat::default();
        flat.push(ids);
        model.score(flat.view(), &mut vec![0.0; ids.len()]).err().map(|f| f.status)
    };
    assert_eq!(refusal(&[1, vocab - 1]), None);
    assert_eq!(refusal(&[1, vocab]), Some(Status::BAD_INPUT));
    assert_eq!(refusal(&vec![1; context]), None);
    assert_eq!(refusal(&vec![1; context + 1]), Some(Status::BAD_INPUT));
}

#[test]
fn llama_scores_as_transformers_does() {
    scores_match::<Llama>();
    logits_match::<Llama>();
}

#[test]
fn gpt2_scores_as_transformers_does() {
    scores_match::<Gpt2>();
    logits_match::<Gpt2>();
}

#[test]
fn opt_scores_as_transformers_does() {
    scores_match::<Opt>();
    logits_match::<Opt>();
}

fn open_masked<A: Architecture>() -> MaskedReference<A> {
    let path = golden().join(A::MODEL_TYPE);
    MaskedReference::open(&Opening { path, threads: 2, dtype: Dtype::F32, memory: 1 << 30 })
        .expect("the model opens")
}

/// The logits of each token of a sentence in which nothing is hidden.
fn unmasked_logits<A: Architecture>(ids: &[u32]) -> Vec<f32> {
    let folder = Folder::open(&golden().join(A::MODEL_TYPE), A::MODEL_TYPE).expect("the folder is read");
    let model = A::load(&folder).expect("the model is read");
    let states = model.states(ids);
    states.iter().flat_map(|state| model.head().apply(state)).map(|x| x as f32).collect()
}

/// Each token but the special ones at the ends, hidden alone.
fn masked_scores_match<A: Architecture>(mask: u32) {
    let golden = read::<A>();
    let mut model = open_masked::<A>();
    assert_eq!(model.info().parameters, golden.parameters);
    for sentence in &golden.sentences {
        let ours = one_by_one(&mut model, &sentence.ids, mask);
        assert_eq!(ours.len(), sentence.logprobs.len());
        for (t, (ours, theirs)) in ours.iter().zip(&sentence.logprobs).enumerate() {
            let difference = (ours - theirs).abs();
            assert!(difference < TOKEN_TOLERANCE, "{:?}, token {t}: {ours}, not {theirs}", sentence.text);
        }
        let total: f64 = ours.iter().sum();
        assert!((total - sentence.total).abs() < TOTAL_TOLERANCE, "{:?}: {total}", sentence.text);
    }
}

fn one_by_one<A: Architecture>(model: &mut MaskedReference<A>, ids: &[u32], mask: u32) -> Vec<f64> {
    let (len, inner) = (ids.len() as u32, 1..ids.len() - 1);
    let mut token = Vec::new();
    for t in inner.clone() {
        token.extend(ids);
        let first = token.len() - ids.len();
        token[first + t] = mask;
    }
    let begin: Vec<u32> = (0..=inner.len() as u32).map(|s| s * len).collect();
    let position: Vec<u32> = inner.clone().map(|t| (t as u32 - 1) * len + t as u32).collect();
    let batch = MaskedView::new(&token, &begin, &position, &ids[inner]).expect("well formed");
    let mut out = vec![f32::NAN; position.len()];
    let fed = model.masked(batch, &mut out).expect("the sentence is scored");
    assert_eq!(fed, token.len() as u64);
    out.into_iter().map(f64::from).collect()
}

fn wrong_masked_input_is_refused<A: Architecture>() {
    let mut model = open_masked::<A>();
    let (vocab, context) = (model.info().vocab, model.info().context);
    let mut refusal = |ids: &[u32]| {
        let begin = [0, ids.len() as u32];
        let batch = MaskedView::new(ids, &begin, &[0], &ids[..1]).expect("well formed");
        model.masked(batch, &mut [0.0]).err().map(|f| f.status)
    };
    assert_eq!(refusal(&[5, vocab - 1]), None);
    assert_eq!(refusal(&[5, vocab]), Some(Status::BAD_INPUT));
    assert_eq!(refusal(&vec![5; context as usize]), None);
    assert_eq!(refusal(&vec![5; context as usize + 1]), Some(Status::BAD_INPUT));
}

#[test]
fn bert_scores_as_transformers_does() {
    masked_scores_match::<Bert>(4);
    logits_are(unmasked_logits::<Bert>, &read::<Bert>(), "bert");
}

#[test]
fn roberta_scores_as_transformers_does() {
    masked_scores_match::<Roberta>(4);
    logits_are(unmasked_logits::<Roberta>, &read::<Roberta>(), "roberta");
}

#[test]
fn a_masked_models_tokens_and_lengths_are_held_against_it() {
    wrong_masked_input_is_refused::<Bert>();
    wrong_masked_input_is_refused::<Roberta>();
}

#[test]
fn a_token_beyond_the_vocabulary_or_context_is_refused() {
    wrong_input_is_refused::<Llama>();
    wrong_input_is_refused::<Gpt2>();
    wrong_input_is_refused::<Opt>();
}
