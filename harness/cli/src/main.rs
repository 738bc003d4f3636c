//! The `bheval` binary: arguments in, results to stdout, everything else to stderr, an exit code.

mod args;
mod backend;
mod commands;
mod console;
mod progress;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::console::{Outcome, complain};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => commands::eval::run(cli.eval),
        Some(Command::Eval(args)) => commands::eval::run(args),
        Some(Command::Score(args)) => commands::score::run(args),
        Some(Command::Inspect(args)) => commands::inspect::run(&args),
        Some(Command::Tasks(args)) => commands::tasks::run(&args),
        Some(Command::Data(args)) => commands::data::run(args),
        Some(Command::Backends(args)) => commands::backends::run(&args),
    };
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) if console::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            Outcome::NotStarted.into()
        }
    }
}
