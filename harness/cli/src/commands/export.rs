//! `bheval export`: from a run to a folder for Hugging Face.

use std::path::Path;

use bheval_host::Model;
use bheval_train::card::Facts;
use bheval_train::export::{Exported, Measured, Request, StoredAs, export, report};

use super::train::model_args;
use crate::args::{ExportArgs, StoredArg};
use crate::backend::{cores, find, options};
use crate::console::{Outcome, answer, complain, grouped, warn};

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let request = Request {
        run: &args.run,
        which: args.checkpoint.unwrap_or_default(),
        stored: match args.dtype {
            StoredArg::F32 => StoredAs::F32,
            StoredArg::Bf16 => StoredAs::Bf16,
        },
        out: &args.out,
        force: args.force,
        facts: facts(args),
    };
    let exported = match export(&request, &mut |folder| open(args, folder).map_err(|e| format!("{e:#}"))) {
        Ok(exported) => exported,
        Err(error) => {
            complain(&error.to_string());
            return Ok(Outcome::Failed);
        }
    };
    exported.notes.iter().for_each(|note| warn(note));
    if args.license.is_none() && !args.quiet {
        warn("the card names no licence of the model; name it with --license, and mind those of the data");
    }
    answer(&if args.json { serde_json::to_string_pretty(&report(&exported))? } else { summary(&exported) })?;
    Ok(Outcome::Done)
}

/// Opens a folder as `bheval --model` does.
fn open(args: &ExportArgs, folder: &Path) -> anyhow::Result<Model> {
    let model = model_args(folder, &args.backend, args.threads.unwrap_or_else(cores));
    let library = find(&model)?;
    Ok(Model::open(&library, &options(&model, &library)?)?)
}

fn facts(args: &ExportArgs) -> Facts {
    let folder = args.out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Facts {
        name: args.name.clone().unwrap_or(folder),
        license: args.license.clone(),
        languages: args.language.clone(),
        datasets: args.dataset.clone(),
        tags: args.tag.clone(),
        command: command(std::env::args().skip(1)),
    }
}

/// The command as it can be typed again.
fn command(args: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@%+".contains(c);
    let quoted = |arg: String| {
        let is_plain = !arg.is_empty() && arg.chars().all(plain);
        if is_plain { arg } else { format!("'{}'", arg.replace('\'', r"'\''")) }
    };
    ["bheval".to_owned()].into_iter().chain(args.map(quoted)).collect::<Vec<_>>().join(" ")
}

fn summary(exported: &Exported) -> String {
    let mut text = format!(
        "step {}, {} parameters, {} bytes, SHA-256 {}\n",
        grouped(exported.step),
        grouped(exported.parameters),
        grouped(exported.bytes),
        exported.sha256
    );
    if let Some((before, after)) = exported.measured {
        let of = |m: Measured| format!("{:.4} (loss {:.6})", m.loss.exp(), m.loss);
        text += &format!(
            "perplexity on {} tokens of the dev text: checkpoint {}, exported {}\n",
            grouped(after.targets),
            of(before),
            of(after)
        );
    }
    text + &format!("bheval eval --model {} --tasks blimp", exported.folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        let args = ["export", "a run", "-o", "it's", "--dtype=bf16", ""];
        assert_eq!(
            command(args.map(str::to_owned).into_iter()),
            r"bheval export 'a run' -o 'it'\''s' --dtype=bf16 ''"
        );
    }
}
