//! EWoK (Ivanova et al. 2024): which of two targets fits which of two contexts. Four log-probabilities an item give both
//! published comparisons: between targets in one context (BabyLM), and of one target between contexts (the authors).
//!
//! The items must never appear as plain text. They are read from a password-protected archive in memory.
//!
//! Besides the pinned archive any ZIP in its place will do whose `DOMAIN.jsonl` files, in whatever folder, hold the same
//! items: rows with the fields `Context1`, `Context2`, `Target1` and `Target2` (others are passed over) in any order,
//! packed with deflate and ZipCrypto (`zip -e`), with the published password or that of `BHEVAL_EWOK_PASSWORD`. Its
//! [content](bheval_data::content) is held against the manifest. Rows then follow their keys and not the file, so that ids
//! are the same for every such archive, though not those of the pinned one: the fingerprint tells the two apart.

use std::collections::BTreeMap;

use bheval_data::archive::Archive;
use bheval_data::content::{RowKey, content_sha256, row_key};
use bheval_data::encode::Query;
use bheval_data::jsonl::{Privacy, rows};
use bheval_data::locate::{DataSet, Folders, Packing};
use bheval_data::manifest::{self, FileEntry};
use bheval_data::protocol::Ties;
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

pub(crate) static FULL: EwokTask = EwokTask { info: CORE, folder: "ewok-core-1.0", both_directions: true };

pub(crate) static FILTERED: EwokTask = EwokTask {
    info: Info {
        name: "ewok_filtered",
        title: "EWoK by BabyLM's vocabulary, each item in both directions (BabyLM 2024 and 2025)",
        items: 7_618,
        dataset: Some("ewok_filtered"),
        ..CORE
    },
    folder: "ewok_filtered",
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
    folder: "evaluation_data/fast_eval/ewok_fast",
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
            let (bytes, packing) = data.read_packed(file)?;
            let own = folders.ewok_password.as_ref().filter(|_| packing == Packing::Other);
            let password = own.map(|own| own.0.as_str()).or(manifest.password.as_deref()).unwrap_or_default();
            let mut domains = self.domains(Archive::open(&file.path, bytes, password)?, packing)?;
            if packing == Packing::Other {
                self.check_content(&data, file, &domains)?;
                domains.values_mut().for_each(|rows| rows.sort_by_key(|(key, _)| *key));
                loaded.fingerprint = manifest.content_fingerprint().unwrap_or_default();
            }
            domains.into_iter().for_each(|(name, rows)| self.add(name, rows, &mut loaded));
        }
        complete(&self.info, loaded)
    }
}

/// A domain's rows, each with the key of its content.
type Rows = Vec<(RowKey, Vec<Query>)>;

impl EwokTask {
    /// The domains of an archive by name, rows in the order of their files.
    fn domains(&self, mut archive: Archive, packing: Packing) -> Result<BTreeMap<String, Rows>, Error> {
        let mut domains = BTreeMap::new();
        for entry in archive.entries() {
            let Some(domain) = self.domain(&entry, packing) else { continue };
            let rows: Vec<Row> = rows(&entry, &archive.read(&entry)?, Privacy::Protected)?;
            let read = |(index, row)| keyed(row, &Place { source: &entry, line: index + 1 });
            let rows = rows.into_iter().enumerate().map(read).collect::<Result<Rows, _>>()?;
            if domains.insert(domain.to_owned(), rows).is_some() {
                let reason = format!("two files of the archive are called {domain}.jsonl");
                return Err(Error::Incomplete { task: self.info.name, reason });
            }
        }
        Ok(domains)
    }

    /// The domain that an entry holds: one of the folder in the pinned archive, of any in others.
    fn domain<'e>(&self, entry: &'e str, packing: Packing) -> Option<&'e str> {
        let (folder, file) = entry.rsplit_once('/').map_or(("", entry), |(folder, file)| (folder, file));
        let domain = file.strip_suffix(".jsonl")?;
        // What macOS packs beside each file has its name, and a dot or a folder of its own.
        let wanted = match packing {
            Packing::Pinned => folder == self.folder,
            Packing::Other => !domain.starts_with('.') && !folder.starts_with("__MACOSX"),
        };
        wanted.then_some(domain)
    }

    fn check_content(
        &self,
        data: &DataSet,
        file: &FileEntry,
        domains: &BTreeMap<String, Rows>,
    ) -> Result<(), Error> {
        let keys = |rows: &Rows| rows.iter().map(|(key, _)| *key).collect();
        let found = content_sha256(&domains.iter().map(|(name, rows)| (name.as_str(), keys(rows))).collect());
        let expected = data.manifest.content_sha256.clone().unwrap_or_default();
        if found == expected {
            return Ok(());
        }
        let size = (domains.len(), domains.values().map(Vec::len).sum());
        let file = data.path(file).display().to_string();
        Err(Error::OtherContent { task: self.info.name, file, expected, found, size })
    }

    fn add(&self, domain: String, rows: Rows, loaded: &mut Loaded) {
        let subset = loaded.subsets.len();
        let mut clusters = BTreeMap::new();
        for (index, (_, queries)) in rows.into_iter().enumerate() {
            let next = clusters.len();
            let cluster = *clusters.entry(both_ways(&queries)).or_insert(next);
            let id = format!("{}/{domain}/{index}", self.info.name);
            loaded.items.push(Item { id, subset, cluster, queries });
        }
        loaded.subsets.push(Subset { name: domain, tags: vec![] });
    }
}

fn keyed(row: Row, at: &Place<'_>) -> Result<(RowKey, Vec<Query>), Error> {
    let key = row_key(&[&row.context1, &row.context2, &row.target1, &row.target2]);
    Ok((key, queries(row, at)?))
}

/// A key that a row shares with the one in which both contexts and both targets are swapped.
fn both_ways(queries: &[Query]) -> [RowKey; 2] {
    let mut keys = [&queries[0], &queries[3]].map(|q| row_key(&[&q.context, &q.continuation]));
    keys.sort_unstable();
    keys
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
        ties: None,
    };
    let contexts = Metric {
        name: "acc_contexts",
        label: "the target is more probable after the fitting context",
        comparisons: comparisons([(0, 2), (3, 1)]),
        // The authors' analysis gives one half; no pipeline has this comparison.
        ties: Some(Ties::Half),
    };
    Loaded {
        subsets: vec![],
        items: vec![],
        available: 0,
        labels: &["t1_c1", "t2_c1", "t1_c2", "t2_c2"],
        metrics: vec![targets, contexts],
        fingerprint,
    }
}
