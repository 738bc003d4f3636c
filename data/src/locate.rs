//! Finding a data set on this machine, and reading its files only as what the manifest says they are.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::digest::sha256_hex;
use crate::manifest::{FileEntry, Manifest};

/// The folders a data set may lie in, from the command line and the environment.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The folder given on the command line; it must exist.
    pub given: Option<PathBuf>,
    /// The folder named by `BHEVAL_DATA`; passed over where it does not exist.
    pub env: Option<PathBuf>,
    /// Where downloads go.
    pub cache: PathBuf,
    /// Whether the network must not be used.
    pub offline: bool,
    /// The password of EWoK archives that are not the pinned ones, where it is not the published one.
    pub ewok_password: Option<Password>,
}

/// A password; its debug form does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// How the bytes of a file relate to the pinned ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// They are the same.
    Pinned,
    /// They differ; whether the content is the same is for its reader to check.
    Other,
}

/// The most bytes of an archive that is not the pinned one.
const PACKED_LIMIT: u64 = 64 << 20;

/// Which of the folders something is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The folder given on the command line.
    Given,
    /// The folder named by `BHEVAL_DATA`.
    Env,
    /// The folder of downloads.
    Cache,
}

/// A place that was searched in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Which place.
    pub place: Place,
    /// The folder.
    pub folder: PathBuf,
    /// Whether the folder exists.
    pub exists: bool,
    /// How many of the set's files are not in it.
    pub missing: usize,
    /// How many files the set has.
    pub files: usize,
    /// The first of the missing ones.
    pub first: String,
}

/// A data set whose files are all there; whether they are the right ones is checked on reading.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// What it consists of.
    pub manifest: Manifest,
    /// The data folder.
    pub folder: PathBuf,
    /// Which of the places that folder is.
    pub place: Place,
}

impl Folders {
    /// Reads `BHEVAL_DATA` and the variables that say where downloads are kept. Call it once, at the start.
    ///
    /// Downloads go to `BHEVAL_CACHE`, else `XDG_CACHE_HOME/bheval`, else the system's usual place: `~/.cache`,
    /// on macOS `~/Library/Caches`, on Windows `LOCALAPPDATA`. `BHEVAL_EWOK_PASSWORD` is the password of your own archive.
    pub fn from_env(given: Option<PathBuf>, offline: bool) -> Result<Folders, Error> {
        let cache = cache()?;
        let ewok_password = match variable("BHEVAL_EWOK_PASSWORD").map(OsString::into_string) {
            Some(Err(_)) => return Err(Error::NotUnicode { variable: "BHEVAL_EWOK_PASSWORD" }),
            password => password.and_then(Result::ok).map(Password),
        };
        Ok(Folders { given, env: variable("BHEVAL_DATA").map(PathBuf::from), cache, offline, ewok_password })
    }

    /// The first place that has all files of a data set: the given folder, then `BHEVAL_DATA`, then the downloads.
    pub fn open(&self, manifest: &Manifest) -> Result<DataSet, Error> {
        if let Some(folder) = self.given.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(Error::NoSuchFolder { folder: folder.clone() });
        }
        let mut looked = Vec::new();
        for (place, folder) in self.places() {
            match look(manifest, place, folder) {
                Some(without) => looked.push(without),
                None => return Ok(DataSet { manifest: manifest.clone(), folder: folder.to_owned(), place }),
            }
        }
        let (set, how_to_get) = (manifest.name.clone(), manifest.how_to_get.clone());
        let fetchable = manifest.files.iter().all(|file| file.url.is_some());
        Err(Error::DataMissing { set, looked, fetchable, how_to_get })
    }

    fn places(&self) -> impl Iterator<Item = (Place, &Path)> {
        let given = self.given.iter().map(|folder| (Place::Given, folder.as_path()));
        let env = self.env.iter().map(|folder| (Place::Env, folder.as_path()));
        given.chain(env).chain([(Place::Cache, self.cache.as_path())])
    }
}

/// What is missing of a data set in one place, or nothing where it is complete.
fn look(manifest: &Manifest, place: Place, folder: &Path) -> Option<Looked> {
    let mut missing = manifest.files.iter().filter(|file| !folder.join(&file.path).is_file());
    let first = missing.next()?.path.clone();
    Some(Looked {
        place,
        folder: folder.to_owned(),
        exists: folder.is_dir(),
        missing: missing.count() + 1,
        files: manifest.files.len(),
        first,
    })
}

