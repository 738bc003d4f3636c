//! Building a corpus: read all, choose, read again, cut, write.

mod choose;
mod cut;
mod describe;

use std::path::Path;

use bheval_data::tokenizer::Tokenizer;

use crate::Error;
use crate::bpe::write_json;
use crate::corpus::token_bytes;
use crate::mixture::{Asked, Mixture};
use crate::record::{RECORD_FILE, Record, TOKENIZER_FOLDER, TokenizerRecord};
use crate::sources::{Source, Sources};
use crate::target::Target;
use crate::walk::{Effort, try_open};

/// How a corpus is to be.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Which words of which domains.
    pub mixture: Mixture,
    /// How many, and how shares are read.
    pub asked: Asked,
    /// Take what there is of domains that are short of their budgets.
    pub allow_short: bool,
    /// The share of documents that is held out where there are no dev files; 0 for none.
    pub dev_share: f64,
    /// Seed of all draws.
    pub seed: u64,
    /// Whether BOS stands before each document, if the tokenizer has one that is not its EOS.
    pub bos: bool,
    /// Most tokens of a shard.
    pub shard_tokens: u64,
    /// What wrote it, for the record.
    pub program: String,
}

/// What a build is doing, for a progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first reading: what there is.
    Surveying,
    /// The second: documents are cut into tokens.
    Cutting,
    /// Tokens are put in order and written.
    Writing,
}

/// Whether a corpus of this program may have a file of this name.
#[must_use]
pub fn is_corpus_file(name: &str) -> bool {
    let known = [RECORD_FILE, TOKENIZER_FOLDER, "dev.bin", "dev-documents.bin", "train-documents.bin"];
    known.contains(&name) || (name.starts_with("train-") && name.ends_with(".bin"))
}

/// Builds a corpus in `target` and returns its record.
///
/// # Errors
/// Anything that keeps it from being whole; then nothing is left in the target's place.
pub fn build(
    sources: &Sources,
    tokenizer: &Path,
    options: &BuildOptions,
    effort: &Effort,
    target: &Target,
    mut stage: impl FnMut(Stage),
) -> Result<Record, Error> {
    let build = Build::new(sources, tokenizer, options, effort)?;
    stage(Stage::Surveying);
    let chosen = build.choose()?;
    stage(Stage::Cutting);
    target.publish(|folder| {
        let cut = build.cut(&chosen, folder)?;
        stage(Stage::Writing);
        let record = build.write(&chosen, cut, folder)?;
        write_json(&folder.join(RECORD_FILE), &record)?;
        Ok(record)
    })
}

/// What stays the same through a build.
struct Build<'a> {
    /// Training files, then dev files.
    all: Vec<Source>,
    training: usize,
    sources: &'a Sources,
    tokenizer: Tokenizer,
    record: TokenizerRecord,
    width: u32,
    options: &'a BuildOptions,
    effort: &'a Effort,
}

impl<'a> Build<'a> {
    fn new(
        sources: &'a Sources,
        folder: &Path,
        options: &'a BuildOptions,
        effort: &'a Effort,
    ) -> Result<Self, Error> {
        let all: Vec<_> = sources.train.iter().chain(&sources.dev).cloned().collect();
        try_open(&all)?;
        if !(0.0..1.0).contains(&options.dev_share) {
            return Err(Error::plan(format!("a held-out share of {} is none of 0 to 1", options.dev_share)));
        }
        if options.shard_tokens == 0 {
            return Err(Error::plan("shards of no tokens can hold none; give a number from 1"));
        }
        let tokenizer = Tokenizer::load(folder)?.special_as_text();
        let record = describe::tokenizer(&tokenizer)?;
        let width = token_bytes(record.vocab);
        Ok(Self { all, training: sources.train.len(), sources, tokenizer, record, width, options, effort })
    }
}
