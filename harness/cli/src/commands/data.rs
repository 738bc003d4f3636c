//! `bheval data`: list, verify and fetch data sets.

use std::io::IsTerminal;

use bheval_data::fetch::fetch;
use bheval_data::locate::{Folders, Packing};
use bheval_data::manifest::{self, Manifest};
use bheval_tasks::Selected;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::{DataAction, DataArgs, FolderArgs};
use crate::console::{Outcome, answer, complain, tell};
use crate::table::table;

pub(crate) fn run(args: DataArgs) -> anyhow::Result<Outcome> {
    match args.action {
        DataAction::List { data, json } => list(&open(&FolderArgs { data, offline: true })?, json),
        DataAction::Verify { names, data } => verify(&names, &open(&FolderArgs { data, offline: true })?),
        DataAction::Fetch { names } => fetch_all(&names, &open(&FolderArgs { data: None, offline: false })?),
    }
}

/// The folders that the arguments and the environment name.
pub(crate) fn open(args: &FolderArgs) -> anyhow::Result<Folders> {
    Ok(Folders::from_env(args.data.clone(), args.offline)?)
}

fn list(folders: &Folders, as_json: bool) -> anyhow::Result<Outcome> {
    if as_json {
        let sets: Vec<_> = manifest::all().iter().map(|m| entry(m, folders)).collect();
        answer(&serde_json::to_string_pretty(&sets)?)?;
        return Ok(Outcome::Done);
    }
    let mut table = table(&["data set", "MB", "files", "licence", "where"], 1..3);
    for set in manifest::all() {
        table.add_row([
            set.name.clone(),
            format!("{:.1}", set.bytes() as f64 / 1e6),
            set.files.len().to_string(),
            set.licence.clone(),
            place(set, folders).unwrap_or_else(|| absent(set).to_owned()),
        ]);
    }
    let mut text = format!("{table}\ndownloads go to {}\n", folders.cache.display());
    for set in manifest::all().iter().filter(|set| !can_be_fetched(set) && place(set, folders).is_none()) {
        text += &format!("\n{}: {}\n", set.name, set.how_to_get);
    }
    answer(&text)?;
    Ok(Outcome::Done)
}

fn entry(set: &Manifest, folders: &Folders) -> serde_json::Value {
    json!({
        "name": set.name, "title": set.title, "revision": set.revision, "licence": set.licence, "source": set.source,
        "bytes": set.bytes(), "files": set.files.len(), "fingerprint": set.fingerprint(), "folder": place(set, folders),
        "can_be_fetched": can_be_fetched(set), "how_to_get": set.how_to_get,
    })
}

fn place(set: &Manifest, folders: &Folders) -> Option<String> {
    folders.open(set).ok().map(|found| found.folder.display().to_string())
}

fn can_be_fetched(set: &Manifest) -> bool {
    set.files.iter().all(|f| f.url.is_some())
}

fn absent(set: &Manifest) -> &'static str {
    if can_be_fetched(set) { "not here; can be fetched" } else { "not here; must be obtained by hand" }
}

fn verify(names: &[String], folders: &Folders) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Done;
    for set in named(names)? {
        let found = match folders.open(set) {
            Ok(found) => found,
            Err(error) if names.is_empty() => {
                tell(&format!("{}: {}", set.name, absent(set)));
                drop(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut faults = Vec::new();
        for (path, result) in found.verify() {
            match result {
                Ok(Packing::Pinned) => {}
                // An archive that others packed: the task holds its items against the known ones.
                Ok(Packing::Other) => match content(set, folders) {
                    Ok(()) => {
                        tell(&format!("{path}: not the pinned archive, but its items are the known ones"))
                    }
                    Err(fault) => faults.push(fault.to_string()),
                },
                Err(fault) => faults.push(fault.to_string()),
            }
        }
        faults.iter().for_each(|fault| complain(fault));
        let files = found.manifest.files.len();
        let right = files - faults.len();
        answer(&format!("{}: {right} of {files} files are right, in {}", set.name, found.folder.display()))?;
        if !faults.is_empty() {
            outcome = Outcome::Failed;
        }
    }
    Ok(outcome)
}

/// Checks a set's items by reading the task that asks them.
fn content(set: &Manifest, folders: &Folders) -> Result<(), bheval_tasks::Error> {
    let mut tasks =
        bheval_tasks::all().into_iter().filter(|task| task.info().dataset == Some(set.name.as_str()));
    tasks.try_for_each(|task| task.load(folders).map(drop))
}

fn named(names: &[String]) -> anyhow::Result<Vec<&'static Manifest>> {
    if names.is_empty() {
        return Ok(manifest::all().iter().collect());
    }
    Ok(names.iter().map(|name| manifest::find(name)).collect::<Result<_, _>>()?)
}

fn fetch_all(names: &[String], folders: &Folders) -> anyhow::Result<Outcome> {
    for set in named(names)? {
        let done = fetch_one(set, folders)?;
        answer(&format!("{}: {done}, in {}", set.name, folders.cache.display()))?;
    }
    Ok(Outcome::Done)
}

fn fetch_one(set: &Manifest, folders: &Folders) -> anyhow::Result<String> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let template = "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template)?);
    let result = fetch(set, folders, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.bytes);
        bar.set_message(format!("{} {}/{}", set.name, progress.file, progress.files));
    });
    bar.finish_and_clear();
    let fetched = result?;
    Ok(format!(
        "{} files fetched ({:.1} MB), {} were there",
        fetched.fetched,
        fetched.bytes as f64 / 1e6,
        fetched.kept
    ))
}

/// Downloads what the tasks need and no folder has, unless that was forbidden. What can't be fetched is left for the
/// task to report, which says where it was looked for and how to get it.
pub(crate) fn ensure(tasks: &[Selected], folders: &Folders) -> anyhow::Result<()> {
    for name in tasks.iter().filter_map(|s| s.task.info().dataset) {
        let set = manifest::find(name)?;
        let missing = matches!(folders.open(set), Err(bheval_data::Error::DataMissing { .. }));
        if missing && !folders.offline && can_be_fetched(set) {
            tell(&format!(
                "{name} is not here: downloading {:.1} MB ({})",
                set.bytes() as f64 / 1e6,
                set.licence
            ));
            tell(&format!("{name}: {}", fetch_one(set, folders)?));
        }
    }
    Ok(())
}