/// The folder of downloads and of all else that can be made again, as [`Folders::from_env`] finds it. It need not exist.
///
/// # Errors
/// A user without a home.
pub fn cache() -> Result<PathBuf, Error> {
    cache_folder(variable, std::env::home_dir()).ok_or(Error::NoCacheFolder)
}

/// A variable of the environment, where it says anything.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn cache_folder(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let path = |name| variable(name).map(PathBuf::from);
    // The XDG specification: a relative path is invalid and to be ignored.
    let xdg = || path("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
    let system = || match std::env::consts::OS {
        "windows" => path("LOCALAPPDATA"),
        "macos" => home.map(|home| home.join("Library").join("Caches")),
        _ => home.map(|home| home.join(".cache")),
    };
    path("BHEVAL_CACHE").or_else(|| xdg().or_else(system).map(|folder| folder.join("bheval")))
}

impl DataSet {
    /// Where one of the set's files lies.
    pub fn path(&self, file: &FileEntry) -> PathBuf {
        self.folder.join(&file.path)
    }

    /// The content of one of the set's files, if it is exactly the pinned one.
    pub fn read(&self, file: &FileEntry) -> Result<Vec<u8>, Error> {
        read_pinned(&self.path(file), file)
    }

    /// The content of one of the set's files: the pinned one, or, where the set pins its content too, any. The reader of
    /// the latter must hold its rows against [`Manifest::content_sha256`].
    pub fn read_packed(&self, file: &FileEntry) -> Result<(Vec<u8>, Packing), Error> {
        let path = self.path(file);
        match read_pinned(&path, file) {
            Ok(bytes) => Ok((bytes, Packing::Pinned)),
            Err(Error::WrongSize { .. } | Error::WrongHash { .. })
                if self.manifest.content_sha256.is_some() =>
            {
                let bytes = read_up_to(&path, PACKED_LIMIT)?;
                let (expected, found) = (file.size, bytes.len() as u64);
                let short = found <= PACKED_LIMIT;
                short.then_some((bytes, Packing::Other)).ok_or(Error::WrongSize { path, expected, found })
            }
            Err(error) => Err(error),
        }
    }

    /// Checks every file, and says of each what was found. What is packed otherwise is checked when it is used.
    pub fn verify(&self) -> Vec<(String, Result<Packing, Error>)> {
        let check =
            |file: &FileEntry| (file.path.clone(), self.read_packed(file).map(|(_, packing)| packing));
        self.manifest.files.iter().map(check).collect()
    }
}

/// Reads a file that must have a pinned size and checksum; the size is checked first, so that a huge file in
/// its place costs nothing.
pub(crate) fn read_pinned(path: &Path, pinned: &FileEntry) -> Result<Vec<u8>, Error> {
    let wrong_size = |found| Error::WrongSize { path: path.to_owned(), expected: pinned.size, found };
    let found = fs::metadata(path).map_err(Error::io("read", path))?.len();
    if found != pinned.size {
        return Err(wrong_size(found));
    }
    let bytes = read_up_to(path, pinned.size)?;
    if bytes.len() as u64 != pinned.size {
        return Err(wrong_size(bytes.len() as u64));
    }
    let found = sha256_hex(&bytes);
    if found == pinned.sha256 {
        return Ok(bytes);
    }
    Err(Error::WrongHash { path: path.to_owned(), expected: pinned.sha256.clone(), found })
}

/// At most one byte more than `size`, should the file grow while it is read.
fn read_up_to(path: &Path, size: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Given => "the folder given with --data",
            Place::Env => "BHEVAL_DATA",
            Place::Cache => "the folder of downloads",
        })
    }
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.folder.display(), self.place)?;
        if !self.exists {
            return f.write_str("no such folder");
        }
        write!(f, "{} of {} files missing, the first {}", self.missing, self.files, self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(variables: &[(&str, &str)], home: Option<&str>) -> Option<PathBuf> {
        let lookup = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        cache_folder(lookup, home.map(PathBuf::from))
    }

    #[test]
    fn the_cache_is_the_first_that_is_named() {
        let all = [("BHEVAL_CACHE", "/b"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(cache(&all, Some("/home/me")), Some("/b".into()));
        assert_eq!(cache(&all[1..], Some("/home/me")), Some("/x/bheval".into()));
        assert_eq!(cache(&[], None), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn without_a_variable_the_cache_is_under_home() {
        let expected = Some("/home/me/.cache/bheval".into());
        assert_eq!(cache(&[], Some("/home/me")), expected);
        assert_eq!(cache(&[("XDG_CACHE_HOME", "relative")], Some("/home/me")), expected);
    }
}
