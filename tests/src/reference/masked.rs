//! A masked [`Architecture`] behind the backend contract.

use bheval_abi::{
    Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, MaskedTable, MaskedView, Opening,
    Status, masked_table,
};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::{Architecture, Folder, NODES, log_prob, pool};

/// A masked model, written down naively.
pub struct MaskedReference<A> {
    architecture: A,
    info: Info,
    pool: ThreadPool,
}

impl<A: Architecture> LanguageModel for MaskedReference<A> {
    const NAME: &'static str = A::NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;
    const MASKED: Option<&'static MaskedTable> = Some(&masked_table::<Self>());

    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(Status::UNSUPPORTED, "a reference model computes in f64; ask for f32"));
        }
        let folder = Folder::open(&options.path, A::MODEL_TYPE)?;
        let architecture = A::load(&folder)?;
        let info = Info {
            vocab: architecture.head().outputs() as u32,
            context: architecture.context() as u32,
            nodes: NODES,
            kind: Kind::MASKED,
            parameters: folder.parameters()?,
            architecture: A::MODEL_TYPE.to_owned(),
            dtype: "f64".to_owned(),
        };
        Ok(Self { architecture, info, pool: pool(options.threads)? })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, _: ForestView<'_>, _: &mut [f32]) -> Result<u64, Failure> {
        Err(Failure::new(Status::UNSUPPORTED, "a masked model is not read left to right"))
    }

    fn masked(&mut self, batch: MaskedView<'_>, out: &mut [f32]) -> Result<u64, Failure> {
        batch.check_tokens(self.info.vocab)?;
        batch.check_length(self.info.context as usize)?;
        let mut asked = vec![Vec::new(); batch.sequences()];
        for (question, &position) in batch.position.iter().enumerate() {
            asked[batch.begin.partition_point(|&begin| begin <= position) - 1].push(question);
        }
        let answers = |(sequence, asked): (usize, &Vec<usize>)| self.answers(batch, sequence, asked);
        let answers: Result<Vec<_>, Failure> =
            self.pool.install(|| asked.par_iter().enumerate().map(answers).collect());
        for (question, value) in answers?.into_iter().flatten() {
            out[question] = value;
        }
        Ok(batch.token.len() as u64)
    }
}

impl<A: Architecture> MaskedReference<A> {
    /// The answers to the questions `asked` about a sequence.
    fn answers(
        &self,
        batch: MaskedView<'_>,
        sequence: usize,
        asked: &[usize],
    ) -> Result<Vec<(usize, f32)>, Failure> {
        let range = batch.range(sequence);
        let states = self.architecture.states(&batch.token[range.clone()]);
        let answer = |&question: &usize| {
            let state = &states[batch.position[question] as usize - range.start];
            Ok((question, log_prob(&self.architecture.logits(state), batch.target[question])?))
        };
        asked.iter().map(answer).collect()
    }
}
