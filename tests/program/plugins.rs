//! Backends from files.

use std::path::{Path, PathBuf};

use bheval_tests::plugins::compiled_from;

use crate::kit::{Bheval, Ran, json, model, ran};

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
    run(&["--backend", "gpt2"]).refused(2, &["no backend `gpt2`", "--backend transformer"]);
    run(&["--backend", "gru"]).refused(2, &["no backend `gru`", "linked are: hgrn2", "libbheval_gru"]);
    run(&["--backend-sha256", "00ff"])
        .refused(2, &["`hgrn2` is part of bheval", "leave --backend-sha256 out"]);
    let file = plugin();
    let pinned = ["--backend", file.to_str().expect("UTF-8"), "--backend-sha256", "00ff"];
    run(&pinned).refused(2, &["00ff was pinned"]);
}

#[test]
fn plugins_are_found_beside_the_binary_and_in_the_users_folder() {
    let bheval = Bheval::new();
    let beside = bheval.path("bin");
    let user = bheval.path("xdg/bheval/backends");
    for folder in [&beside, &user] {
        std::fs::create_dir_all(folder).expect("made");
    }
    let binary = beside.join("bheval");
    std::fs::copy(env!("CARGO_BIN_EXE_bheval"), &binary).expect("copied");
    std::fs::copy(plugin(), beside.join(bheval_host::file_name("beside"))).expect("copied");
    std::fs::copy(plugin(), user.join(bheval_host::file_name("user"))).expect("copied");
    let path = model("hgrn2");
    for name in ["beside", "user"] {
        let mut command = std::process::Command::new(&binary);
        command
            .current_dir(bheval.path(""))
            .env("XDG_DATA_HOME", bheval.path("xdg"))
            .env_remove("BHEVAL_BACKENDS");
        let args = [
            "--model",
            path.to_str().expect("UTF-8"),
            "--tasks",
            "demo",
            "--backend",
            name,
            "--run-dir",
            name,
        ];
        crate::kit::ran(&command.args(args).output().expect("starts")).done();
    }
}

/// The template in C with a copy of its model, which has no config.json and no weights that bheval knows.
fn template(bheval: &Bheval) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../backends/example-c");
    for file in ["counts.txt", "tokenizer.json", "special_tokens_map.json"] {
        bheval
            .write(&format!("model/{file}"), std::fs::read(folder.join("model").join(file)).expect("there"));
    }
    compiled_from(&bheval.path(""), "mine", &folder.join("mine.c"))
}

#[test]
fn a_run_of_the_template_ends_where_its_own_files_are_others() {
    let bheval = Bheval::new();
    let plugin = template(&bheval);
    let eval = |run: &str, more: &[&str]| -> Ran {
        let mut command = bheval.command();
        command.args(["--model", "model", "--tasks", "demo", "--run-dir", run, "--backend"]);
        ran(&command.arg(&plugin).args(more).output().expect("starts"))
    };
    let isolated: &[&str] = if cfg!(unix) { &["--isolate"] } else { &[] };
    // A run's folder in the model's is no part of the model.
    for run in ["run", "model/runs/run"] {
        eval(run, &[]).done();
        let again = eval(run, isolated).done();
        assert!(again.stderr.contains("sentences were found scored in the run's folder"), "{}", again.stderr);
    }
    let results = bheval.read("run/results.json");
    let counts = bheval.read("model/counts.txt");
    let last = counts.trim_end().rsplit_once(char::is_whitespace).expect("a count").0;
    bheval.write("model/counts.txt", format!("{last} 1000\n"));
    for more in [&[], isolated] {
        eval("run", more).refused(2, &["run holds another run", "the model: ", "--fresh"]);
    }
    eval("run", &["--fresh"]).done();
    assert_ne!(bheval.read("run/results.json"), results);
    bheval.write("model/deep/er/table.bin", "more");
    eval("run", &[]).refused(2, &["run holds another run", "the model: "]);
}

/// The plugin panics at token 13; what was scored before that is kept, and the process ends in order.
#[test]
fn a_plugin_that_panics_ends_the_run_and_loses_nothing() {
    let bheval = Bheval::new();
    let file = plugin().with_file_name(bheval_host::file_name("panicking"));
    assert!(file.is_file(), "{} is missing: run `cargo test --workspace`", file.display());
    // A tokenizer of digits, so that the plugin's 32 tokens are enough: `9` is token 13.
    let copy = bheval.copy_of("hgrn2");
    let vocab: serde_json::Map<_, _> = ["<unk>", "<s>", "</s>", "."]
        .iter()
        .map(ToString::to_string)
        .chain((0..10).map(|d| d.to_string()))
        .enumerate()
        .map(|(id, piece)| (piece, id.into()))
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    std::fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let text = bheval.write("text", "12\n3\n".repeat(300) + "19\n");
    let args =
        ["score", text.to_str().expect("UTF-8"), "--model", copy.to_str().expect("UTF-8"), "--backend"];
    let ran = bheval.run(&[&args[..], &[file.to_str().expect("UTF-8")]].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("token 13 at node") && ran.stderr.contains("what was printed before is right"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.lines().count() > 256, "{}", ran.stdout.lines().count());
}
