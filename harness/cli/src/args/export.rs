//! `bheval export`, as typed.

use std::path::PathBuf;

use bheval_train::export::Which;
use clap::{Args, ValueEnum};

/// Number format of exported weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StoredArg {
    /// As they were trained
    F32,
    /// Rounded to the nearest, half the size; the card says what it does to the loss on dev text
    Bf16,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The folder is kept only if it opens again and, as f32, scores dev text as the checkpoint does. HGRN2 has the \
                  layout of flash-linear-attention, the others that of transformers.\n\
                  bheval export run -o model --license apache-2.0\n\
                  bheval export run --checkpoint best --dtype bf16 -o model"
)]
pub(crate) struct ExportArgs {
    /// Folder that `bheval train -o` wrote
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// `best` (by dev loss), `last`, or a step [default: the model that the run ended with]
    #[arg(long, value_name = "best|last|STEP")]
    pub(crate) checkpoint: Option<Which>,
    /// Number format of the weights
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: StoredArg,
    /// Folder to be made
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace the exported model that the folder holds
    #[arg(long)]
    pub(crate) force: bool,
    /// The model's name on its card [default: that of the folder]
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// The model's licence, as the hub spells it: apache-2.0
    #[arg(long, value_name = "ID")]
    pub(crate) license: Option<String>,
    /// Languages of the data
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', default_value = "en")]
    pub(crate) language: Vec<String>,
    /// Data sets of the hub that it was trained on
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub(crate) dataset: Vec<String>,
    /// More tags for its card
    #[arg(long, value_name = "TAG,...", value_delimiter = ',')]
    pub(crate) tag: Vec<String>,
    /// `auto` (by the model's architecture), a name that `bheval backends` lists, or the path of a plugin
    #[arg(long, default_value = "auto", value_name = "NAME|FILE")]
    pub(crate) backend: String,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
