//! What was typed. No decisions here.

mod corpus;
mod export;
mod train;

use std::ffi::OsString;
use std::path::PathBuf;

use bheval_data::masked::Pll;
use bheval_data::protocol::Protocol;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use corpus::{
    CorpusAction, CorpusArgs, CorpusBuildArgs, NormalizerArg, TextArgs, TokenizerAction, TokenizerArgs,
    TokenizerTrainArgs,
};
pub(crate) use export::{ExportArgs, StoredArg};
pub(crate) use train::TrainArgs;

/// Scores small language models on minimal pairs and world knowledge.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    arg_required_else_help = true,
    after_help = "Without a command, `eval` is meant (`bheval eval --help` lists its options):\n  \
                  bheval --model DIR --tasks blimp,ewok\n  bheval --tasks demo\n\n\
                  Exit codes: 0 done; 1 finished or broken off, and something failed; 2 could not start."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The arguments with `eval` put in where no command was typed: `bheval --model DIR --tasks blimp`.
pub(crate) fn with_command(typed: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = typed.into_iter().collect();
    let option = args.get(1).is_some_and(|a| a.to_string_lossy().starts_with('-'));
    let general = args.get(1).is_some_and(|a| ["-h", "--help", "-V", "--version"].iter().any(|g| a == g));
    if option && !general {
        args.insert(1, "eval".into());
    }
    args
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Score tasks (the default)
    Eval(Box<EvalArgs>),
    /// Per-token surprisal of any text, one sentence a line
    Score(Box<ScoreArgs>),
    /// Show how a few sentences are cut, what is scored, and the classic faults
    Inspect(InspectArgs),
    /// Train an n-gram model: the baseline to print beside any other
    TrainNgram(TrainNgramArgs),
    /// Train a tokenizer
    Tokenizer(TokenizerArgs),
    /// Make text into tokens to train on
    Corpus(CorpusArgs),
    /// Train a model by a plan, or go on with it
    Train(Box<TrainArgs>),
    /// Turn a trained model into a folder for Hugging Face, with its card
    Export(Box<ExportArgs>),
    /// List the tasks
    Tasks(TasksArgs),
    /// List, verify or fetch the data sets
    Data(DataArgs),
    /// List the backends: linked ones and plugins
    Backends(BackendsArgs),
    /// Check whether a backend keeps its contract; for those who write one
    Verify(Box<VerifyArgs>),
    /// The process that --isolate starts: it runs a backend for the one that started it
    #[command(hide = true)]
    Worker,
}

/// What `--model` is where it was left out. Nobody can type it: no argument holds a NUL. An empty `--model ""` is a mistake
/// in a script, not the wish for the model that ships with bheval.
pub(crate) const SHIPPED: &str = "\0";

/// A model and what runs it.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Folder with config.json, weights (safetensors, ONNX or model.ngram) and tokenizer.json, or an .onnx or .ngram file
    /// [default: the model that ships with bheval]
    #[arg(long, value_name = "DIR", default_value = SHIPPED, hide_default_value = true)]
    pub(crate) model: PathBuf,
    /// Folder of the tokenizer, where it is not the model's
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// `auto` (by the files of the model), a name that `bheval backends` lists, or the path of a plugin
    #[arg(long, default_value = "auto", value_name = "NAME|FILE")]
    pub(crate) backend: String,
    /// Load the plugin only if its file has this SHA-256
    #[arg(long, value_name = "HEX")]
    pub(crate) backend_sha256: Option<String>,
    /// Number format of weights and products; sums and log-probabilities are f32 or better
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: DtypeArg,
    /// Threads [default: all cores]. Scores do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Memory that scoring may take beside the weights
    #[arg(long, default_value = "256M", value_name = "SIZE", value_parser = size)]
    pub(crate) memory: u64,
    /// Run the backend in a process of its own: if it crashes, the items that it held are named and the run goes on
    #[arg(long)]
    pub(crate) isolate: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DtypeArg {
    F32,
    Bf16,
}

