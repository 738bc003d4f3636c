//! A backend whose answers can't be right: NaN for token 7, above 0 for 8, infinite for 9 and none at all for 10.

use bheval_abi::{
    Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status, logits_table,
};

const VOCAB: u32 = 32;

static LOGITS: LogitsTable = logits_table::<Lying>();

struct Lying {
    info: Info,
}

impl LanguageModel for Lying {
    const NAME: &'static str = "lying";
    const VERSION: &'static str = "1";
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = Some(&LOGITS);

    /// The path says what to lie about.
    fn open(options: &Opening) -> Result<Self, Failure> {
        let about = options.path.to_string_lossy();
        let info = Info {
            vocab: if about == "vocabulary" { 0 } else { VOCAB },
            context: 0,
            nodes: if about == "nodes" { 0 } else { 1000 },
            kind: if about == "kind" { Kind(77) } else { Kind::CAUSAL },
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
        for (out, token) in log_prob.iter_mut().zip(forest.token) {
            match token {
                7 => *out = f32::NAN,
                8 => *out = 0.5,
                9 => *out = f32::NEG_INFINITY,
                10 => {}
                _ => *out = -(VOCAB as f32).ln(),
            }
        }
        Ok(forest.len() as u64)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        if forest.token.contains(&11) {
            return Err(Failure::new(Status::EXHAUSTED, ""));
        }
        out.fill(if forest.token.contains(&7) { f32::NAN } else { 0.0 });
        Ok(())
    }
}

bheval_abi::export!(Lying);
