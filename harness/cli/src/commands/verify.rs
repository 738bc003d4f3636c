//! `bheval verify`: the conformance suite, each check in a process of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bheval_host::{Library, Origin};
use bheval_verify::child::{self, End, Ended, Report};
use bheval_verify::{CHECKS, Check, OPENS, Outcome as Ending, Subject, UNLOAD, Verdict};
use comfy_table::ContentArrangement;
use indicatif::ProgressBar;
use serde_json::json;

use crate::args::{ModelArgs, SHIPPED, VerifyArgs};
use crate::backend::{chosen as chosen_backend, find, options, plain_options};
use crate::console::{Outcome, answer, complain};
use crate::table::table;

/// Scoring memory that models are opened with at most: the largest call, and the time for it, grow with it.
const MEMORY: u64 = 8 << 20;

/// Characters in a line of the table.
const WIDTH: u16 = 150;

pub(crate) fn run(mut args: VerifyArgs) -> anyhow::Result<Outcome> {
    if args.list {
        answer(&list())?;
        return Ok(Outcome::Done);
    }
    let Some(mut model) = args.model.take().filter(|model| model.model.as_os_str() != SHIPPED) else {
        bail!("--model DIR says which model the backend opens");
    };
    if let Some(subject) = args.subject.take() {
        model.backend = subject;
    }
    if model.tokenizer.is_some() {
        bail!("the checks draw token ids at random and read no tokenizer: leave --tokenizer out");
    }
    if model.isolate {
        bail!("every check runs in a process of its own as it is: leave --isolate out");
    }
    match (&args.child, &args.report) {
        (Some(name), Some(report)) => run_child(&model, args.library.as_deref(), checked(name)?, report),
        _ => run_all(&args, &model),
    }
}

fn list() -> String {
    let mut table = table(&["check", "passes if"], 2..2);
    for check in CHECKS {
        table.add_row([check.name, check.about]);
    }
    table.to_string()
}

fn checked(name: &str) -> anyhow::Result<&'static Check> {
    Check::named(name)
        .with_context(|| format!("there is no check `{name}`; `bheval verify --list` names them all"))
}

/// What a check's process does.
fn run_child(
    args: &ModelArgs,
    unload: Option<&Path>,
    check: &Check,
    report: &Path,
) -> anyhow::Result<Outcome> {
    let model = path(args)?;
    let options = plain_options(args);
    let (threads, dtype, memory) = (options.threads, options.dtype, options.memory.min(MEMORY));
    let (verdict, library) = if let Some(file) = unload {
        (bheval_verify::unload(file, &model, threads, dtype, memory), None)
    } else {
        let library = find(args)?;
        let file = match library.origin() {
            Origin::Linked => None,
            Origin::File { path, .. } => Some(path.clone()),
        };
        let path = opened_path(args, &library)?;
        (check.run(&Subject { library, path, threads, dtype, memory }), file)
    };
    Report { verdict, library }.write(report)?;
    Ok(Outcome::Done)
}

/// What that backend is given to open, in UTF-8.
fn opened_path(args: &ModelArgs, library: &Library) -> anyhow::Result<String> {
    let path = options(args, library)?.path;
    path.to_str().map(str::to_owned).with_context(|| format!("{}: the path is not UTF-8", path.display()))
}

fn path(args: &ModelArgs) -> anyhow::Result<String> {
    let model = &args.model;
    if !model.exists() {
        bail!("no model at {}: --model takes the folder that your backend opens", model.display());
    }
    let Some(path) = model.to_str() else { bail!("{}: the model's path is not UTF-8", model.display()) };
    Ok(path.to_owned())
}

