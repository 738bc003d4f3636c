//! The unfinished file of a download.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::digest::sha256_file;
use crate::manifest::FileEntry;
use crate::{Error, atomic};

/// What has come so far of a file, in `<name>.part` beside its place.
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Part {
    /// Opens the part of a file where there is one, else starts one.
    pub(crate) fn of(target: &Path) -> Result<Part, Error> {
        let mut name = target.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        let file = opened.map_err(Error::io("write", &path))?;
        let length = file.metadata().map_err(Error::io("read", &path))?.len();
        Ok(Part { file, path, length })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Starts over.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        if self.length > 0 {
            self.file.set_len(0).map_err(Error::io("write", &self.path))?;
            self.length = 0;
        }
        Ok(())
    }

    /// The checksum of a part of full size, or none where it is the pinned one.
    pub(crate) fn wrong_hash(&self, pinned: &FileEntry) -> Result<Option<String>, Error> {
        let found = sha256_file(&self.path)?;
        Ok((found != pinned.sha256).then_some(found))
    }

    /// Puts the finished file in its place.
    pub(crate) fn publish(self, target: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        // Windows renames no open file.
        drop(self.file);
        atomic::publish(&self.path, target)
    }

    pub(crate) fn delete(self) -> Result<(), Error> {
        drop(self.file);
        fs::remove_file(&self.path).map_err(Error::io("delete", &self.path))
    }
}
