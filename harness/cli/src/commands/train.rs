//! `bheval train`: from a plan to a model.

mod examiner;
mod preview;
mod signal;
mod teachers;
mod watch;

use std::path::Path;

use anyhow::Context;
use bheval_corpus::Corpus;
use bheval_data::tokenizer::Tokenizer;
use bheval_host::Library;
use bheval_train::Error;
use bheval_train::checkpoint::{CONFIG, FileRecord, WEIGHTS};
use bheval_train::folder::Folder;
use bheval_train::hosted::Hosted;
use bheval_train::learner::Learner;
use bheval_train::plan::{Draft, Identity, PRESETS, Plan, Sources, find_preset};
use bheval_train::scores::Examiner;
use bheval_train::trainer::{Ending, Finished, Job, Teaching, train};
use serde_json::{Value, json};

use crate::args::{DtypeArg, ModelArgs, TrainArgs};
use crate::backend::{cores, find};
use crate::console::{Outcome, answer, complain, grouped, tell, warn};
use crate::table::table;

use examiner::Tasks;
use signal::Signals;
use teachers::{Teachers, was_interrupted};
use watch::Watcher;

/// The program and its build, for the record.
const PROGRAM: &str = bheval_eval::BUILD;

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Outcome> {
    if args.list_presets {
        return list_presets(args.json);
    }
    if let Some(name) = &args.show_preset {
        answer(find_preset(name)?.text)?;
        return Ok(Outcome::Done);
    }
    let (draft, corpus) = open(args)?;
    let tokenizer = Tokenizer::load(&corpus.tokenizer_folder())?;
    let plan = draft.resolve(&corpus, &tokenizer)?;
    let teachers = Teachers::find(args, &plan, &draft.place(&["distill"]))?;
    if args.dry_run {
        let cache =
            teachers.map(|teachers| teachers.cache_bytes(&plan, (&corpus, &tokenizer))).transpose()?;
        return preview::run(args, &plan, &corpus, cache.flatten());
    }
    let Some(out) = &args.out else { anyhow::bail!("name the folder of the run with -o") };
    train_in(args, &plan, (&corpus, &tokenizer), teachers.as_ref(), out)
}

fn open(args: &TrainArgs) -> anyhow::Result<(Draft, Corpus)> {
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path);
        text.map(|text| (path.display().to_string(), text))
            .with_context(|| format!("{} can't be read", path.display()))
    };
    let sources = Sources {
        file: args.plan.as_ref().map(read).transpose()?,
        preset: args.preset.clone(),
        set: args.set.clone(),
        corpus: args.corpus.as_ref().map(|corpus| corpus.display().to_string()),
    };
    let draft = Draft::read(&sources)?;
    let corpus = Corpus::open(&draft.corpus()?)?;
    Ok((draft, corpus))
}

fn train_in(
    args: &TrainArgs,
    plan: &Plan,
    (corpus, tokenizer): (&Corpus, &Tokenizer),
    teachers: Option<&Teachers>,
    out: &Path,
) -> anyhow::Result<Outcome> {
    // What can't be trained is found out before anything is written.
    let mut learner = Start::new(args, plan)?.learner()?;
    plan.check(&learner.info(plan.data.sequence_length)?)?;
    let mut tasks = Tasks::open(args, plan, out)?;
    let identity =
        teachers.map_or_else(|| Identity::of(plan), |teachers| teachers.identify(Identity::of(plan)));
    let folder = Folder::open(out, plan, &identity, args.fresh)?;
    if !folder.locked() {
        warn("this file system has no locks: see to it that no other bheval trains in the same folder");
    }
    let signals = Signals::watch()?;
    let stop = || signals.seen().is_some();
    let ask = |teachers: &Teachers| teachers.distiller(plan, (corpus, tokenizer), out, &stop);
    let mut distiller = match teachers.map(ask).transpose() {
        Err(error) if was_interrupted(&error) => {
            tell(&error.to_string());
            return Ok(Outcome::Interrupted(signals.seen().unwrap_or(signal::INTERRUPT)));
        }
        distiller => distiller?,
    };
    let mut watcher = Watcher::new(args.quiet);
    let finished = train(Job {
        plan,
        identity: &identity,
        corpus,
        learner: &mut learner,
        folder: &folder,
        program: PROGRAM,
        teaching: distiller.as_mut().map(|distiller| distiller as &mut dyn Teaching),
        examiner: tasks.as_mut().map(|tasks| tasks as &mut dyn Examiner),
        observer: &mut watcher,
        stop: &stop,
    });
    drop(watcher);
    match finished {
        Ok(finished) => present(args, plan, &finished, &signals),
        Err(error) if is_refusal(&error) => Err(error.into()),
        Err(error) => {
            complain(&error.to_string());
            Ok(Outcome::Failed)
        }
    }
}

/// Whether nothing was begun.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Plan { .. } | Error::OtherPlan { .. } | Error::NoCheckpoint { .. } | Error::Unfit { .. }
    )
}

