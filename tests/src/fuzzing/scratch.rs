//! A folder for each thread that fuzzes: making one for each input would be most of the time.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A file system in memory, where there is one: on a disk, writing a file anew waits for the disk.
const MEMORY: &str = "/dev/shm";

thread_local! {
    static FOLDER: TempDir = made();
}

fn made() -> TempDir {
    let in_memory = TempDir::new_in(Path::new(MEMORY));
    in_memory.or_else(|_| TempDir::new()).expect("a temporary folder can be made")
}

/// An existing folder of this name, the same in every call on a thread.
pub(super) fn folder(name: &str) -> PathBuf {
    let path = FOLDER.with(|folder| folder.path().join(name));
    std::fs::create_dir_all(&path).expect("the temporary folder can be written");
    path
}
