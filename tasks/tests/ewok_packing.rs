//! EWoK archives that were packed by someone else: the real items, repacked in memory.
//!
//! Nothing here may print an item or write one as plain text: archives are encrypted before they are written, and items are
//! only compared inside `assert!`, which shows none.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Write};
use std::path::PathBuf;

use bheval_data::archive::Archive;
use bheval_data::locate::{Folders, Password};
use bheval_data::manifest;
use bheval_tasks::{Error, Loaded, select};
use serde_json::{Map, Value};
use zip::unstable::write::FileOptionsExt;
use zip::write::{SimpleFileOptions, ZipWriter};

const SETS: [&str; 3] = ["ewok", "ewok_filtered", "ewok_fast"];

fn data_folder() -> PathBuf {
    let folder = std::env::var_os("BHEVAL_DATA").map(PathBuf::from);
    folder.expect("BHEVAL_DATA is not set: it must name the data folder (see .cargo/config.toml)")
}

/// Domains and their rows.
type Items = Vec<(String, Vec<Map<String, Value>>)>;

fn items(set: &str) -> Items {
    let manifest = manifest::find(set).unwrap();
    let bytes = fs::read(data_folder().join(&manifest.files[0].path)).unwrap();
    let mut archive = Archive::open("x.zip", bytes, manifest.password.as_deref().unwrap()).unwrap();
    let entries = archive.entries().into_iter().filter(|entry| entry.ends_with(".jsonl"));
    let read = |entry: String| {
        let text = String::from_utf8(archive.read(&entry).unwrap()).ok().unwrap();
        let rows = text.lines().map(|line| serde_json::from_str(line).ok().unwrap()).collect();
        (entry.rsplit('/').next().unwrap().to_owned(), rows)
    };
    entries.map(read).collect()
}

/// An encrypted archive with all files in a folder.
fn packed(items: &Items, folder: &str, password: &str) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (file, rows) in items {
        let options = SimpleFileOptions::default().with_deprecated_encryption(password.as_bytes()).unwrap();
        zip.start_file(format!("{folder}{file}"), options).unwrap();
        for row in rows {
            writeln!(zip, "{}", Value::Object(row.clone())).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

/// Loads a set from an archive that lies in a data folder of its own.
fn load(set: &str, archive: &[u8], password: Option<&str>) -> Result<Loaded, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(&manifest::find(set).unwrap().files[0].path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, archive).unwrap();
    load_from(set, folder.path().to_owned(), password)
}

fn load_from(set: &str, folder: PathBuf, password: Option<&str>) -> Result<Loaded, Error> {
    let ewok_password = password.map(|password| Password(password.to_owned()));
    let folders =
        Folders { given: Some(folder), env: None, cache: "nowhere".into(), offline: true, ewok_password };
    select(set).unwrap()[0].task.load(&folders)
}

fn reason(result: Result<Loaded, Error>) -> String {
    result.map(drop).unwrap_err().to_string()
}

#[test]
fn another_packing_of_the_same_items_is_the_same_set() {
    for set in SETS {
        let pinned = load_from(set, data_folder(), Some("of no use for the pinned archive")).unwrap();
        let mut other = items(set);
        let same_order = load(set, &packed(&other, "", "mine"), Some("mine")).unwrap();
        other.reverse();
        for (_, rows) in &mut other {
            rows.reverse();
            rows.iter_mut().for_each(|row| drop(row.insert("Extra".to_owned(), Value::from(1))));
        }
        let own_password = manifest::find(set).unwrap().password.as_deref().unwrap();
        let reversed = load(set, &packed(&other, "a/b/", own_password), None).unwrap();

        assert!(same_order.items == reversed.items, "{set}: items depend on their order in the archive");
        assert_eq!(same_order.fingerprint, reversed.fingerprint);
        assert_ne!(same_order.fingerprint, pinned.fingerprint, "ids mean other rows");
        assert_eq!(pinned.fingerprint, manifest::find(set).unwrap().fingerprint());
        assert_eq!(same_order.subsets, pinned.subsets);
        assert!(ids(&same_order) == ids(&pinned), "{set}");
        assert!(contents(&same_order) == contents(&pinned), "{set}: items differ");
    }
}

fn ids(loaded: &Loaded) -> BTreeSet<&str> {
    loaded.items.iter().map(|item| item.id.as_str()).collect()
}

fn contents(loaded: &Loaded) -> Vec<(usize, Vec<[&str; 2]>)> {
    let mut all: Vec<_> = loaded
        .items
        .iter()
        .map(|item| {
            (
                item.subset,
                item.queries.iter().map(|q| [q.context.as_str(), q.continuation.as_str()]).collect(),
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn other_items_are_refused_with_what_was_found() {
    let pinned = manifest::find("ewok_fast").unwrap().content_sha256.clone().unwrap();
    let mut changed = items("ewok_fast");
    changed[3].1[7].insert("Target1".to_owned(), Value::from("Something else."));
    let told = reason(load("ewok_fast", &packed(&changed, "x/", "BabyLM2025"), None));
    assert!(told.contains(&pinned) && told.contains("11 domains with 1100 items"), "refused otherwise");

    let mut fewer = items("ewok_fast");
    fewer.pop();
    let told = reason(load("ewok_fast", &packed(&fewer, "x/", "BabyLM2025"), None));
    assert!(told.contains(&pinned) && told.contains("10 domains with 1000 items"), "refused otherwise");

    let mut swapped = items("ewok_fast");
    let domain = swapped[0].0.clone();
    swapped[0].0 = std::mem::replace(&mut swapped[1].0, domain);
    let told = reason(load("ewok_fast", &packed(&swapped, "x/", "BabyLM2025"), None));
    assert!(told.contains(&pinned), "refused otherwise");
}

#[test]
fn a_wrong_password_and_a_domain_given_twice_are_told() {
    let archive = packed(&items("ewok_fast"), "x/", "mine");
    for password in [None, Some("yours")] {
        assert!(reason(load("ewok_fast", &archive, password)).contains("wrong password"));
    }
    let mut twice = items("ewok_fast");
    let again = (format!("again/{}", twice[0].0), twice[0].1.clone());
    twice.push(again);
    let told = reason(load("ewok_fast", &packed(&twice, "x/", "mine"), Some("mine")));
    assert!(told.contains("two files of the archive are called"), "refused otherwise");
}