/// What a learner is made from: a folder with `config.json`, and the backend for it.
struct Start<'a> {
    plan: &'a Plan,
    folder: tempfile::TempDir,
    library: Library,
    threads: u32,
}

impl<'a> Start<'a> {
    fn new(args: &TrainArgs, plan: &'a Plan) -> anyhow::Result<Self> {
        let folder =
            tempfile::tempdir().context("no temporary folder could be made for the model's config.json")?;
        std::fs::write(folder.path().join(CONFIG), serde_json::to_string_pretty(&plan.model)?)?;
        let threads = args.threads.or(plan.train.threads).unwrap_or_else(cores);
        let library = find(&model_args(folder.path(), &args.backend, threads))?;
        Ok(Self { plan, folder, library, threads })
    }

    fn learner(&self) -> anyhow::Result<Hosted> {
        let train = &self.plan.train;
        Ok(Hosted::create(&self.library, self.folder.path(), train.seed, self.threads, train.precision)?)
    }
}

/// What `--model FOLDER --backend BACKEND` would be.
pub(super) fn model_args(folder: &Path, backend: &str, threads: u32) -> ModelArgs {
    ModelArgs {
        model: folder.to_owned(),
        tokenizer: None,
        backend: backend.to_owned(),
        backend_sha256: None,
        dtype: DtypeArg::F32,
        threads: Some(threads),
        memory: 256 << 20,
        isolate: false,
    }
}

fn list_presets(as_json: bool) -> anyhow::Result<Outcome> {
    if as_json {
        let all: Vec<_> = PRESETS.iter().map(|p| json!({"name": p.name, "title": p.title()})).collect();
        answer(&serde_json::to_string_pretty(&all)?)?;
        return Ok(Outcome::Done);
    }
    let mut rows = table(&["preset", "what it is"], 0..0);
    for preset in PRESETS {
        rows.add_row([preset.name, preset.title()]);
    }
    answer(&format!("{rows}\nbheval train --preset NAME --corpus DIR -o DIR\n"))?;
    Ok(Outcome::Done)
}

fn present(args: &TrainArgs, plan: &Plan, finished: &Finished, signals: &Signals) -> anyhow::Result<Outcome> {
    let report = report(plan, finished)?;
    answer(&if args.json { serde_json::to_string_pretty(&report)? } else { summary(plan, finished) })?;
    if finished.ending == Ending::Interrupted {
        tell("interrupted, and saved; the same command goes on from here");
        return Ok(Outcome::Interrupted(signals.seen().unwrap_or(signal::INTERRUPT)));
    }
    Ok(if finished.unexamined.is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// What a run ended with. Nothing in it depends on the machine's speed.
fn report(plan: &Plan, finished: &Finished) -> anyhow::Result<Value> {
    let state = &finished.state;
    let dev = |dev: &bheval_train::DevLoss| json!({"step": dev.step, "loss": dev.loss, "perplexity": dev.loss.exp()});
    let model = match &finished.model {
        None => Value::Null,
        Some((path, step)) => {
            json!({"folder": path, "step": step, "weights_sha256": FileRecord::of(&path.join(WEIGHTS))?.sha256})
        }
    };
    Ok(json!({
        "ending": match finished.ending { Ending::Done => "done", Ending::Early => "early", Ending::Interrupted => "interrupted" },
        "step": state.step, "steps": plan.train.steps, "epoch": state.epoch, "words_seen": state.words_seen,
        "tokens_seen": state.tokens_seen, "dev": state.dev.last().map(dev), "best": state.patience.best.as_ref().map(dev),
        "checkpoint": finished.checkpoint, "model": model,
        "unexamined": finished.unexamined.iter().map(|(step, why)| json!({"step": step, "reason": why})).collect::<Vec<_>>(),
    }))
}

fn summary(plan: &Plan, finished: &Finished) -> String {
    let state = &finished.state;
    let mut text = format!(
        "{} of {} steps, {} words and {} tokens seen",
        grouped(state.step),
        grouped(plan.train.steps),
        grouped(state.words_seen),
        grouped(state.tokens_seen)
    );
    if let Some(dev) = state.dev.last() {
        text += &format!("; dev perplexity {:.2} after step {}", dev.loss.exp(), grouped(dev.step));
    }
    if let (Ending::Early, Some(best)) = (finished.ending, state.patience.best) {
        text += &format!(
            "\nstopped early: no improvement since step {} (dev perplexity {:.2})",
            grouped(best.step),
            best.loss.exp()
        );
    }
    if let Some((_, step)) = finished.model.as_ref().filter(|(_, step)| *step != state.step) {
        text += &format!("\nthe model is that of step {}, the best by its dev loss", grouped(*step));
    }
    match (&finished.model, &finished.checkpoint) {
        (Some((model, _)), _) => text += &format!("\nbheval eval --model {} --tasks blimp", model.display()),
        (None, Some(checkpoint)) => text += &format!("\ncheckpoint in {}", checkpoint.display()),
        (None, None) => (),
    }
    text
}
