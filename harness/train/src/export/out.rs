//! The folder that a model is exported to: whole, or not there.

use std::fs;
use std::path::{Path, PathBuf};

use bheval_data::atomic::publish;

use super::{CARD, Error, GENERATION, PLAN, TOKENIZER};
use crate::checkpoint::{CONFIG, WEIGHTS, sync};

/// Where a model will lie, found free or free to be replaced.
pub(super) struct Out {
    path: PathBuf,
    /// Beside it, so that a rename does not cross disks.
    pub(super) staging: PathBuf,
    replaced: PathBuf,
}

impl Out {
    /// Refuses a folder that holds anything, unless it is an exported model and nothing else, and `force` is given.
    pub(super) fn new(path: &Path, force: bool) -> Result<Self, Error> {
        let wrong = |reason: String| Err(Error::Out { folder: path.to_owned(), reason });
        let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            return wrong("it has no name of its own; name the folder to be made".to_owned());
        };
        match found_in(path)? {
            Some(found) if !force => {
                return wrong(format!(
                    "it holds {found}; name another folder, or replace the exported model in it with --force"
                ));
            }
            Some(_) => refuse_others(path)?,
            None => (),
        }
        let beside = |end: &str| path.with_file_name(format!(".{name}.{}.{end}", std::process::id()));
        let out = Self { path: path.to_owned(), staging: beside("tmp"), replaced: beside("old") };
        if out.staging.exists() {
            // A dead process had this one's number and left its folder.
            fs::remove_dir_all(&out.staging).map_err(Error::io("remove", &out.staging))?;
        }
        fs::create_dir_all(&out.staging).map_err(Error::io("make the folder", &out.staging))?;
        Ok(out)
    }

    /// Puts the finished folder in place.
    pub(super) fn publish(&self) -> Result<(), Error> {
        sync(&self.staging)?;
        if !self.path.exists() {
            return Ok(publish(&self.staging, &self.path)?);
        }
        fs::rename(&self.path, &self.replaced).map_err(Error::io("move", &self.path))?;
        if let Err(error) = publish(&self.staging, &self.path) {
            fs::rename(&self.replaced, &self.path).map_err(Error::io("put back", &self.path))?;
            return Err(error.into());
        }
        fs::remove_dir_all(&self.replaced).map_err(Error::io("remove", &self.replaced))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // Gone already where it was published; else nothing of it is to stay, and a leftover hurts nobody.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

/// Something that a folder holds; none where it is empty or not there.
fn found_in(path: &Path) -> Result<Option<String>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let mut names = fs::read_dir(path).map_err(Error::io("list", path))?.filter_map(Result::ok);
    Ok(names.next().map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

fn refuse_others(path: &Path) -> Result<(), Error> {
    let own =
        |name: &str| TOKENIZER.contains(&name) || [CONFIG, WEIGHTS, CARD, GENERATION, PLAN].contains(&name);
    for entry in fs::read_dir(path).map_err(Error::io("list", path))?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !own(&name) {
            let reason =
                format!("--force replaces exported models only, and it also holds {name}; move that away");
            return Err(Error::Out { folder: path.to_owned(), reason });
        }
    }
    Ok(())
}
