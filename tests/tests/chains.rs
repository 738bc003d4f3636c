//! A backend that takes chains only may answer differently for another chain, even at a place that both share. What a
//! request scores must then come from its own chain, whatever stands beside it.

use bheval_abi::{Backend, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening};
use bheval_data::encode::Request;
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::surprisal::{Mode, cut, score};
use bheval_eval::{BatchSize, Order, score_all};
use bheval_host::{Dtype, Library, Model, ModelOptions, Route};
use bheval_tests::golden;

/// Its answers tell the length of the chain that they come from.
struct Lengths {
    info: Info,
}

impl LanguageModel for Lengths {
    const NAME: &'static str = "lengths";
    const VERSION: &'static str = "1";
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(_: &Opening) -> Result<Self, Failure> {
        let (architecture, dtype) = ("lengths".to_owned(), "f32".to_owned());
        let (vocab, nodes, kind) = (768, 16, Kind::CAUSAL);
        Ok(Self { info: Info { vocab, context: 0, nodes, kind, parameters: 0, architecture, dtype } })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        let roots: Vec<usize> = (0..forest.len()).filter(|&i| forest.parent_of(i).is_none()).collect();
        let ends = roots.iter().skip(1).copied().chain([forest.len()]);
        for (first, end) in roots.iter().copied().zip(ends) {
            let wanted = (first..end).filter(|&i| forest.is_wanted(i));
            wanted.for_each(|i| log_prob[i] = -((end - first) as f32));
        }
        Ok((forest.len() - roots.len()) as u64)
    }
}

static LENGTHS: Backend = bheval_abi::backend::<Lengths>();

fn model() -> Model {
    let options = ModelOptions { path: "any".into(), threads: 1, dtype: Dtype::F32, memory: 1 };
    Model::open(&Library::linked(&LENGTHS).expect("a whole table"), &options).expect("opens")
}

#[test]
fn every_request_is_answered_by_its_own_chain() {
    // Each is the beginning of the next: in a forest they would be one path.
    let ids: Vec<u32> = (1..=20).collect();
    let request =
        |len: usize| Request { ids: ids[..len].to_vec(), scored: (0..len).map(|t| t > 0).collect() };
    let requests: Vec<Request> = (2..=20).map(request).collect();
    let backwards: Vec<Request> = requests.iter().rev().cloned().collect();
    for order in [Order::Sorted, Order::AsGiven] {
        for size in [BatchSize::Auto, BatchSize::Requests(1), BatchSize::Requests(5)] {
            for route in [Route::Forest, Route::Flat] {
                for requests in [&requests, &backwards] {
                    let records = score_all(&mut model(), requests, order, size, route).expect("scores");
                    for (request, record) in requests.iter().zip(records) {
                        let len = request.ids.len();
                        assert_eq!(
                            record.log_prob,
                            -((len * (len - 1)) as f64),
                            "{order:?} {size:?} {route:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn sentences_are_scored_by_their_own_chains() {
    let tokenizer = Tokenizer::load(&golden().join("llama")).expect("a tokenizer");
    let mut model = model();
    let texts = ["The cat", "The cat sat on the mat.", "The cat sat"];
    let mode = Mode::protocol(&tokenizer, Protocol::Bheval, None, &model).expect("a mode");
    let cuts: Vec<_> = texts.iter().map(|t| cut(t, t, &mode, &model).expect("cut")).collect();
    for (cut, sentence) in cuts.iter().zip(score(&mut model, &tokenizer, &cuts).expect("scores")) {
        let sentence = sentence.expect("scored");
        let own = Some(-(cut.ids().len() as f32));
        assert!(sentence.tokens.iter().all(|t| t.log_prob.is_none() || t.log_prob == own), "{sentence:?}");
        assert!(sentence.scored() > 0);
    }
}
