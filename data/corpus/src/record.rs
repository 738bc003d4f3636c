//! `corpus.json`: what a corpus was made of, by which rules, and which files hold it.

use serde::{Deserialize, Serialize};

/// The record's file.
pub const RECORD_FILE: &str = "corpus.json";
/// The folder of the tokenizer's files within a corpus.
pub const TOKENIZER_FOLDER: &str = "tokenizer";
/// What the record calls itself.
pub(crate) const FORMAT: &str = "bheval-corpus";
/// The version that this program writes and reads.
pub(crate) const VERSION: u32 = 1;

/// The written record of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// `bheval-corpus`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// The seed of all draws.
    pub seed: u64,
    /// What cut the text.
    pub tokenizer: TokenizerRecord,
    /// Bytes of a token: 2 (u16) or 4 (u32), low byte first.
    pub token_bytes: u32,
    /// Whether the tokenizer's BOS stands before each document.
    pub bos: bool,
    /// Which words were asked for.
    pub mixture: MixtureRecord,
    /// The rules that were followed, in words.
    pub rules: Vec<String>,
    /// What was dropped as a duplicate.
    pub duplicates: Duplicates,
    /// Domains, in the order of their numbers in the index.
    pub domains: Vec<DomainRecord>,
    /// Files that were read.
    pub sources: Vec<SourceRecord>,
    /// What is trained on.
    pub train: SplitRecord,
    /// What is held out.
    pub dev: Option<SplitRecord>,
}

/// Which tokenizer cut the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecord {
    /// SHA-256 of `tokenizer.json`.
    pub json_sha256: String,
    /// SHA-256 over all files that decide how text is cut ([`bheval_data::tokenizer::Tokenizer::sha256`]).
    pub sha256: String,
    /// Entries: one more than the largest id.
    pub vocab: u32,
    /// Id of BOS.
    pub bos: Option<u32>,
    /// Id of EOS, which stands behind each document.
    pub eos: u32,
}

/// Which words were asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureRecord {
    /// The preset's name, or the shares as they were given.
    pub name: String,
    /// Where a preset's shares come from.
    pub source: Option<String>,
    /// Words asked for in all.
    pub words: Option<u64>,
    /// Whether shares that did not add up to 1 were scaled to.
    pub renormalised: bool,
    /// Whether domains were allowed to be short of their budgets.
    pub allow_short: bool,
}

/// Documents that were dropped because their text occurs before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duplicates {
    /// Within the documents of the training files.
    pub train: u64,
    /// Within the dev documents.
    pub dev: u64,
    /// Of the training files' documents: those that are a dev document.
    pub train_in_dev: u64,
}

/// Documents, words and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Documents.
    pub documents: u64,
    /// Words, by white space.
    pub words: u64,
    /// Tokens, with the special ones around documents.
    pub tokens: u64,
}

/// What a domain gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainRecord {
    /// Its name.
    pub name: String,
    /// Its licence, as noted by whoever built the corpus.
    pub licence: Option<String>,
    /// Documents that there were to draw from, without duplicates and dev documents.
    pub available_documents: u64,
    /// Words that there were to draw from.
    pub available_words: u64,
    /// Words that it was to give; none where it gives all.
    pub budget: Option<u64>,
    /// What it gave to training.
    pub train: Amount,
    /// What it gave to the held-out text.
    pub dev: Amount,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// Its path, as it was given.
    pub file: String,
    /// Its domain; none where each row names its own.
    pub domain: Option<String>,
    /// `train` or `dev`.
    pub split: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the file as it is stored.
    pub sha256: String,
    /// Documents in it.
    pub documents: u64,
    /// Words in it.
    pub words: u64,
}

/// The files of one part of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRecord {
    /// All of it.
    pub total: Amount,
    /// Its tokens, in order.
    pub shards: Vec<ShardRecord>,
    /// Its index of documents.
    pub index: FileRecord,
}

/// A file of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Its name in the corpus's folder.
    pub file: String,
    /// Tokens in it.
    pub tokens: u64,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// A file of another kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its name in the corpus's folder.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
}
