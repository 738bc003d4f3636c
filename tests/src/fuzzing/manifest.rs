//! Manifests: sound, or refused.

use bheval_data::manifest::Manifest;

/// Reads the bytes as a manifest and asks it everything.
///
/// # Panics
/// Where an accepted manifest has a path that leads elsewhere.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!manifest.files.is_empty() && !manifest.name.is_empty());
    assert!(manifest.files.iter().all(|file| file.size <= manifest.bytes()));
    for path in manifest.files.iter().map(|file| &file.path) {
        assert!(!path.contains(['\\', '\0']) && path.split('/').all(|part| part != ".."), "{path:?}");
        assert!(std::path::Path::new(path).is_relative(), "{path:?}");
    }
    let mut turned = manifest.clone();
    turned.files.reverse();
    assert_eq!(manifest.fingerprint(), turned.fingerprint());
}
