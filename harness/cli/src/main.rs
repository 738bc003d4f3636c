//! The `bheval` binary: arguments in, results to stdout, everything else to stderr, an exit code.

mod args;
mod backend;
mod commands;
mod console;
mod progress;
mod shipped;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, with_command};
use crate::console::{Outcome, complain};

fn main() -> ExitCode {
    let result = match Cli::parse_from(with_command(std::env::args_os())).command {
        Command::Eval(mut args) => shipped::fill(&mut args.model).and_then(|()| commands::eval::run(&args)),
        Command::Score(mut args) => shipped::fill(&mut args.model).and_then(|()| commands::score::run(&args)),
        Command::Inspect(mut args) => {
            shipped::fill(&mut args.model).and_then(|()| commands::inspect::run(&args))
        }
        Command::TrainNgram(args) => commands::train_ngram::run(&args),
        Command::Tokenizer(args) => commands::tokenizer::run(args),
        Command::Corpus(args) => commands::corpus::run(args),
        Command::Train(args) => commands::train::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Tasks(args) => commands::tasks::run(&args),
        Command::Data(args) => commands::data::run(args),
        Command::Backends(args) => commands::backends::run(&args),
        Command::Verify(args) => commands::verify::run(*args),
        Command::Worker => commands::worker::run(),
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
