//! The model that ships with bheval, used where `--model` is left out.

use std::path::{Path, PathBuf};

use crate::kit::{Bheval, json};

/// Its folder in the repository.
fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/models/hgrn2-9m")
}

/// Its folder in the program's cache.
fn unpacked(bheval: &Bheval) -> PathBuf {
    let folders = std::fs::read_dir(bheval.path("cache/models")).expect("unpacked");
    let folders: Vec<PathBuf> = folders.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

fn demo(bheval: &Bheval, run: &str, more: &[&str]) -> String {
    bheval.run(&[&["--tasks", "demo_pairs", "--run-dir", run], more].concat()).done().stderr
}

#[test]
fn no_model_means_the_one_that_ships_and_its_scores_are_the_committed_folder_s() {
    let bheval = Bheval::new();
    let said = demo(&bheval, "shipped", &[]);
    assert!(said.contains("hgrn2-9m, which ships with bheval"), "{said}");
    demo(&bheval, "named", &["--model", committed().to_str().expect("UTF-8")]);
    assert_eq!(bheval.read("shipped/items/demo_pairs.csv"), bheval.read("named/items/demo_pairs.csv"));
    for entry in std::fs::read_dir(committed()).expect("a folder") {
        let entry = entry.expect("an entry");
        let there = std::fs::read(unpacked(&bheval).join(entry.file_name())).expect("unpacked, too");
        assert!(there == std::fs::read(entry.path()).expect("a file"), "{:?}", entry.file_name());
    }
}

#[test]
fn a_damaged_copy_in_the_cache_is_made_again() {
    let bheval = Bheval::new();
    demo(&bheval, "first", &[]);
    let weights = unpacked(&bheval).join("model.safetensors");
    std::fs::write(&weights, b"torn").expect("written");
    std::fs::remove_file(unpacked(&bheval).join("tokenizer.json")).expect("removed");
    demo(&bheval, "second", &[]);
    assert_eq!(bheval.read("first/items/demo_pairs.csv"), bheval.read("second/items/demo_pairs.csv"));
    assert!(
        std::fs::read(&weights).expect("a file")
            == std::fs::read(committed().join("model.safetensors")).expect("a file")
    );
}

#[test]
fn an_empty_name_is_not_the_model_that_ships() {
    let bheval = Bheval::new();
    bheval.run(&["--model", "", "--tasks", "demo"]).refused(2, &["--model"]);
    assert!(!bheval.path("cache/models").exists());
}

#[test]
fn a_cache_that_cannot_be_written_is_said_with_the_way_out() {
    let bheval = Bheval::new();
    bheval.write("cache", "a file where the folder would be");
    bheval.run(&["--tasks", "demo"]).refused(2, &["can't be unpacked", "--model DIR"]);
}

/// The limit, and that the file in the repository is the trained one: with seed weights this would be near 50.
#[test]
fn it_is_small_and_knows_grammar() {
    let size = std::fs::metadata(committed().join("model.safetensors")).expect("a file").len();
    assert!(size <= 25_000_000, "{size}");
    let bheval = Bheval::new();
    demo(&bheval, "run", &[]);
    let results = json(&bheval.path("run/results.json"));
    let acc = results["results"]["demo_pairs"]["acc"].as_f64().expect("a score");
    assert!(acc > 0.6, "{acc}");
}
