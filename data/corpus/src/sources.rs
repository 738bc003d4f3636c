//! Which files make up a corpus: domains, each a name with one or more files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::source::{SourceFile, is_text_name};

/// A file with its domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file, and how it is read.
    pub file: SourceFile,
    /// Its domain; none where each row names its own.
    pub domain: Option<String>,
}

/// How files are read, where nothing else is said of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The field of a row's text.
    pub field: String,
    /// The field of a row's domain.
    pub label_field: Option<String>,
    /// Words after which a document of text is cut at the line's end.
    pub cut: Option<u64>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { field: "text".into(), label_field: None, cut: None }
    }
}

impl Reading {
    /// A file of a domain; where rows name their domains, of those.
    #[must_use]
    pub fn source(&self, path: PathBuf, domain: &str) -> Source {
        let file = SourceFile {
            path,
            field: self.field.clone(),
            label_field: self.label_field.clone(),
            cut: self.cut,
        };
        let domain = self.label_field.is_none().then(|| domain.to_owned());
        Source { file, domain }
    }
}

/// The domain and the split that a file's name tells: `books.train.txt.zst` is of `books`, split `train`.
#[must_use]
pub fn label(name: &str) -> (&str, Option<&str>) {
    let mut parts = name.split('.');
    let label = parts.next().unwrap_or(name);
    (label, parts.next())
}

/// Names that mark a part of a data set.
const SPLITS: [&str; 7] = ["train", "dev", "valid", "validation", "val", "test", "eval"];

/// The text files of a folder with their domains, by their names: those of a split, or all where none is asked for.
///
/// # Errors
/// A folder that can't be read or has no such file, or one with several splits where none is asked for.
pub fn folder(folder: &Path, split: Option<&str>, reading: &Reading) -> Result<Vec<Source>, Error> {
    let names = names(folder)?;
    let wanted = |name: &String| match split {
        Some(split) => label(name).1 == Some(split),
        None => is_text_name(name),
    };
    let found: Vec<_> = names.iter().filter(|name| wanted(name)).collect();
    let splits: BTreeSet<_> =
        found.iter().filter_map(|n| label(n).1).filter(|split| SPLITS.contains(split)).collect();
    if found.is_empty() {
        let (here, all) = (folder.display(), names.iter().filter_map(|n| label(n).1));
        let reason = match split {
            None => format!("{here} holds no text files (.txt or .jsonl, also .zst, .xz, .gz)"),
            Some(split) => format!(
                "{here} holds no file of the split {split:?}, as NAME.{split}.txt would be; there is: {}",
                listed(all.collect::<BTreeSet<_>>())
            ),
        };
        return Err(Error::plan(reason));
    }
    if split.is_none() && splits.len() > 1 {
        return Err(Error::plan(format!(
            "{} holds several splits ({}): choose one with --split, or the held-out text ends up in training",
            folder.display(),
            listed(splits)
        )));
    }
    Ok(found.into_iter().map(|name| reading.source(folder.join(name), label(name).0)).collect())
}

/// Files of a folder, in order of their names; hidden ones do not count.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let entry = entry.map_err(Error::io("read the folder", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `NAME=FILE[,FILE...]` as typed.
///
/// # Errors
/// Another form.
pub fn named(typed: &str, reading: &Reading) -> Result<Vec<Source>, Error> {
    let wrong = || Error::plan(format!("{typed:?} is not a domain: it is written NAME=FILE[,FILE...]"));
    let (name, files) = typed.split_once('=').ok_or_else(wrong)?;
    let files: Vec<_> = files.split(',').filter(|file| !file.is_empty()).collect();
    if name.trim().is_empty() || files.is_empty() {
        return Err(wrong());
    }
    Ok(files.into_iter().map(|file| reading.source(PathBuf::from(file), name.trim())).collect())
}

/// All files that a corpus is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// What is trained on.
    pub train: Vec<Source>,
    /// What is held out.
    pub dev: Vec<Source>,
    /// Licences by domain, as noted by the user.
    pub licences: BTreeMap<String, String>,
}

impl Sources {
    /// Keeps the domains of these names, if any are given.
    ///
    /// # Errors
    /// A name that no domain has.
    pub fn only(&mut self, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let has: BTreeSet<_> = self.train.iter().filter_map(|s| s.domain.clone()).collect();
        if let Some(unknown) = names.iter().find(|name| !has.contains(*name)) {
            return Err(Error::plan(format!("no domain is called {unknown:?}; there is: {}", listed(has))));
        }
        let keep = |s: &Source| s.domain.as_ref().is_none_or(|d| names.contains(d));
        self.train.retain(keep);
        self.dev.retain(keep);
        Ok(())
    }

    /// Puts files in the order of their domains and refuses what was given twice.
    ///
    /// # Errors
    /// No training file at all, or one file under two names or in both parts.
    pub fn checked(mut self) -> Result<Self, Error> {
        if self.train.is_empty() {
            return Err(Error::plan("no text was named; give --from DIR, --domain NAME=FILE or --plan FILE"));
        }
        let mut seen = BTreeMap::new();
        for source in self.train.iter().chain(&self.dev) {
            let path = &source.file.path;
            let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            if seen.insert(real, path).is_some() {
                return Err(Error::plan(format!("{} was given twice", path.display())));
            }
        }
        let has: BTreeSet<_> = self.train.iter().map(|s| &s.domain).collect();
        if let Some(alone) = self.dev.iter().find(|s| !has.contains(&s.domain)) {
            return Err(Error::plan(format!(
                "{} is held-out text of a domain without training text; give it some, or leave it out with --only",
                alone.file.path.display()
            )));
        }
        // Stable: files of one domain stay in the order that they were given in.
        self.train.sort_by(|a, b| a.domain.cmp(&b.domain));
        self.dev.sort_by(|a, b| a.domain.cmp(&b.domain));
        Ok(self)
    }
}

/// Names with commas between them.
pub(crate) fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
