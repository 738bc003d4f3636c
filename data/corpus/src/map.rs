//! Files of tokens, mapped: the operating system reads what is asked for and keeps what is used.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::Error;

/// Maps a file that must have exactly `bytes` bytes.
///
/// # Errors
/// A file that can't be opened or mapped, or of another size.
pub(crate) fn map(path: &Path, bytes: u64) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let found = file.metadata().map_err(Error::io("read", path))?.len();
    if found != bytes {
        return Err(Error::corpus(
            path,
            format!(
                "it has {found} bytes and corpus.json says {bytes}; copy the corpus again, or build it anew"
            ),
        ));
    }
    // SAFETY: the mapping is read-only, and read as bytes, for which every value is valid. A file that another process cuts
    // short meanwhile would end this one with a signal; corpora are written beside and renamed, never changed in place.
    unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))
}
