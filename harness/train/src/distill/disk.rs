//! How much room a disk has.

use std::path::Path;

/// Bytes that may be written to the disk of a folder, or none where the system does not say.
#[cfg(unix)]
pub(super) fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// Elsewhere a full disk shows when it is met; what was written until then is kept.
#[cfg(not(unix))]
pub(super) fn free(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_some_room_and_a_missing_one_does_not_say() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!cfg!(unix) || free(folder.path()).is_some_and(|bytes| bytes > 0));
        assert_eq!(free(&folder.path().join("none")), None);
    }
}
