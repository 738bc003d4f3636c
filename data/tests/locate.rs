//! Where a data set is looked for, and what is said when it is not there or not itself.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use bheval_data::Error;
use bheval_data::locate::{Folders, Packing, Password, Place};
use bheval_data::manifest::{self, Manifest};
use proptest::prelude::*;
use tempfile::TempDir;

// `printf one | sha256sum`, `printf two | sha256sum`
const TEXT: &str = r#"{
    "name": "set", "title": "A set", "revision": "1", "licence": "none", "source": "here",
    "how_to_get": "Ask for it.",
    "files": [
        {"path": "a/1.txt", "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", "size": 3},
        {"path": "a/2.txt", "sha256": "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3", "size": 3}
    ]
}"#;

fn manifest() -> Manifest {
    Manifest::parse(TEXT).unwrap()
}

fn put(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn put_all(folder: &Path) {
    put(folder, "a/1.txt", "one");
    put(folder, "a/2.txt", "two");
}

/// Three folders that exist, and the settings that name them.
fn scene() -> (TempDir, Folders) {
    let root = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        fs::create_dir(root.path().join(name)).unwrap();
        root.path().join(name)
    };
    let folders = Folders {
        given: Some(made("given")),
        env: Some(made("env")),
        cache: made("cache"),
        offline: false,
        ewok_password: None,
    };
    (root, folders)
}

#[test]
fn the_first_complete_place_wins() {
    let (_root, folders) = scene();
    put_all(&folders.cache);
    assert_eq!(folders.open(&manifest()).unwrap().place, Place::Cache);
    put_all(folders.env.as_ref().unwrap());
    assert_eq!(folders.open(&manifest()).unwrap().place, Place::Env);
    put(folders.given.as_ref().unwrap(), "a/1.txt", "one");
    assert_eq!(folders.open(&manifest()).unwrap().place, Place::Env, "half a set is not a set");
    put_all(folders.given.as_ref().unwrap());
    assert_eq!(folders.open(&manifest()).unwrap().place, Place::Given);
}

