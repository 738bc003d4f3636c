//! `bheval tokenizer` and `bheval corpus`, as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Where text comes from.
#[derive(Debug, Args)]
pub(crate) struct TextArgs {
    /// Folder of text files, each a domain by its name up to the first full stop
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Vec<PathBuf>,
    /// Take the files NAME.SPLIT.* of these folders only
    #[arg(long, value_name = "SPLIT", requires = "from")]
    pub(crate) split: Option<String>,
    /// A domain and its files
    #[arg(long, value_name = "NAME=FILE,...")]
    pub(crate) domain: Vec<String>,
    /// TOML or JSON file with a table `domains`, each with files and, optionally, dev, licence, share, field
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Only these of the domains
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Field of the text in JSON Lines
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub(crate) field: String,
    /// Each row of JSON Lines names its domain in this field, as the Pile's `meta.pile_set_name`
    #[arg(long, value_name = "NAME", conflicts_with = "only")]
    pub(crate) label_field: Option<String>,
    /// Cut longer documents at the line's end after this many words
    #[arg(long, value_name = "WORDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) cut: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizerArgs {
    #[command(subcommand)]
    pub(crate) action: TokenizerAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenizerAction {
    /// Train a byte-level BPE tokenizer that transformers loads
    Train(Box<TokenizerTrainArgs>),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum NormalizerArg {
    /// Text comes back byte by byte
    None,
    /// Unicode's composed form
    Nfc,
    /// Also without compatibility characters
    Nfkc,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Text files (.txt) have an empty line between documents, .jsonl files a document a row; both also packed: \
                  .zst, .xz, .gz.\n\
                  bheval tokenizer train --from DIR --split train --vocab 16000 -o tokenizer"
)]
pub(crate) struct TokenizerTrainArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Entries, with the 256 bytes and the special tokens
    #[arg(long, default_value_t = 16_000, value_name = "N")]
    pub(crate) vocab: u32,
    /// Pairs that are rarer are not merged
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) min_frequency: u64,
    /// What is done to text before it is cut
    #[arg(long, default_value = "none")]
    pub(crate) normalizer: NormalizerArg,
    /// Special tokens, in the order of their ids from 0
    #[arg(long, value_name = "TOKEN,...", value_delimiter = ',', default_value = "<s>,</s>,<pad>,<unk>")]
    pub(crate) special: Vec<String>,
    /// The one of them that begins a sequence; `none` for no such token
    #[arg(long, default_value = "<s>", value_name = "TOKEN")]
    pub(crate) bos: String,
    /// The one that ends a sequence
    #[arg(long, default_value = "</s>", value_name = "TOKEN")]
    pub(crate) eos: String,
    /// The one that fills up
    #[arg(long, default_value = "<pad>", value_name = "TOKEN")]
    pub(crate) pad: String,
    /// The one for what is unknown, which a byte-level tokenizer never makes
    #[arg(long, default_value = "<unk>", value_name = "TOKEN")]
    pub(crate) unk: String,
    /// Learn from this share of the documents, chosen by a hash of their words
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    pub(crate) sample: f64,
    /// Put a blank before a text that begins with none
    #[arg(long)]
    pub(crate) add_prefix_space: bool,
    /// Folder to be made
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace the tokenizer that the folder holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads [default: all cores]. The tokenizer does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Print training.json instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CorpusArgs {
    #[command(subcommand)]
    pub(crate) action: CorpusAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CorpusAction {
    /// Choose documents by domain and cut them into tokens to train on
    Build(Box<CorpusBuildArgs>),
    /// What a corpus holds
    Show {
        /// Folder of the corpus
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Print corpus.json instead of a table
        #[arg(long)]
        json: bool,
        /// Also print the first N training documents as text
        #[arg(long, value_name = "N", default_value_t = 0)]
        documents: usize,
    },
    /// Compare every file of a corpus with its SHA-256
    Verify {
        /// Folder of the corpus
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Mixtures: `natural` (all there is, or --words in proportion to it); `pile` and `pile-100m` (the paper's \
                  shares of the Pile); `babylm` (the six sources of the 2024 challenge); a TOML or JSON file of NAME = share; \
                  or NAME=SHARE,... where a share is a part (0.3, 30%), words (2.5M), `all`, or `rest`, and the name * stands \
                  for every domain not named.\n\
                  The same sources, options and seed give the same bytes, whatever the number of threads.\n\
                  bheval corpus build --tokenizer tokenizer --from DIR --split train --dev-split dev --words 10M -o corpus"
)]
pub(crate) struct CorpusBuildArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Folder with tokenizer.json; its EOS ends each document
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: PathBuf,
    /// Words in all: 10M, 100M, 2.5M, 300K [default: all there is]
    #[arg(long, value_name = "N", value_parser = bheval_corpus::mixture::words)]
    pub(crate) words: Option<u64>,
    /// natural, pile, pile-100m, babylm, FILE, or NAME=SHARE,... [default: the plan's shares, else natural]
    #[arg(long, value_name = "MIXTURE")]
    pub(crate) mixture: Option<String>,
    /// Domains that stand for a part of a preset, where their names do not tell: "Pile-CC=web+news"
    #[arg(long, value_name = "PART=NAME+...")]
    pub(crate) map: Vec<String>,
    /// Scale shares that do not add up to 1, or of which a part has no domain
    #[arg(long, visible_alias = "renormalise")]
    pub(crate) renormalize: bool,
    /// Take what there is of a domain that is short of its words
    #[arg(long)]
    pub(crate) allow_short: bool,
    /// Held-out text: files NAME.SPLIT.* of the --from folders
    #[arg(long, value_name = "SPLIT", requires = "from")]
    pub(crate) dev_split: Option<String>,
    /// Held-out text: all text files of this folder (with --dev-split, of that split)
    #[arg(long, value_name = "DIR")]
    pub(crate) dev_from: Vec<PathBuf>,
    /// Held-out text: a domain and its files
    #[arg(long, value_name = "NAME=FILE,...")]
    pub(crate) dev_domain: Vec<String>,
    /// Without held-out files: the share of documents that is held out, by a hash of their words; 0 for none [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub(crate) dev_share: Option<f64>,
    /// Licence of a domain's text, to be noted in the record
    #[arg(long, value_name = "NAME=TEXT")]
    pub(crate) licence: Vec<String>,
    /// Seed of sampling and order
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Put no BOS before documents. Without this, a tokenizer's BOS that is not its EOS stands there: scoring puts it before
    /// sentences, so training has to show it
    #[arg(long)]
    pub(crate) no_bos: bool,
    /// Most tokens of a shard
    #[arg(long, default_value = "250M", value_name = "N", value_parser = bheval_corpus::mixture::words)]
    pub(crate) shard_tokens: u64,
    /// Folder to be made
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace the corpus that the folder holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads [default: all cores]. The corpus does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Print corpus.json instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
