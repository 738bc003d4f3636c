//! A backend that panics: at a path that ends in `panic`, and at token 13. Else every token is equally probable.

use bheval_abi::{Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening};

const VOCAB: u32 = 32;

struct Panicking {
    info: Info,
}

impl LanguageModel for Panicking {
    const NAME: &'static str = "panicking";
    const VERSION: &'static str = "1";
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(options: &Opening) -> Result<Self, Failure> {
        assert!(!options.path.ends_with("panic"), "asked to panic at {}", options.path.display());
        let info = Info {
            vocab: VOCAB,
            context: 0,
            nodes: 1000,
            kind: Kind::CAUSAL,
            parameters: 0,
            architecture: "uniform".to_owned(),
            dtype: "f32".to_owned(),
        };
        Ok(Self { info })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        if let Some(node) = forest.token.iter().position(|&t| t == 13) {
            panic!("token 13 at node {node}");
        }
        log_prob.fill(-(VOCAB as f32).ln());
        Ok(forest.len() as u64)
    }
}

bheval_abi::export!(Panicking);
