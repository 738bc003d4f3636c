//! Minimal pairs in BLiMP's schema: shared by BLiMP, its filtered and fast forms, the supplement and the demo.

use bheval_data::encode::Query;
use bheval_data::jsonl::{Privacy, rows};
use bheval_data::locate::{DataSet, Folders};
use bheval_data::manifest;
use serde::Deserialize;

use crate::{Comparison, Error, Info, Item, Loaded, Metric, Subset, Task};

/// A task whose data is one JSONL file of pairs for each subset.
#[derive(Debug)]
pub(crate) struct PairTask {
    pub(crate) info: Info,
}

/// What a row must have; further fields are passed over.
#[derive(Deserialize)]
struct Row {
    sentence_good: String,
    sentence_bad: String,
    field: Option<String>,
    linguistics_term: Option<String>,
}

impl Task for PairTask {
    fn info(&self) -> &Info {
        &self.info
    }

    fn load(&self, folders: &Folders) -> Result<Loaded, Error> {
        let manifest = manifest::find(self.info.dataset.unwrap_or(self.info.name))?;
        let data = folders.open(manifest)?;
        let mut loaded = empty(manifest.fingerprint());
        for file in &manifest.files {
            self.read(&data, file, &mut loaded)?;
        }
        complete(&self.info, loaded)
    }
}

impl PairTask {
    fn read(&self, data: &DataSet, file: &manifest::FileEntry, loaded: &mut Loaded) -> Result<(), Error> {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path).trim_end_matches(".jsonl");
        let rows: Vec<Row> = rows(&file.path, &data.read(file)?, Privacy::Open)?;
        let subset = loaded.subsets.len();
        loaded.subsets.push(Subset { name: name.to_owned(), tags: tags(rows.first()) });
        for (index, row) in rows.into_iter().enumerate() {
            let at = Place { source: &file.path, line: index + 1 };
            let queries = vec![
                sentence(row.sentence_good, "sentence_good", &at)?,
                sentence(row.sentence_bad, "sentence_bad", &at)?,
            ];
            let id = format!("{}/{name}/{index}", self.info.name);
            loaded.items.push(Item { id, subset, cluster: index, queries });
        }
        Ok(())
    }
}

/// Where a row stands.
pub(crate) struct Place<'a> {
    pub(crate) source: &'a str,
    pub(crate) line: usize,
}

impl Place<'_> {
    /// The text, unless there is nothing in it.
    pub(crate) fn not_empty(&self, text: String, field: &'static str) -> Result<String, Error> {
        if text.trim().is_empty() {
            return Err(Error::EmptySentence { source: self.source.to_owned(), line: self.line, field });
        }
        Ok(text)
    }
}

fn sentence(text: String, field: &'static str, at: &Place<'_>) -> Result<Query, Error> {
    Ok(Query::sentence(at.not_empty(text, field)?))
}

fn tags(row: Option<&Row>) -> Vec<(&'static str, String)> {
    let field = row.and_then(|r| r.field.as_deref()).map(|f| ("field", f.replace('/', "_")));
    let term = row.and_then(|r| r.linguistics_term.clone()).map(|t| ("term", t));
    field.into_iter().chain(term).collect()
}

/// A task of pairs without items yet.
pub(crate) fn empty(fingerprint: String) -> Loaded {
    let better = vec![Comparison { better: 0, worse: 1 }];
    let metric = Metric {
        name: "acc",
        label: "the good sentence is the more probable",
        comparisons: better,
        ties: None,
    };
    Loaded {
        subsets: vec![],
        items: vec![],
        available: 0,
        labels: &["good", "bad"],
        metrics: vec![metric],
        fingerprint,
    }
}

/// The items, if they are as many as the task is known to have.
pub(crate) fn complete(info: &Info, mut loaded: Loaded) -> Result<Loaded, Error> {
    loaded.available = loaded.items.len();
    let found = (loaded.subsets.len(), loaded.items.len());
    if found == (info.subsets, info.items) {
        return Ok(loaded);
    }
    let reason = format!(
        "{} {}s with {} items were found where {} with {} are known",
        found.0, info.subset_noun, found.1, info.subsets, info.items
    );
    Err(Error::Incomplete { task: info.name, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_sentence_is_refused_with_file_line_and_field() {
        let at = Place { source: "blimp/data/wh_island.jsonl", line: 7 };
        let error = sentence(" \u{a0}\t".into(), "sentence_bad", &at).expect_err("nothing in it").to_string();
        assert!(error.starts_with("blimp/data/wh_island.jsonl, line 7: `sentence_bad` is empty"), "{error}");
        assert!(sentence("Dogs bark.".into(), "sentence_good", &at).is_ok());
    }
}
