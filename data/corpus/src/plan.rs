//! Domains from a file: TOML, or JSON of the same form.
//!
//! ```toml
//! [domains.books]
//! files = ["books.train.txt.zst"]   # beside the plan, or absolute
//! dev = ["books.dev.txt.zst"]
//! licence = "public domain"
//! share = "rest"                    # as in --mixture
//! field = "text"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::mixture::Share;
use crate::sources::{Reading, Sources};

/// The longest plan that is read.
const LIMIT: u64 = 1 << 20;

/// What a plan says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Planned {
    /// The files.
    pub sources: Sources,
    /// Shares of the domains, where they have any.
    pub shares: Vec<(String, Share)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domains: BTreeMap<String, Domain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Domain {
    files: Vec<PathBuf>,
    #[serde(default)]
    dev: Vec<PathBuf>,
    licence: Option<String>,
    share: Option<Typed>,
    field: Option<String>,
}

/// A share as a number or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Typed {
    Number(f64),
    Text(String),
}

impl Typed {
    fn share(&self, path: &Path, name: &str) -> Result<Share, Error> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        };
        text.parse().map_err(|e| Error::plan(format!("{}, {name}: {e}", path.display())))
    }
}

/// Reads a plan. Its paths are relative to its folder.
///
/// # Errors
/// A file that can't be read or has another form.
pub fn read(path: &Path, reading: &Reading) -> Result<Planned, Error> {
    let file: File = parse(path)?;
    let here = path.parent().unwrap_or(Path::new(""));
    let mut planned = Planned::default();
    for (name, domain) in file.domains {
        let mut reading = reading.clone();
        reading.field = domain.field.unwrap_or(reading.field);
        let source = |file: &PathBuf| reading.source(here.join(file), &name);
        planned.sources.train.extend(domain.files.iter().map(source));
        planned.sources.dev.extend(domain.dev.iter().map(source));
        if let Some(share) = domain.share {
            planned.shares.push((name.clone(), share.share(path, &name)?));
        }
        planned.sources.licences.extend(domain.licence.map(|licence| (name, licence)));
    }
    Ok(planned)
}

/// Reads shares: a table of names.
///
/// # Errors
/// A file that can't be read or has another form.
pub fn read_shares(path: &Path) -> Result<Vec<(String, Share)>, Error> {
    let file: BTreeMap<String, Typed> = parse(path)?;
    file.into_iter().map(|(name, share)| Ok((name.clone(), share.share(path, &name)?))).collect()
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    let wrong = |reason: String| Error::plan(format!("{}: {reason}", path.display()));
    if size > LIMIT {
        return Err(wrong(format!("{size} bytes are no plan")));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) {
        serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))
    } else {
        toml::from_str(&text).map_err(|e| wrong(e.to_string()))
    }
}
