//! Archives: whatever the bytes, entries within the limits or an error.

use bheval_data::archive::{Archive, ENTRY_LIMIT, SIZE_LIMIT};

/// Opens the bytes as an archive with two passwords, and reads every entry twice.
///
/// # Panics
/// Where a limit is passed or a name leads elsewhere.
pub fn archive(bytes: &[u8]) {
    for password in ["ewok", ""] {
        let Ok(mut archive) = Archive::open("x.zip", bytes.to_vec(), password) else { continue };
        let names = archive.entries();
        assert!(names.len() <= ENTRY_LIMIT);
        let mut total = 0;
        for name in &names {
            assert!(!name.starts_with('/') && !name.contains(['\\', '\0']), "{name:?}");
            assert!(name.split('/').all(|part| part != ".."), "{name:?}");
            let first = archive.read(name).map_err(|error| error.to_string());
            total += first.as_ref().map_or(0, Vec::len) as u64;
            assert!(total <= SIZE_LIMIT, "{total} bytes came out");
            let again = archive.read(name).map_err(|error| error.to_string());
            assert!(first == again, "an entry reads differently the second time");
        }
    }
}
