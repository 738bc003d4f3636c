//! A masked model is never read as a causal one.

use bheval_abi::{Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening};
use bheval_host::{Backend, Dtype, Library, Model, ModelOptions};

struct Masked(Info);

impl LanguageModel for Masked {
    const NAME: &'static str = "masked";
    const VERSION: &'static str = "1";
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(_: &Opening) -> Result<Self, Failure> {
        Ok(Self(Info {
            vocab: 8,
            context: 0,
            nodes: 64,
            kind: Kind::MASKED,
            parameters: 0,
            architecture: "bert".into(),
            dtype: "f32".into(),
        }))
    }

    fn info(&self) -> &Info {
        &self.0
    }

    fn score(&mut self, _: ForestView<'_>, _: &mut [f32]) -> Result<u64, Failure> {
        Err(Failure::input("nothing is asked of it"))
    }
}

static TABLE: Backend = bheval_abi::backend::<Masked>();

#[test]
fn a_masked_model_is_refused_where_causal_scores_are_asked_for() {
    let library = Library::linked(&TABLE).expect("a linked table");
    let options = ModelOptions { path: "x".into(), threads: 1, dtype: Dtype::F32, memory: 1 << 20 };
    let model = Model::open(&library, &options).expect("it opens");
    let error = bheval_eval::causal(model).expect_err("masked").to_string();
    assert!(error.contains("bert is a masked model"), "{error}");
}
