//! The real data sets, held against what their READMEs and SHA256SUMS say.
//!
//! Nothing here may print an item: EWoK's terms forbid it, and a failed test prints what it compares. So only
//! counts, names and error messages are compared.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bheval_data::archive::{Archive, ArchiveFault};
use bheval_data::jsonl::{Privacy, rows};
use bheval_data::locate::{DataSet, Folders, Packing, Place};
use bheval_data::manifest::{self, Manifest};
use bheval_data::{Error, digest};
use proptest::prelude::*;
use serde::de::IgnoredAny;

/// The data folder. Without it these tests fail: a check that was skipped is not a check that passed.
fn data_folder() -> PathBuf {
    let folder = std::env::var_os("BHEVAL_DATA").map(PathBuf::from);
    let folder =
        folder.expect("BHEVAL_DATA is not set: it must name the data folder (see .cargo/config.toml)");
    assert!(folder.is_dir(), "BHEVAL_DATA names {}, which is not a folder", folder.display());
    folder
}

fn set(name: &str) -> DataSet {
    let nowhere = PathBuf::from("no such folder");
    let folders =
        Folders { given: None, env: Some(data_folder()), cache: nowhere, offline: true, ewok_password: None };
    folders.open(manifest::find(name).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

fn names_and_counts() -> [(&'static str, usize); 11] {
    [
        ("blimp", 67),
        ("blimp_filtered", 67),
        ("blimp_supplement", 5),
        ("blimp_fast", 67),
        ("supplement_fast", 5),
        ("ewok", 1),
        ("ewok_filtered", 1),
        ("ewok_fast", 1),
        ("bear", 143),
        ("glue", 27),
        ("superglue", 22),
    ]
}

#[test]
fn every_set_is_there_and_every_file_is_the_pinned_one() {
    for (name, files) in names_and_counts() {
        let set = set(name);
        assert_eq!(set.place, Place::Env);
        let checked = set.verify();
        assert_eq!(checked.len(), files, "{name}");
        for (path, result) in checked {
            let packing = result.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(packing, Packing::Pinned, "{path}");
        }
    }
    assert_eq!(manifest::all().len(), names_and_counts().len());
}

#[test]
fn manifests_say_what_the_sums_say() {
    for manifest in manifest::all() {
        let folder = manifest.files[0].path.split('/').next().unwrap();
        let sums = fs::read_to_string(data_folder().join(folder).join("SHA256SUMS")).unwrap();
        let sums: BTreeMap<String, &str> = sums
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(sum, path)| (format!("{folder}/{path}"), sum))
            .collect();
        for file in &manifest.files {
            assert_eq!(sums.get(&file.path), Some(&file.sha256.as_str()), "{}", file.path);
        }
    }
}

#[test]
fn addresses_are_pinned_to_the_revision() {
    for manifest in manifest::all() {
        for url in manifest.files.iter().filter_map(|file| file.url.as_ref()) {
            assert!(url.starts_with("https://raw.githubusercontent.com/"), "{url}");
            assert!(url.contains(&format!("/{}/", manifest.revision)), "{url}");
        }
    }
}

#[test]
fn protected_sets_are_zips_with_terms_and_a_password() {
    for manifest in manifest::all().iter().filter(|manifest| manifest.name.starts_with("ewok")) {
        assert!(manifest.terms.is_some() && manifest.password.is_some() && !manifest.how_to_get.is_empty());
        assert!(manifest.files.iter().all(|file| file.path.ends_with(".zip")));
        assert!(manifest.files.iter().filter_map(|file| file.url.as_ref()).all(|url| url.ends_with(".zip")));
    }
}

/// The digests of the streamed and of the whole reading are of the same file.
#[test]
fn streamed_and_whole_digests_agree() {
    let set = set("blimp_supplement");
    for file in &set.manifest.files {
        assert_eq!(digest::sha256_file(&set.path(file)).unwrap(), file.sha256);
    }
}

/// Rows by the file's name without folder and ending.
fn counts(name: &str) -> BTreeMap<String, usize> {
    let set = set(name);
    let count = |file: &manifest::FileEntry| {
        let bytes = set.read(file).unwrap();
        (stem(&file.path), rows::<IgnoredAny>(&file.path, &bytes, Privacy::Open).unwrap().len())
    };
    set.manifest.files.iter().map(count).collect()
}

fn stem(path: &str) -> String {
    path.rsplit('/').next().unwrap().trim_end_matches(".jsonl").to_owned()
}

#[test]
fn blimp_has_a_thousand_pairs_a_paradigm() {
    assert!(counts("blimp").values().all(|count| *count == 1_000));
    assert!(counts("blimp_fast").values().all(|count| *count == 200));
    assert_eq!(counts("blimp_filtered").values().sum::<usize>(), 59_875);
}

#[test]
fn the_supplement_has_its_rows() {
    let expected = [
        ("hypernym", 842),
        ("qa_congruence_easy", 64),
        ("qa_congruence_tricky", 165),
        ("subject_aux_inversion", 3_867),
        ("turn_taking", 280),
    ];
    assert_eq!(counts("blimp_supplement"), expected.map(|(name, count)| (name.to_owned(), count)).into());
    assert_eq!(counts("supplement_fast").values().sum::<usize>(), 250);
}

/// The archive of a protected set, unread.
fn packed(manifest: &Manifest) -> (String, Vec<u8>) {
    let file = &manifest.files[0];
    (file.path.clone(), set(&manifest.name).read(file).unwrap())
}

fn open(name: &str) -> Archive {
    let manifest = manifest::find(name).unwrap();
    let (path, bytes) = packed(manifest);
    Archive::open(&path, bytes, manifest.password.as_deref().unwrap()).unwrap()
}

/// Rows by domain, of the JSON Lines files of a protected set.
fn protected_counts(name: &str) -> BTreeMap<String, usize> {
    let mut archive = open(name);
    let files = archive.entries().into_iter().filter(|entry| entry.ends_with(".jsonl"));
    let count = |entry: String| {
        let bytes = archive.read(&entry).unwrap();
        (stem(&entry), rows::<IgnoredAny>(&entry, &bytes, Privacy::Protected).unwrap().len())
    };
    files.map(count).collect()
}

/// (domain, items of EWoK-core-1.0, rows of the filtered set), from the README.
const DOMAINS: [(&str, usize, usize); 11] = [
    ("agent-properties", 1_120, 2_210),
    ("material-dynamics", 780, 770),
    ("material-properties", 124, 170),
    ("physical-dynamics", 75, 120),
    ("physical-interactions", 280, 556),
    ("physical-relations", 415, 818),
    ("quantitative-properties", 190, 314),
    ("social-interactions", 175, 294),
    ("social-properties", 185, 328),
    ("social-relations", 785, 1_548),
    ("spatial-relations", 245, 490),
];

#[test]
fn ewok_has_its_rows_by_domain() {
    let by = |count: fn(&(&str, usize, usize)) -> usize| {
        DOMAINS.iter().map(|domain| (domain.0.to_owned(), count(domain))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(protected_counts("ewok"), by(|domain| domain.1));
    assert_eq!(protected_counts("ewok_filtered"), by(|domain| domain.2));
    assert_eq!(protected_counts("ewok_fast"), by(|_| 100));
    assert_eq!(DOMAINS.iter().map(|domain| domain.1).sum::<usize>(), 4_374);
    assert_eq!(DOMAINS.iter().map(|domain| domain.2).sum::<usize>(), 7_618);
}

/// ZipCrypto's check is one byte: of 600 wrong passwords about two pass it, and must fail later in the same way.
#[test]
fn a_wrong_password_is_told_as_that() {
    let (path, bytes) = packed(manifest::find("ewok_fast").unwrap());
    for number in 0..600 {
        let mut archive = Archive::open(&path, bytes.clone(), &format!("wrong{number}")).unwrap();
        let entry = archive.entries().into_iter().find(|entry| entry.ends_with(".jsonl")).unwrap();
        // What was read is dropped first: `unwrap_err` would print it.
        let error = archive.read(&entry).map(drop).unwrap_err();
        assert!(matches!(error, Error::Archive { fault: ArchiveFault::WrongPassword { .. }, .. }), "{error}");
        assert!(error.to_string().contains("wrong password, or the archive is damaged"), "{error}");
    }
}

#[test]
fn a_truncated_archive_is_refused() {
    for name in ["ewok", "ewok_filtered", "ewok_fast"] {
        let (path, bytes) = packed(manifest::find(name).unwrap());
        for twentieth in 0..20 {
            let cut = bytes[..bytes.len() * twentieth / 20].to_vec();
            let error = Archive::open(&path, cut, "ewok").err().expect("a cut archive does not open");
            assert!(matches!(error, Error::Archive { fault: ArchiveFault::NotAnArchive, .. }), "{error}");
        }
    }
}

/// Opens and reads all there is, and gives how much came out; a panic is the only way to fail.
fn read_all(bytes: Vec<u8>, password: &str) -> usize {
    let Ok(mut archive) = Archive::open("changed.zip", bytes, password) else {
        return 0;
    };
    archive.entries().iter().filter_map(|entry| archive.read(entry).ok()).map(|bytes| bytes.len()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_archives_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..12)) {
        let (_, mut bytes) = packed(manifest::find("ewok_fast").unwrap());
        for (at, flip) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        prop_assert!(read_all(bytes, "BabyLM2025") < 10_000_000);
    }

    /// The directory is where a change does most: sizes, offsets, methods, flags.
    #[test]
    fn changed_directories_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6)) {
        let (_, mut bytes) = packed(manifest::find("ewok_fast").unwrap());
        let start = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
        for (at, flip) in &flips {
            let at = start + at.index(bytes.len() - start);
            bytes[at] ^= flip;
        }
        prop_assert!(read_all(bytes, "BabyLM2025") < 10_000_000);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        read_all([b"PK\x03\x04", bytes.as_slice()].concat(), "x");
        read_all([bytes.as_slice(), b"PK\x05\x06", &[0; 18]].concat(), "x");
    }
}