#[test]
fn a_set_found_nowhere_says_where_and_what_to_do() {
    let (root, mut folders) = scene();
    put(folders.given.as_ref().unwrap(), "a/1.txt", "one");
    folders.env = Some(root.path().join("gone"));
    let told = folders.open(&manifest()).unwrap_err().to_string();
    for expected in [
        "given (the folder given with --data): 1 of 2 files missing, the first a/2.txt",
        "gone (BHEVAL_DATA): no such folder",
        "cache (the folder of downloads): 2 of 2 files missing, the first a/1.txt",
        "Put the files under",
        "Ask for it.",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(!told.contains("data fetch"), "nothing serves this set: {told}");
}

#[test]
fn a_set_that_can_be_fetched_says_so() {
    let (_root, folders) = scene();
    let mut set = manifest();
    for file in &mut set.files {
        file.url = Some("https://example.org/file".into());
    }
    let told = folders.open(&set).unwrap_err().to_string();
    assert!(told.contains("Try `bheval data fetch set`"), "{told}");
}

#[test]
fn a_given_folder_must_exist() {
    let (_root, mut folders) = scene();
    put_all(&folders.cache);
    folders.given = Some(PathBuf::from("no/such/folder"));
    let error = folders.open(&manifest()).unwrap_err();
    assert!(matches!(error, Error::NoSuchFolder { .. }) && error.to_string().contains("no/such/folder"));
}

#[test]
fn changed_files_are_refused_with_both_sums() {
    let (_root, folders) = scene();
    put_all(&folders.cache);
    put(&folders.cache, "a/1.txt", "One");
    put(&folders.cache, "a/2.txt", "longer");
    let set = folders.open(&manifest()).unwrap();
    let told: Vec<String> =
        set.verify().into_iter().map(|(_, result)| result.unwrap_err().to_string()).collect();
    assert!(told[0].contains("1.txt has SHA-256 ") && told[0].contains("7692c3ad"), "{}", told[0]);
    assert!(told[1].contains("2.txt has 6 bytes and should have 3"), "{}", told[1]);
}

#[test]
fn a_fingerprint_is_of_names_and_content_alone() {
    let base = manifest();
    assert_eq!(base.bytes(), 6);
    // printf 'set\na/1.txt\t7692...\na/2.txt\t3fc4...\n' | sha256sum, with the full sums
    assert_eq!(base.fingerprint(), "12fa9397e23f2e8ee289f036ffc18250f39705650662976e6a0e5e731dcb2c27");
    let mut same = base.clone();
    same.files.reverse();
    same.title = "Another title".to_owned();
    same.files[0].url = Some("https://example.org".to_owned());
    assert_eq!(same.fingerprint(), base.fingerprint());
    let mut other = base.clone();
    other.files[0].sha256.replace_range(..1, "8");
    assert_ne!(other.fingerprint(), base.fingerprint());
    let mut renamed = base.clone();
    renamed.name = "sets".to_owned();
    assert_ne!(renamed.fingerprint(), base.fingerprint());
}

#[test]
fn a_file_packed_otherwise_is_read_only_where_the_content_is_pinned() {
    let (_root, folders) = scene();
    put_all(&folders.cache);
    put(&folders.cache, "a/2.txt", "longer");
    let mut manifest = manifest();
    let strict = folders.open(&manifest).unwrap();
    assert!(matches!(strict.read_packed(&manifest.files[1]), Err(Error::WrongSize { .. })));
    manifest.content_sha256 = Some("0".repeat(64));
    let open = folders.open(&manifest).unwrap();
    assert_eq!(open.read_packed(&manifest.files[0]).unwrap(), (b"one".to_vec(), Packing::Pinned));
    assert_eq!(open.read_packed(&manifest.files[1]).unwrap(), (b"longer".to_vec(), Packing::Other));
    assert!(open.read(&manifest.files[1]).is_err(), "the strict reading stays strict");
    assert_ne!(manifest.content_fingerprint(), Some(manifest.fingerprint()));
    assert_eq!(open.verify()[1].1.as_ref().unwrap(), &Packing::Other);
}

#[test]
fn a_password_is_never_told() {
    let (_root, mut folders) = scene();
    folders.ewok_password = Some(Password("secret".to_owned()));
    assert!(!format!("{folders:?}").contains("secret"));
}

#[test]
fn unsound_manifests_are_refused() {
    for (from, to, expected) in [
        ("\"title\"", "\"tilte\"", "unknown field `tilte`"),
        ("\"size\": 3}\n", "\"size\": 3, \"x\": 1}\n", "unknown field `x`"),
        ("a/1.txt", "../1.txt", "the path must be relative"),
        ("a/2.txt", "a/1.txt", "listed twice"),
        ("7692", "7G92", "64 lower-case"),
        ("\"size\": 3}\n", "\"size\": 3, \"url\": \"ftp://x\"}\n", "must start with https://"),
        ("\"revision\"", "\"content_sha256\": \"00\", \"revision\"", "64 lower-case"),
        ("\"name\": \"set\"", "\"name\": \"../set\"", "letters, digits"),
    ] {
        let text = TEXT.replace(from, to);
        assert_ne!(text, TEXT, "{from}");
        let told = Manifest::parse(&text).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

/// Found by fuzzing: the sum overflowed when it was asked for.
#[test]
fn sizes_that_add_up_to_more_than_can_be_counted_are_refused() {
    let text = TEXT.replacen("\"size\": 3", "\"size\": 18446744073709551615", 1);
    let told = Manifest::parse(&text).unwrap_err().to_string();
    assert!(told.contains("add up to 2^64"), "{told}");
}

#[test]
fn known_sets_are_found_by_name_and_differ() {
    let mut prints: Vec<String> = manifest::all().iter().map(Manifest::fingerprint).collect();
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), 11);
    assert_eq!(manifest::find("ewok_fast").unwrap().password.as_deref(), Some("BabyLM2025"));
    assert!(manifest::find("EWOK").unwrap_err().to_string().contains("there are: blimp, blimp_filtered"));
}

proptest! {
    #[test]
    fn any_text_is_a_manifest_or_an_error(text: String) {
        let _ = Manifest::parse(&text);
    }
}
