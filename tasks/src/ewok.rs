//! EWoK (Ivanova et al. 2024): which of two targets fits which of two contexts. Four log-probabilities an item give both
//! published comparisons: between targets in one context (BabyLM), and of one target between contexts (the authors).
//!
//! The items must never appear as plain text. They are read from a password-protected archive in memory.

use bheval_data::archive::Archive;
use bheval_data::encode::Query;
use bheval_data::jsonl::{Privacy, rows};
use bheval_data::locate::Folders;
use bheval_data::manifest;
use serde::Deserialize;

use crate::pairs::{Place, complete};
use crate::{Comparison, Error, Info, Item, Loaded, Metric, Subset, Task};

/// A set of EWoK items in a protected archive.
#[derive(Debug)]
pub(crate) struct EwokTask {
    info: Info,
    /// Folder inside the archive whose JSONL files are the domains.
    folder: &'static str,
    /// Whether a row stands for both directions. BabyLM's sets write each item twice, with both contexts and both
    /// targets swapped, and take one comparison of a row.
    both_directions: bool,
}

const CORE: Info = Info {
    name: "ewok",
    title: "EWoK-core 1.0: elements of world knowledge",
    version: 1,
    subset_noun: "domain",
    subsets: 11,
    items: 4_374,
    chance: 0.5,
    licence: "CC-BY-4.0 and terms of use (no plain text)",
    source: "https://ewok-core.github.io",
    dataset: Some("ewok"),
};

pub(crate) static FULL: EwokTask = EwokTask { info: CORE, folder: "ewok-core-1.0/", both_directions: true };

pub(crate) static FILTERED: EwokTask = EwokTask {
    info: Info {
        name: "ewok_filtered",
        title: "EWoK by BabyLM's vocabulary, each item in both directions (BabyLM 2024 and 2025)",
        items: 7_618,
        dataset: Some("ewok_filtered"),
        ..CORE
    },
    folder: "ewok_filtered/",
    both_directions: false,
};

pub(crate) static FAST: EwokTask = EwokTask {
    info: Info {
        name: "ewok_fast",
        title: "100 rows for each domain of EWoK (BabyLM 2025, for checkpoints)",
        items: 1_100,
        dataset: Some("ewok_fast"),
        ..CORE
    },
    folder: "evaluation_data/fast_eval/ewok_fast/",
    both_directions: false,
};

/// What a row must have; further fields are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Row {
    pub(crate) context1: String,
    pub(crate) context2: String,
    pub(crate) target1: String,
    pub(crate) target2: String,
}

impl Task for EwokTask {
    fn info(&self) -> &Info {
        &self.info
    }

    fn load(&self, folders: &Folders) -> Result<Loaded, Error> {
        let manifest = manifest::find(self.info.dataset.unwrap_or(self.info.name))?;
        let data = folders.open(manifest)?;
        let mut loaded = empty(manifest.fingerprint(), self.both_directions);
        for file in &manifest.files {
            let password = manifest.password.as_deref().unwrap_or_default();
            let mut archive = Archive::open(&file.path, data.read(file)?, password)?;
            for entry in self.domains(&archive) {
                self.read(&mut archive, &entry, &mut loaded)?;
            }
        }
        complete(&self.info, loaded)
    }
}

impl EwokTask {
    /// The domains' entries, sorted by name.
    fn domains(&self, archive: &Archive) -> Vec<String> {
        let is_domain = |name: &&String| {
            name.strip_prefix(self.folder).is_some_and(|rest| rest.ends_with(".jsonl") && !rest.contains('/'))
        };
        let mut entries: Vec<String> = archive.entries().iter().filter(is_domain).cloned().collect();
        entries.sort();
        entries
    }

    fn read(&self, archive: &mut Archive, entry: &str, loaded: &mut Loaded) -> Result<(), Error> {
        let domain = entry[self.folder.len()..].trim_end_matches(".jsonl").to_owned();
        let rows: Vec<Row> = rows(entry, &archive.read(entry)?, Privacy::Protected)?;
        let subset = loaded.subsets.len();
        for (index, row) in rows.into_iter().enumerate() {
            let id = format!("{}/{domain}/{index}", self.info.name);
            let queries = queries(row, &Place { source: entry, line: index + 1 })?;
            loaded.items.push(Item { id, subset, queries });
        }
        loaded.subsets.push(Subset { name: domain, tags: vec![] });
        Ok(())
    }
}

/// The four queries of a row, in the order of the labels.
pub(crate) fn queries(row: Row, at: &Place<'_>) -> Result<Vec<Query>, Error> {
    let contexts = [at.not_empty(row.context1, "Context1")?, at.not_empty(row.context2, "Context2")?];
    let targets = [at.not_empty(row.target1, "Target1")?, at.not_empty(row.target2, "Target2")?];
    let all = contexts.iter().flat_map(|c| targets.iter().map(|t| Query::after(c, t)));
    Ok(all.collect())
}

/// A task in EWoK's schema without items yet. Labels name target and context: `t2_c1` is Target2 after Context1.
pub(crate) fn empty(fingerprint: String, both_directions: bool) -> Loaded {
    let take = if both_directions { 2 } else { 1 };
    let comparisons = |pairs: [(usize, usize); 2]| {
        pairs.into_iter().take(take).map(|(better, worse)| Comparison { better, worse }).collect()
    };
    let targets = Metric {
        name: "acc",
        label: "in one context, the fitting target is the more probable",
        comparisons: comparisons([(0, 1), (3, 2)]),
    };
    let contexts = Metric {
        name: "acc_contexts",
        label: "the target is more probable after the fitting context",
        comparisons: comparisons([(0, 2), (3, 1)]),
    };
    Loaded {
        subsets: vec![],
        items: vec![],
        labels: &["t1_c1", "t2_c1", "t1_c2", "t2_c2"],
        metrics: vec![targets, contexts],
        fingerprint,
    }
}