/// A check with its verdict and the time it took.
type Row = (&'static Check, Verdict, Duration);

fn run_all(args: &VerifyArgs, model: &ModelArgs) -> anyhow::Result<Outcome> {
    path(model)?;
    for name in &args.only {
        checked(name)?;
    }
    let chosen = |check: &&Check| {
        check.name == OPENS || args.only.is_empty() || args.only.iter().any(|name| name == check.name)
    };
    let chosen: Vec<&'static Check> = CHECKS.iter().filter(chosen).collect();
    let folder = tempfile::tempdir().context("no folder for what the checks report")?;
    let children = Children { folder: folder.path(), limit: Duration::from_secs(args.timeout) };
    let progress = ProgressBar::new(chosen.len() as u64);
    let mut rows: Vec<Row> = Vec::new();
    let mut library = None;
    for check in chosen {
        let start = Instant::now();
        let verdict = if rows.first().is_some_and(|(_, opens, _)| opens.outcome == Ending::Failed) {
            Verdict::skipped("needs a model that opens")
        } else {
            let ended = children.run(check, library.as_deref())?;
            if check.name == OPENS && could_not_start(&ended) {
                complain(ended.said.trim_start_matches("error: "));
                return Ok(Outcome::NotStarted);
            }
            library = library.or(ended.report.as_ref().and_then(|report| report.library.clone()));
            child::verdict(check, &ended)
        };
        rows.push((check, verdict, start.elapsed()));
        progress.inc(1);
    }
    progress.finish_and_clear();
    answer(&if args.json { as_json(model, &rows)? } else { as_text(&rows) })?;
    let failed = rows.iter().any(|(_, verdict, _)| verdict.outcome == Ending::Failed);
    Ok(if failed { Outcome::Failed } else { Outcome::Done })
}

/// Whether a child said what keeps it from looking at a backend at all, as this program would.
fn could_not_start(ended: &Ended) -> bool {
    ended.report.is_none() && ended.end == End::Code(2) && ended.said.starts_with("error: ")
}

struct Children<'a> {
    folder: &'a Path,
    limit: Duration,
}

impl Children<'_> {
    /// Runs a check with the arguments that this process was given.
    fn run(&self, check: &Check, library: Option<&Path>) -> anyhow::Result<Ended> {
        let report = self.folder.join(check.name);
        let mut command = Command::new(this_program()?);
        let given: Vec<OsString> = std::env::args_os().skip(1).collect();
        command.args(given).args(["--child", check.name, "--report"]).arg(&report);
        // A backtrace would hide what went wrong behind a hundred lines.
        command.env("RUST_BACKTRACE", "0");
        if let Some(library) = library.filter(|_| check.name == UNLOAD) {
            command.arg("--library").arg(library);
        }
        child::run(command, &report, self.limit)
            .with_context(|| format!("the check {} could not be started", check.name))
    }
}

/// The program that runs now, even where another one was built in its place meanwhile.
fn this_program() -> anyhow::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.to_owned());
    }
    std::env::current_exe().context("this program's own file is not known")
}

fn word(ending: Ending) -> &'static str {
    match ending {
        Ending::Passed => "passed",
        Ending::Failed => "FAILED",
        Ending::Skipped => "skipped",
    }
}

fn counts(rows: &[Row]) -> [usize; 3] {
    [Ending::Passed, Ending::Failed, Ending::Skipped]
        .map(|ending| rows.iter().filter(|(_, verdict, _)| verdict.outcome == ending).count())
}

fn as_text(rows: &[Row]) -> String {
    let mut table = table(&["check", "result", "evidence"], 3..3);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    for (check, verdict, _) in rows {
        let evidence = match verdict.outcome {
            Ending::Failed => format!("The contract: {}. Seen: {}", check.about, verdict.evidence),
            _ => verdict.evidence.clone(),
        };
        table.add_row([check.name, word(verdict.outcome), &evidence]);
    }
    let [passed, failed, skipped] = counts(rows);
    let time: Duration = rows.iter().map(|(_, _, time)| *time).sum();
    format!("{table}\n{passed} passed, {failed} failed, {skipped} skipped, in {:.1} s\n", time.as_secs_f64())
}

fn as_json(model: &ModelArgs, rows: &[Row]) -> anyhow::Result<String> {
    let row = |(check, verdict, time): &Row| {
        json!({
            "check": check.name, "contract": check.about, "result": verdict.outcome, "evidence": verdict.evidence,
            "seconds": time.as_secs_f64(),
        })
    };
    let [passed, failed, skipped] = counts(rows);
    Ok(serde_json::to_string_pretty(&json!({
        "backend": chosen_backend(model)?, "model": model.model, "passed": passed, "failed": failed, "skipped": skipped,
        "checks": rows.iter().map(row).collect::<Vec<_>>(),
    }))?)
}
