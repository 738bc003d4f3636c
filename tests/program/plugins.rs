//! Backends from files.

use std::path::PathBuf;

use crate::kit::{Bheval, json, model};

/// The bundled backend as a library of its own, which `cargo test` builds as an example.
fn plugin() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_BIN_EXE_bheval")).with_file_name("examples");
    let file = folder.join(bheval_host::file_name("hgrn2"));
    assert!(
        file.is_file(),
        "{} is missing: run `cargo test --workspace`, or build the examples",
        file.display()
    );
    file
}

#[test]
fn linked_and_loaded_give_the_same_bits() {
    let bheval = Bheval::new();
    let tasks = ["--tasks", "blimp,demo", "--limit", "10"];
    bheval.eval("linked", &tasks).done();
    let file = plugin();
    bheval.eval("loaded", &[&tasks[..], &["--backend", file.to_str().expect("UTF-8")]].concat()).done();
    for name in ["blimp", "demo_pairs", "demo_scenes"] {
        let name = format!("items/{name}.csv");
        assert!(bheval.read(&format!("linked/{name}")) == bheval.read(&format!("loaded/{name}")), "{name}");
    }
    let plan = json(&bheval.path("loaded/plan.json"));
    assert!(plan["identity"]["backend"].as_str().is_some_and(|b| b.contains("sha256:")), "{plan}");
}

#[test]
fn plugins_are_found_in_the_folder_that_is_named() {
    let bheval = Bheval::new();
    let folder = bheval.path("plugins");
    std::fs::create_dir(&folder).expect("made");
    std::fs::copy(plugin(), folder.join(bheval_host::file_name("mine"))).expect("copied");
    let listed = bheval
        .command()
        .env("BHEVAL_BACKENDS", &folder)
        .args(["backends", "--json"])
        .output()
        .expect("starts");
    let listed = crate::kit::ran(&listed).done().stdout;
    assert!(listed.contains("bheval_mine"), "{listed}");
    let path = model("hgrn2");
    let args = [
        "--model",
        path.to_str().expect("UTF-8"),
        "--tasks",
        "demo",
        "--backend",
        "mine",
        "--run-dir",
        "run",
    ];
    let ran = bheval.command().env("BHEVAL_BACKENDS", &folder).args(args).output().expect("starts");
    crate::kit::ran(&ran).done();
}

#[test]
fn what_is_no_backend_is_refused() {
    let bheval = Bheval::new();
    bheval.write("libtext.so", "hello");
    let run = |more: &[&str]| bheval.eval("run", &[&["--tasks", "demo"][..], more].concat());
    run(&["--backend", "./libtext.so"]).refused(2, &["libtext.so is no bheval plugin"]);
    run(&["--backend", "./libnone.so"]).refused(2, &["no backend library at ./libnone.so"]);
    run(&["--backend", "gru"]).refused(2, &["no backend `gru`", "linked are: hgrn2", "libbheval_gru"]);
    run(&["--backend-sha256", "00ff"])
        .refused(2, &["`hgrn2` is part of bheval", "leave --backend-sha256 out"]);
    let file = plugin();
    let pinned = ["--backend", file.to_str().expect("UTF-8"), "--backend-sha256", "00ff"];
    run(&pinned).refused(2, &["00ff was pinned"]);
}