/// `auto`, or a number of sentences from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchArg {
    Auto,
    Sentences(usize),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RouteArg {
    /// Shared beginnings are run once
    Forest,
    /// Each sentence on its own: slower, the same numbers
    Flat,
}

/// Where data is looked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct FolderArgs {
    /// Data folder, looked into before BHEVAL_DATA and the cache
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Never download
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tasks, groups, subsets and globs: `blimp,ewok/agent*,blimp/morphology` (see `bheval tasks`)
    #[arg(long, value_name = "LIST")]
    pub(crate) tasks: String,
    /// Rules of scoring: bheval, babylm2024, babylm2025 or lm-eval
    #[arg(long, default_value = "bheval", value_name = "NAME")]
    pub(crate) protocol: Protocol,
    /// Reading of masked models: original, within_word_l2r, sentence_l2r, answer_l2r+word_l2r or mntp [default: the
    /// protocol's: within_word_l2r for bheval, original for babylm2025]. Refused for causal models
    #[arg(long, value_name = "NAME")]
    pub(crate) pll: Option<Pll>,
    /// Only the first N items of each subset
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Sentences in one call of the backend, or `auto`. Scores do not depend on it
    #[arg(long, default_value = "auto", value_name = "N", value_parser = batch)]
    pub(crate) batch_size: BatchArg,
    /// How sentences reach the backend. Masked models have one way only and ignore it
    #[arg(long, default_value = "forest")]
    pub(crate) route: RouteArg,
    #[command(flatten)]
    pub(crate) folders: FolderArgs,
    /// Folder of this run; the same command goes on where it was broken off [default: runs/MODEL-TASKS-...]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Put aside what the run's folder holds and start anew
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Print results.json instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Also list every paradigm or domain
    #[arg(long)]
    pub(crate) full: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScoreFormat {
    /// One row a token
    Csv,
    /// One object a sentence, with totals
    Jsonl,
}

