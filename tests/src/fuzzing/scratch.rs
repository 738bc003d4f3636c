//! A folder for each thread that fuzzes: making one for each input would be most of the time.

use std::path::PathBuf;

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder can be made");
}

/// An existing folder of this name, the same in every call on a thread.
pub(super) fn folder(name: &str) -> PathBuf {
    let path = FOLDER.with(|folder| folder.path().join(name));
    std::fs::create_dir_all(&path).expect("the temporary folder can be written");
    path
}
