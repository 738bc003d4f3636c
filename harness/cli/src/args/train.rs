//! `bheval train`, as typed.

use std::path::PathBuf;

use clap::Args;

use super::FolderArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "The same command goes on where a run was broken off, to the same weights bit by bit; Ctrl-C finishes the step, \
                  saves and exits with 130, a second one ends at once. Paths in a plan are relative to the working directory.\n\
                  Weights depend on the plan alone: not on threads, nor on when checkpoints are written. They may differ in \
                  their last digits between machines and between versions of bheval.\n\n\
                  bheval train --preset hgrn2-nano --corpus corpus -o nano\n\
                  bheval train plan.toml -o run --set optimizer.learning_rate=5e-4\n\
                  bheval train plan.toml --dry-run"
)]
pub(crate) struct TrainArgs {
    /// TOML file of the plan; it may name a preset to be based on
    #[arg(value_name = "PLAN")]
    pub(crate) plan: Option<PathBuf>,
    /// Plan that comes with the program (see --list-presets)
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Folder that `bheval corpus build` made
    #[arg(long, value_name = "DIR")]
    pub(crate) corpus: Option<PathBuf>,
    /// One key of the plan, stronger than its file: train.steps=1000
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Folder of the run: steps.csv, checkpoints, and at the end the model
    #[arg(long, short, value_name = "DIR", required_unless_present_any = ["dry_run", "list_presets", "show_preset"])]
    pub(crate) out: Option<PathBuf>,
    /// Put aside what the run's folder holds and start anew
    #[arg(long)]
    pub(crate) fresh: bool,
    /// `auto` (by the plan's architecture), a name that `bheval backends` lists, or the path of a plugin that trains
    #[arg(long, default_value = "auto", value_name = "NAME|FILE")]
    pub(crate) backend: String,
    /// Threads, stronger than the plan's [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Print the resolved plan and what it will cost, and train nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Operations a second to reckon the time with, instead of timing a few passes: 2e12
    #[arg(long, value_name = "N", requires = "dry_run", value_parser = rate)]
    pub(crate) flops: Option<f64>,
    #[command(flatten)]
    pub(crate) folders: FolderArgs,
    /// List the presets
    #[arg(long)]
    pub(crate) list_presets: bool,
    /// Print a preset's file
    #[arg(long, value_name = "NAME", conflicts_with = "list_presets")]
    pub(crate) show_preset: Option<String>,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a number above 0: 2e12".into()),
    }
}
