//! What can be wrong with an archive, and what to do about it.

use std::fmt;

use super::RATIO_LIMIT;

/// What can be wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// It is not a ZIP archive, or its directory is damaged.
    NotAnArchive,
    /// It has more entries than allowed.
    TooManyEntries {
        /// How many it has.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Two entries have the same name.
    DuplicateNames,
    /// A name is absolute, leads upwards, or means another thing on another system.
    UnsafeName {
        /// The name, shortened.
        name: String,
    },
    /// What is in it is more than allowed.
    TooLarge {
        /// The most bytes allowed.
        limit: u64,
    },
    /// An entry inflates to far more than data does.
    Bomb {
        /// The entry.
        entry: String,
    },
    /// There is no such entry.
    NoSuchEntry {
        /// The name asked for.
        entry: String,
    },
    /// An encrypted entry does not come out right. ZipCrypto cannot tell which of the two it is: its check is
    /// one byte, which one wrong password in 256 passes.
    WrongPassword {
        /// The entry.
        entry: String,
    },
    /// An entry without encryption does not come out right.
    Damaged {
        /// The entry.
        entry: String,
    },
    /// An entry is packed in a way that is not read here.
    Unsupported {
        /// The entry.
        entry: String,
    },
}

impl fmt::Display for ArchiveFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "fetch or copy it again";
        match self {
            ArchiveFault::NotAnArchive => write!(f, "not a ZIP archive, or damaged or cut short; {AGAIN}"),
            ArchiveFault::TooManyEntries { found, limit } => {
                write!(f, "has {found} entries, more than the {limit} an archive may have")
            }
            ArchiveFault::DuplicateNames => write!(f, "has two entries of the same name; {AGAIN}"),
            ArchiveFault::UnsafeName { name } => {
                write!(f, "has an entry {name:?}, which leads out of the archive; do not use this archive")
            }
            ArchiveFault::TooLarge { limit } => {
                write!(f, "unpacks to more than the {limit} bytes an archive may hold")
            }
            ArchiveFault::Bomb { entry } => {
                write!(f, "{entry:?} unpacks to over {RATIO_LIMIT} times its size; do not use this archive")
            }
            ArchiveFault::NoSuchEntry { entry } => {
                write!(f, "has no entry {entry:?}; is it the right archive?")
            }
            ArchiveFault::WrongPassword { entry } => write!(
                f,
                "wrong password, or the archive is damaged (at {entry:?}); check the password, or {AGAIN}"
            ),
            ArchiveFault::Damaged { entry } => write!(f, "{entry:?} is damaged; {AGAIN}"),
            ArchiveFault::Unsupported { entry } => write!(
                f,
                "{entry:?} is packed in a way that is not supported; repack it with deflate and ZipCrypto"
            ),
        }
    }
}
