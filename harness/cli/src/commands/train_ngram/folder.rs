//! The folder of a trained model: whole, or not there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bheval_data::atomic::{publish, write_atomic};
use bheval_ngram::config::{CONFIG_FILE, MODEL_FILE, MODEL_TYPE};
use bheval_ngram::file::write;
use bheval_ngram::model::NgramModel;
use serde_json::{Map, Value};

use super::Config;

/// What makes a tokenizer; all but the first may be missing.
const TOKENIZER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Where a model will lie, found free or free to be replaced.
pub(super) struct Target {
    path: PathBuf,
    /// Beside it, so that a rename does not cross disks.
    staging: PathBuf,
    replaced: PathBuf,
}

impl Target {
    /// Refuses a folder that holds anything, unless it is a model of this kind and nothing else, and `force` is given.
    pub(super) fn new(path: &Path, force: bool) -> anyhow::Result<Self> {
        let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            bail!("--out {} has no name of its own; name the folder to be made", path.display());
        };
        let beside = |end: &str| path.with_file_name(format!(".{name}.{}.{end}", std::process::id()));
        if path.exists() {
            check(path, force)?;
        }
        Ok(Self { path: path.to_owned(), staging: beside("tmp"), replaced: beside("old") })
    }

    /// Writes everything beside, syncs it, and renames it into place.
    pub(super) fn publish(
        &self,
        model: &NgramModel,
        more: Map<String, Value>,
        tokenizer: &Path,
    ) -> anyhow::Result<Config> {
        let done = self.fill(model, more, tokenizer).and_then(|config| {
            self.swap()?;
            Ok(config)
        });
        if done.is_err() {
            // The first error is the one to report; a leftover that cannot be removed adds nothing to it.
            let _ = fs::remove_dir_all(&self.staging);
        }
        done
    }

    fn fill(&self, model: &NgramModel, more: Map<String, Value>, tokenizer: &Path) -> anyhow::Result<Config> {
        let staging = &self.staging;
        if staging.exists() {
            // A dead process had this one's number and left its folder.
            fs::remove_dir_all(staging).with_context(|| format!("could not remove {}", staging.display()))?;
        }
        fs::create_dir_all(staging).with_context(|| format!("could not make {}", staging.display()))?;
        for name in TOKENIZER {
            let from = tokenizer.join(name);
            if from.exists() {
                let bytes = fs::read(&from).with_context(|| format!("could not read {}", from.display()))?;
                write_atomic(&staging.join(name), &bytes)?;
            }
        }
        let checksum = write(model, &staging.join(MODEL_FILE))?;
        let config = Config { vocab: model.vocab(), order: model.order(), checksum, more };
        let text = format!("{}\n", serde_json::to_string_pretty(&config.to_json())?);
        write_atomic(&staging.join(CONFIG_FILE), text.as_bytes())?;
        Ok(config)
    }

    fn swap(&self) -> anyhow::Result<()> {
        let Self { path, staging, replaced } = self;
        if !path.exists() {
            return Ok(publish(staging, path)?);
        }
        fs::rename(path, replaced).with_context(|| format!("could not move {} aside", path.display()))?;
        if let Err(error) = publish(staging, path) {
            fs::rename(replaced, path)
                .with_context(|| format!("{error}; the model before is in {}", replaced.display()))?;
            return Err(error.into());
        }
        fs::remove_dir_all(replaced)
            .with_context(|| format!("the model before could not be removed from {}", replaced.display()))
    }
}

fn check(path: &Path, force: bool) -> anyhow::Result<()> {
    let here = path.display();
    let advice = || format!("--out {here} can't be used");
    if !path.is_dir() {
        bail!("{}: it is a file; name a folder to be made", advice());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).with_context(advice)? {
        names.push(entry.with_context(advice)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.is_empty() {
        return Ok(());
    }
    if !force {
        bail!(
            "--out {here} is not empty (it holds {}); choose another folder, or replace the n-gram model in it with --force",
            names[0]
        );
    }
    let own = |name: &String| {
        TOKENIZER.contains(&name.as_str()) || [CONFIG_FILE, MODEL_FILE].contains(&name.as_str())
    };
    if let Some(other) = names.iter().find(|name| !own(name)) {
        bail!(
            "--force replaces n-gram models only, and {here} also holds {other}; move it away, or choose another folder"
        );
    }
    let config = fs::read(path.join(CONFIG_FILE)).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
    match config {
        Some(config) if config["model_type"] == MODEL_TYPE => Ok(()),
        _ => bail!("--force replaces n-gram models only, and {here} holds none; choose another folder"),
    }
}
