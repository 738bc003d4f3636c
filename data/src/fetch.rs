//! Downloading a data set: resumable, bounded, and published only when every byte is the pinned one.
//!
//! A file is fetched into `<name>.part` beside its place and moved there last, so that a file under its own
//! name is always whole. Interrupted downloads go on from the part.

mod lock;
mod part;
mod transfer;

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::Error;
use crate::locate::{Folders, read_pinned};
use crate::manifest::{FileEntry, Manifest};
use lock::Lock;
use transfer::Transfer;

/// How long to wait for a server, and how often to ask again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often a file is tried, the first time included.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles from one to the next.
    pub pause: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a server may stay silent.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            attempts: 5,
            pause: Duration::from_millis(500),
            connect: Duration::from_secs(15),
            silence: Duration::from_secs(30),
        }
    }
}

/// How far a download is, told after each piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file being fetched.
    pub path: &'a str,
    /// Its number among the files to fetch, from 1.
    pub file: usize,
    /// How many files there are to fetch.
    pub files: usize,
    /// Bytes of all files that are here by now.
    pub bytes: u64,
    /// Bytes of all files to fetch.
    pub total: u64,
}

/// What a fetch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Files that were there and right.
    pub kept: usize,
    /// Files that were fetched.
    pub fetched: usize,
    /// The size of the fetched files.
    pub bytes: u64,
}

/// What can go wrong with a download.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchFault {
    /// The server refused, with this HTTP status.
    Status {
        /// The status code.
        code: u16,
    },
    /// The connection failed.
    Connection {
        /// Why.
        reason: String,
    },
    /// The file ended too soon.
    Short {
        /// Bytes received in all.
        found: u64,
        /// Bytes it should have.
        expected: u64,
    },
    /// The server offered more bytes than the file has. What was fetched is deleted.
    TooManyBytes {
        /// Bytes it should have.
        expected: u64,
    },
    /// The server answered a request for the rest of a file with another piece of it.
    WrongRange,
    /// The file has the right size and the wrong content. It is deleted.
    WrongHash {
        /// SHA-256 according to the manifest.
        expected: String,
        /// SHA-256 of what came.
        found: String,
    },
}

/// Fetches into the folder of downloads whatever is missing or wrong there of a data set.
pub fn fetch(
    manifest: &Manifest,
    folders: &Folders,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched, Error> {
    fetch_with(manifest, folders, Patience::default(), progress)
}

/// [`fetch`] with other waiting times.
pub fn fetch_with(
    manifest: &Manifest,
    folders: &Folders,
    patience: Patience,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched, Error> {
    if folders.offline {
        return Err(Error::Offline { set: manifest.name.clone() });
    }
    let cache = &folders.cache;
    fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    let _lock = Lock::take(cache, &manifest.name)?;

    let is_missing = |file: &&FileEntry| read_pinned(&cache.join(&file.path), file).is_err();
    let wanted: Vec<&FileEntry> = manifest.files.iter().filter(is_missing).collect();
    let bytes = wanted.iter().map(|file| file.size).sum();
    // All addresses first: to stop half way for want of one would be a waste.
    let urls = wanted.iter().map(|file| url(manifest, file)).collect::<Result<Vec<_>, _>>()?;

    let transfer = Transfer::new(patience, &manifest.how_to_get);
    let mut before = 0;
    for (index, (file, url)) in wanted.iter().zip(urls).enumerate() {
        let mut tell = |done: u64| {
            let (file_number, files) = (index + 1, wanted.len());
            let bytes_now = before + done;
            progress(Progress { path: &file.path, file: file_number, files, bytes: bytes_now, total: bytes });
        };
        transfer.fetch(url, file, &cache.join(&file.path), &mut tell)?;
        before += file.size;
    }
    Ok(Fetched { kept: manifest.files.len() - wanted.len(), fetched: wanted.len(), bytes })
}

fn url<'m>(manifest: &Manifest, file: &'m FileEntry) -> Result<&'m str, Error> {
    file.url.as_deref().ok_or_else(|| Error::NoUrl {
        set: manifest.name.clone(),
        path: file.path.clone(),
        how_to_get: manifest.how_to_get.clone(),
    })
}

impl fmt::Display for FetchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchFault::Status { code } => write!(f, "the server answered with HTTP status {code}"),
            FetchFault::Connection { reason } => {
                write!(f, "{reason}; check the network, or the proxy settings")
            }
            FetchFault::Short { found, expected } => write!(
                f,
                "it ended after {found} of {expected} bytes; what came is kept, and the next try goes on from there"
            ),
            FetchFault::TooManyBytes { expected } => {
                write!(
                    f,
                    "the server sent more than the {expected} bytes of the pinned file; what came is deleted"
                )
            }
            FetchFault::WrongRange => {
                f.write_str("the server sent another part of the file than was asked for")
            }
            FetchFault::WrongHash { expected, found } => write!(
                f,
                "what came has SHA-256 {found} and should have {expected}; it is deleted. \
                 The file upstream, or something on the way, has changed"
            ),
        }
    }
}