#[derive(Debug, Args)]
#[command(
    after_help = "CSV columns: sentence and index count lines and tokens from 0; start and end count characters of the \
                  line; log_prob is in nats, and empty where a token is not scored. A masked model's table has one more \
                  column, pll: the reading, since numbers of different readings do not compare.\n\
                  A line that can't be scored is reported, the others are scored, and the exit code is 1."
)]
pub(crate) struct ScoreArgs {
    /// Text file, one sentence a line, or `-` for stdin
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Rules of scoring, which decide what stands before a sentence
    #[arg(long, default_value = "bheval", value_name = "NAME", conflicts_with = "as_encoded")]
    pub(crate) protocol: Protocol,
    /// Score exactly the ids that the tokenizer gives, nothing added; the first one has no score
    #[arg(long)]
    pub(crate) as_encoded: bool,
    /// Reading of masked models: original, within_word_l2r, sentence_l2r, answer_l2r+word_l2r or mntp [default: the
    /// protocol's: within_word_l2r for bheval, original for babylm2025]. Refused for causal models
    #[arg(long, value_name = "NAME")]
    pub(crate) pll: Option<Pll>,
    /// Form of the output
    #[arg(long, default_value = "csv")]
    pub(crate) format: ScoreFormat,
    /// The same as --format jsonl
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Rules of scoring [default: all of them]
    #[arg(long, value_name = "NAME")]
    pub(crate) protocol: Option<Protocol>,
    /// Reading of masked models [default: each protocol's]
    #[arg(long, value_name = "NAME")]
    pub(crate) pll: Option<Pll>,
    /// Sentences to show [default: three that show most faults]
    #[arg(value_name = "SENTENCE")]
    pub(crate) sentences: Vec<String>,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Interpolated modified Kneser-Ney, nothing pruned. BOS (else EOS) stands before each sentence and is not \
                  predicted; EOS, where the tokenizer has one, ends it and is. The same texts give the same bytes.\n\
                  Packed texts: zstd -dc FILE.zst | bheval train-ngram --text - --tokenizer DIR --out DIR"
)]
pub(crate) struct TrainNgramArgs {
    /// Text files, one sentence a line, or `-` for stdin. Empty lines are passed over
    #[arg(long, value_name = "FILE|-", required = true, num_args = 1..)]
    pub(crate) text: Vec<PathBuf>,
    /// Folder with tokenizer.json: that of the models to compare with
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: PathBuf,
    /// A token is predicted from the N-1 before it
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    pub(crate) order: u32,
    /// Folder to be made: config.json, model.ngram, and the tokenizer's files
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace the n-gram model that the folder holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads [default: all cores]. The model does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Print the model's config.json instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TasksArgs {
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackendsArgs {
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each check runs in a process of its own, so a backend that crashes fails that check only.\n\
                  Models are opened with 8 MB of scoring memory at most, to keep the largest call short.\n\
                  Exit codes: 0 nothing failed; 1 a check failed; 2 could not start."
)]
pub(crate) struct VerifyArgs {
    /// The backend: `auto`, a name, or the path of a plugin; the same as --backend
    #[arg(value_name = "BACKEND", conflicts_with = "backend")]
    pub(crate) subject: Option<String>,
    #[command(flatten)]
    pub(crate) model: Option<ModelArgs>,
    /// Only these checks, by name
    #[arg(long, value_name = "CHECK,...", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Seconds after which a check is stopped and has failed
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// List the checks
    #[arg(long, exclusive = true)]
    pub(crate) list: bool,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
    /// Run this check in this process, and write what it found to --report
    #[arg(long, hide = true, requires = "report")]
    pub(crate) child: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) report: Option<PathBuf>,
    /// File of the library, for the check that loads it without the host
    #[arg(long, hide = true)]
    pub(crate) library: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) action: DataAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataAction {
    /// Every data set: size, licence, and where it was found
    List {
        /// Data folder, looked into before BHEVAL_DATA and the cache
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Compare files with their SHA-256
    Verify {
        /// Data sets [default: all that are found]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Data folder, looked into before BHEVAL_DATA and the cache
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Download data sets into the cache, verified
    Fetch {
        /// Data sets
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// A number of bytes: `512M`, `2G`.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale: u64 = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err("a size is a number with K, M or G: 512M".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "a size is a number with K, M or G: 512M".to_owned())?;
    number.checked_mul(scale).ok_or_else(|| "that is more memory than there can be".into())
}

fn batch(text: &str) -> Result<BatchArg, String> {
    if text == "auto" {
        return Ok(BatchArg::Auto);
    }
    match text.parse() {
        Ok(n) if n > 0 => Ok(BatchArg::Sentences(n)),
        _ => Err("`auto`, or a number from 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("10"), Ok(10));
        assert!(size("x").is_err() && size("1T").is_err() && size("99999999999G").is_err());
    }

    #[test]
    fn no_command_means_eval() {
        let parse = |typed: &[&str]| {
            let typed = ["bheval"].iter().chain(typed).map(OsString::from);
            Cli::try_parse_from(with_command(typed)).map(|cli| cli.command)
        };
        let Ok(Command::Eval(args)) = parse(&["--model", "m", "--tasks", "demo"]) else {
            panic!("eval was meant")
        };
        assert_eq!((args.tasks.as_str(), args.batch_size), ("demo", BatchArg::Auto));
        assert!(matches!(parse(&["tasks"]), Ok(Command::Tasks(_))));
        assert!(parse(&[]).is_err() && parse(&["--model", "m"]).is_err());
        let Ok(Command::Eval(args)) = parse(&["--tasks", "demo"]) else { panic!("eval was meant") };
        assert_eq!(args.model.model.as_os_str(), SHIPPED);
        assert!(parse(&["--version"]).is_err_and(|e| e.kind() == clap::error::ErrorKind::DisplayVersion));
    }
}
