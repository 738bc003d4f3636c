//! The folder of a result: whole, or not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bheval_data::atomic::publish;

use crate::Error;

/// Where a folder will lie, found free or free to be replaced.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    /// Beside it, so that a rename does not cross disks.
    staging: PathBuf,
    replaced: PathBuf,
}

impl Target {
    /// Refuses a folder that holds anything, unless `force` is given and all of it is what this program writes: files that
    /// `own` knows, `mark` among them.
    ///
    /// # Errors
    /// A path without a name, a file, a folder with something in it.
    pub fn new(path: &Path, force: bool, mark: &str, own: impl Fn(&str) -> bool) -> Result<Self, Error> {
        let taken = |reason: String| Error::Taken { path: path.to_owned(), reason };
        let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            return Err(taken("it has no name of its own; name the folder to be made".into()));
        };
        let found = contents(path)?;
        if !found.is_empty() && !force {
            return Err(taken(format!(
                "it is not empty (it holds {}); choose another folder, or replace what is in it with --force",
                found[0]
            )));
        }
        if let Some(other) = found.iter().find(|name| !own(name)) {
            return Err(taken(format!(
                "--force replaces its own kind only, and {other} is something else; choose another folder"
            )));
        }
        if !found.is_empty() && !found.iter().any(|name| name == mark) {
            return Err(taken(format!("--force replaces its own kind only, and there is no {mark}")));
        }
        let beside = |end: &str| path.with_file_name(format!(".{name}.{}.{end}", std::process::id()));
        Ok(Self { path: path.to_owned(), staging: beside("tmp"), replaced: beside("old") })
    }

    /// Calls `fill` with an empty folder beside, syncs what it wrote, and renames that into place. Whatever fails, nothing
    /// is left behind.
    ///
    /// # Errors
    /// What `fill` says, or the system.
    pub fn publish<T>(&self, fill: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
        let done = self.prepare().and_then(|()| fill(&self.staging)).and_then(|result| {
            sync_all(&self.staging)?;
            self.swap()?;
            Ok(result)
        });
        if done.is_err() {
            // The first error is the one to report; a leftover that cannot be removed adds nothing to it.
            let _ = fs::remove_dir_all(&self.staging);
        }
        done
    }

    fn prepare(&self) -> Result<(), Error> {
        let staging = &self.staging;
        if staging.exists() {
            // A dead process had this one's number and left its folder.
            fs::remove_dir_all(staging).map_err(Error::io("remove", staging))?;
        }
        fs::create_dir_all(staging).map_err(Error::io("make", staging))
    }

    fn swap(&self) -> Result<(), Error> {
        let Self { path, staging, replaced } = self;
        if !path.exists() {
            return Ok(publish(staging, path)?);
        }
        fs::rename(path, replaced).map_err(Error::io("move aside", path))?;
        if let Err(error) = publish(staging, path) {
            fs::rename(replaced, path).map_err(Error::io("move back", replaced))?;
            return Err(error.into());
        }
        fs::remove_dir_all(replaced).map_err(Error::io("remove", replaced))
    }
}

/// Names in a folder, sorted; none where there is no such folder.
fn contents(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            let reason = "it is a file; name a folder to be made".to_owned();
            return Err(Error::Taken { path: path.to_owned(), reason });
        }
        Err(e) => return Err(Error::io("read the folder", path)(e)),
    };
    let name = |e: io::Result<fs::DirEntry>| Ok(e?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> =
        entries.map(name).collect::<io::Result<_>>().map_err(Error::io("read the folder", path))?;
    names.sort();
    Ok(names)
}

/// Brings every file of a folder to the disk.
fn sync_all(folder: &Path) -> Result<(), Error> {
    let failed = || Error::io("sync", folder);
    for entry in fs::read_dir(folder).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &Path, force: bool) -> Result<Target, Error> {
        Target::new(path, force, "mark", |name| ["mark", "more"].contains(&name))
    }

    fn fill(text: &str) -> impl FnOnce(&Path) -> Result<(), Error> {
        move |folder| fs::write(folder.join("mark"), text).map_err(Error::io("write", folder))
    }

    #[test]
    fn a_folder_is_made_and_replaced_and_nothing_is_left_beside() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        target(&path, false).unwrap().publish(fill("one")).unwrap();
        let told = target(&path, false).unwrap_err().to_string();
        assert!(told.contains("mark") && told.contains("--force"), "{told}");
        target(&path, true).unwrap().publish(fill("two")).unwrap();
        assert_eq!(fs::read_to_string(path.join("mark")).unwrap(), "two");
        assert_eq!(contents(root.path()).unwrap(), ["a"]);
    }

    #[test]
    fn a_failure_keeps_what_was_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        target(&path, false).unwrap().publish(fill("one")).unwrap();
        let failed = |folder: &Path| -> Result<(), Error> {
            fs::write(folder.join("mark"), "half").unwrap();
            Err(Error::plan("no"))
        };
        assert!(target(&path, true).unwrap().publish(failed).is_err());
        assert_eq!(fs::read_to_string(path.join("mark")).unwrap(), "one");
        assert_eq!(contents(root.path()).unwrap(), ["a"]);
    }

    #[test]
    fn what_is_not_ours_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        fs::create_dir(&path).unwrap();
        assert!(target(&path, false).is_ok(), "an empty folder is free");
        fs::write(path.join("more"), "").unwrap();
        assert!(target(&path, true).unwrap_err().to_string().contains("there is no mark"));
        fs::write(path.join("notes"), "").unwrap();
        assert!(target(&path, true).unwrap_err().to_string().contains("notes is something else"));
        assert!(target(&path.join("notes"), true).unwrap_err().to_string().contains("it is a file"));
        assert!(target(Path::new("/"), true).unwrap_err().to_string().contains("no name"));
    }
}
