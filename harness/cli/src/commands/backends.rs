//! `bheval backends`: what can run a model.

use bheval_host::{Library, Origin, plugin_folders, plugins_in};
use serde_json::json;

use crate::args::BackendsArgs;
use crate::backend::linked;
use crate::console::{Outcome, answer, complain};
use crate::table::table;

pub(crate) fn run(args: &BackendsArgs) -> anyhow::Result<Outcome> {
    let mut found = Vec::new();
    for table in linked() {
        found.push(Library::linked(table)?);
    }
    let mut outcome = Outcome::Done;
    for (_, file) in plugin_folders().iter().flat_map(|folder| plugins_in(folder)) {
        match Library::open(&file, None) {
            Ok(library) => found.push(library),
            Err(error) => {
                complain(&error.to_string());
                outcome = Outcome::Failed;
            }
        }
    }
    answer(&if args.json { as_json(&found)? } else { as_text(&found) })?;
    Ok(outcome)
}

fn place(library: &Library) -> String {
    match library.origin() {
        Origin::Linked => "part of bheval".to_owned(),
        Origin::File { path, .. } => path.display().to_string(),
    }
}

fn as_text(found: &[Library]) -> String {
    let mut table = table(&["backend", "version", "forests", "where"], 1..1);
    for library in found {
        let forests = if library.takes_forests() { "native" } else { "flat" };
        table.add_row([
            library.name().to_owned(),
            library.version().to_owned(),
            forests.to_owned(),
            place(library),
        ]);
    }
    let folders: Vec<_> = plugin_folders().iter().map(|f| f.display().to_string()).collect();
    format!("{table}\nplugins are looked for in: {}\n", folders.join(", "))
}

fn as_json(found: &[Library]) -> anyhow::Result<String> {
    let entry = |l: &Library| {
        let sha256 = match l.origin() {
            Origin::Linked => None,
            Origin::File { sha256, .. } => Some(sha256.clone()),
        };
        json!({
            "name": l.name(), "version": l.version(), "forests": l.takes_forests(), "where": place(l), "sha256": sha256,
        })
    };
    Ok(serde_json::to_string_pretty(&found.iter().map(entry).collect::<Vec<_>>())?)
}
