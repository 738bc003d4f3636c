//! One process at a time writes the parts of a data set.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// A lock of the operating system on a file, which ends with the process however it ends. The file stays: to
/// remove it would let a third process lock another file of the same name.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a data set, or says who has it.
    pub(crate) fn take(folder: &Path, set: &str) -> Result<Lock, Error> {
        let path = folder.join(format!(".{set}.lock"));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(Error::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Lock::signed(file, &path),
            Err(TryLockError::WouldBlock) => Err(held(file, path)),
            Err(TryLockError::Error(cause)) => Err(Error::io("lock", &path)(cause)),
        }
    }

    /// Writes the process number into the file, for the message of whoever finds it locked.
    fn signed(mut file: File, path: &Path) -> Result<Lock, Error> {
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(Error::io("write", path))?;
        Ok(Lock { _file: file })
    }
}

fn held(file: File, lock: PathBuf) -> Error {
    let mut text = String::new();
    // Not readable on Windows while it is locked: the number is only for the message.
    let _ = file.take(20).read_to_string(&mut text);
    Error::Locked { lock, holder: text.trim().parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_has_it_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path(), "blimp").unwrap();
        let refused = Lock::take(folder.path(), "blimp").err().unwrap();
        assert!(Lock::take(folder.path(), "other").is_ok());
        if cfg!(unix) {
            let told = refused.to_string();
            assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
        }
        drop(first);
        assert!(Lock::take(folder.path(), "blimp").is_ok(), "the file left behind does not block");
    }
}
