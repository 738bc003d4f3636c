//! Files that are either whole or not there: written beside, synced, then renamed into place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Replaces the file at `path` by `bytes`, so that a reader sees the old content or the new, never a part.
///
/// The folder must exist. When it fails, nothing is left beside the file.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut beside = name_beside(path);
    // A dead process may have had this one's number and left its file: take another name.
    while beside.exists() {
        beside = name_beside(path);
    }
    let done =
        write_synced(&beside, bytes).map_err(Error::io("write", path)).and_then(|()| publish(&beside, path));
    if done.is_err() {
        // The first error is the one to report; a leftover that cannot be removed adds nothing to it.
        let _ = fs::remove_file(&beside);
    }
    done
}

/// Moves a finished and synced file, or a folder of such, to its name, and makes the move last through a power cut.
pub fn publish(finished: &Path, path: &Path) -> Result<(), Error> {
    fs::rename(finished, path).map_err(Error::io("put in place", path))?;
    sync_folder(folder_of(path)).map_err(Error::io("sync the folder of", path))
}

/// A name in the same folder (a rename must not cross disks) that no other writer uses.
fn name_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{count}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and user-space file systems cannot sync a folder; the rename itself has happened.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

/// Windows has no way to sync a folder, and its rename is journalled.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn writes_and_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        for text in ["one", "the second, longer"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["summary.json"]);
    }

    #[test]
    fn a_dead_process_of_the_same_number_is_not_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        for count in 0..1000 {
            let left = folder.path().join(format!(".summary.json.{}-{count}.tmp", std::process::id()));
            fs::write(left, "half of it").unwrap();
        }
        write_atomic(&path, b"whole").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    }

    #[test]
    fn a_failed_write_keeps_the_target_and_cleans_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        let text = write_atomic(&path, b"x").unwrap_err().to_string();
        assert!(text.contains("taken"), "{text}");
        assert_eq!(names(folder.path()), ["taken"]);
        assert!(path.join("inside").is_dir());
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").join("file");
        let text = write_atomic(&path, b"x").unwrap_err().to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
    }

    #[test]
    fn writers_at_once_never_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shared");
        std::thread::scope(|scope| {
            for letter in [b'a', b'b', b'c', b'd'] {
                let path = &path;
                scope.spawn(move || (0..25).for_each(|_| write_atomic(path, &[letter; 9_000]).unwrap()));
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 9_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(names(folder.path()), ["shared"]);
    }
}
