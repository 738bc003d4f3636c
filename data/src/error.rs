//! What can go wrong with data, told to the person who has to put it right.
//!
//! No variant holds text of a protected data set: what is stored here may be logged.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveFault;
use crate::fetch::FetchFault;
use crate::jsonl::RowFault;
use crate::locate::Looked;
use crate::manifest;

/// An error of this crate: what happened, where, and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A manifest is not of the form this program reads.
    Manifest {
        /// The manifest's name, or the start of its text where it has none.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No data set has this name.
    UnknownSet {
        /// The name asked for.
        name: String,
    },
    /// There is no home folder to keep downloads in, and none was named.
    NoCacheFolder,
    /// An environment variable that must be text is not.
    NotUnicode {
        /// Its name.
        variable: &'static str,
    },
    /// The data folder given on the command line does not exist.
    NoSuchFolder {
        /// The folder as given.
        folder: PathBuf,
    },
    /// A data set is in none of the places it may be in.
    DataMissing {
        /// The data set's name.
        set: String,
        /// Each place, in the order they were tried.
        looked: Vec<Looked>,
        /// Whether every file of it has an address to be fetched from.
        fetchable: bool,
        /// How to come by the files otherwise, from the manifest.
        how_to_get: String,
    },
    /// The operating system refused something.
    Io {
        /// What was tried, as a verb: "read", "write".
        action: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// A file is not of its pinned size.
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Bytes according to the manifest.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A file has its pinned size but not its pinned content.
    WrongHash {
        /// The file.
        path: PathBuf,
        /// SHA-256 according to the manifest.
        expected: String,
        /// SHA-256 of what is there.
        found: String,
    },
    /// A download was asked for together with offline mode.
    Offline {
        /// The data set's name.
        set: String,
    },
    /// A file has no address to be fetched from.
    NoUrl {
        /// The data set's name.
        set: String,
        /// The file, within a data folder.
        path: String,
        /// What to do instead, from the manifest.
        how_to_get: String,
    },
    /// Another process is fetching the same data set.
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// The process that wrote it, where that could be read.
        holder: Option<u32>,
    },
    /// A download failed.
    Fetch {
        /// The address.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong the last time.
        fault: FetchFault,
        /// How to come by the files otherwise, from the manifest.
        how_to_get: String,
    },
    /// A row of a JSON Lines file cannot be read.
    Row {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// A password archive cannot be read.
    Archive {
        /// The archive.
        file: String,
        /// What is wrong with it.
        fault: ArchiveFault,
    },
}

impl Error {
    /// Wraps a system error: `.map_err(Error::io("read", path))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |cause| Error::Io { action, path, cause }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Manifest { name, reason } => write!(f, "manifest {name}: {reason}"),
            Error::UnknownSet { name } => {
                write!(f, "no data set is called {name:?}; there are: {}", manifest::names().join(", "))
            }
            Error::NotUnicode { variable } => write!(f, "{variable} is not UTF-8; set it to plain text"),
            Error::NoCacheFolder => f.write_str(
                "no home folder is known to keep downloaded data in; set BHEVAL_CACHE to a folder for it",
            ),
            Error::NoSuchFolder { folder } => write!(
                f,
                "the data folder {} does not exist; give --data an existing folder, or leave it out",
                folder.display()
            ),
            Error::DataMissing { set, looked, fetchable, how_to_get } => {
                fmt_missing(f, (set, *fetchable), looked, how_to_get)
            }
            Error::Io { action, path, cause } => {
                write!(f, "could not {action} {}: {cause}{}", path.display(), advice(cause.kind()))
            }
            Error::WrongSize { path, expected, found } => {
                write!(f, "{} has {found} bytes and should have {expected}; {REPLACE}", path.display())
            }
            Error::WrongHash { path, expected, found } => {
                write!(f, "{} has SHA-256 {found} and should have {expected}; {REPLACE}", path.display())
            }
            Error::Offline { set } => write!(
                f,
                "{set} is not fetched in offline mode; leave out --offline, or copy the files into the data folder"
            ),
            Error::NoUrl { set, path, how_to_get } => {
                write!(f, "{set}: {path} has no address to fetch it from. {how_to_get}")
            }
            Error::Locked { lock, holder } => fmt_locked(f, lock, *holder),
            Error::Fetch { url, attempts, fault, how_to_get } => {
                write!(f, "fetching {url} (attempt {attempts}): {fault}. Otherwise: {how_to_get}")
            }
            Error::Row { file, line, fault } => write!(f, "{file}, line {line}{fault}"),
            Error::Archive { file, fault } => write!(f, "{file}: {fault}"),
        }
    }
}

const REPLACE: &str =
    "it is not the pinned version, or it was changed or cut short: delete it and fetch or copy it again";

fn fmt_missing(
    f: &mut fmt::Formatter<'_>,
    (set, fetchable): (&str, bool),
    looked: &[Looked],
    how_to_get: &str,
) -> fmt::Result {
    writeln!(f, "the data set {set} was not found. Looked in:")?;
    for place in looked {
        writeln!(f, "  {place}")?;
    }
    let home = looked.first().map_or(Path::new("a data folder"), |place| place.folder.as_path());
    let fetch = if fetchable { format!("Try `bheval data fetch {set}`, or put") } else { "Put".to_owned() };
    write!(f, "{fetch} the files under {}. {how_to_get}", home.display())
}

fn fmt_locked(f: &mut fmt::Formatter<'_>, lock: &Path, holder: Option<u32>) -> fmt::Result {
    let who = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    write!(
        f,
        "{who} is fetching this data set (lock {}); wait for it or end it. The lock goes with the process: \
         a lock file left behind by a dead one does not block, so there is nothing to delete",
        lock.display()
    )
}

/// What to try, for the system errors a user can do something about.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the disk is full: free some space, or name a folder on another disk (BHEVAL_CACHE for downloads)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the disk is mounted read-only: name a folder on another disk (BHEVAL_CACHE for downloads)"
        }
        io::ErrorKind::PermissionDenied => {
            "; you may not do that there: check the folder's permissions, or name another (BHEVAL_CACHE for downloads)"
        }
        io::ErrorKind::NotADirectory => "; a file is in the way of a folder of that name: move it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_text(kind: io::ErrorKind) -> String {
        Error::io("write", Path::new("a/b"))(io::Error::from(kind)).to_string()
    }

    #[test]
    fn system_errors_name_the_path_and_a_remedy() {
        for (kind, remedy) in [
            (io::ErrorKind::StorageFull, "free some space"),
            (io::ErrorKind::ReadOnlyFilesystem, "another disk"),
            (io::ErrorKind::PermissionDenied, "permissions"),
        ] {
            let text = io_text(kind);
            assert!(text.starts_with("could not write a/b: ") && text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn an_unknown_set_lists_the_known_ones() {
        let text = Error::UnknownSet { name: "blump".into() }.to_string();
        assert!(text.contains("\"blump\"") && text.contains("blimp_filtered, "), "{text}");
    }

    #[test]
    fn errors_fit_in_a_result() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }
}
