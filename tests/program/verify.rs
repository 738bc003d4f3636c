//! The conformance suite: what is right passes, and each fault fails the checks that are there for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use bheval_tests::onnx::onnxruntime;
use bheval_tests::plugins::{compiled, compiled_from, example};
use serde_json::Value;

use crate::kit::{Bheval, Ran, model, ran};

/// Every backend of the binary, with a model of it. All of them pass.
const BUNDLED: &[(&str, &str)] = &[
    ("hgrn2", "hgrn2"),
    ("hgrn2", "hgrn2_conv"),
    ("transformer", "llama"),
    ("transformer", "gpt2"),
    ("transformer", "gpt_neox"),
    ("transformer", "opt"),
    ("transformer", "bert"),
    ("transformer", "roberta"),
    ("lstm", "lstm"),
    ("mamba", "mamba"),
    ("mamba", "mamba2"),
    ("xlstm", "xlstm"),
];

fn verify(bheval: &Bheval, backend: &str, model: &Path, more: &[&str]) -> Ran {
    let model = model.to_str().expect("UTF-8");
    let mut command = bheval.command();
    command.env("ORT_DYLIB_PATH", onnxruntime());
    command.args(["verify", backend, "--model", model, "--threads", "2"]).args(more);
    ran(&command.output().expect("starts"))
}

/// The results of all checks.
fn results(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ran.stdout, ran.stderr))
}

/// The checks that ended in a way, and what was seen.
fn ended(results: &Value, how: &str) -> Vec<(String, String)> {
    let text = |check: &Value, key: &str| check[key].as_str().expect("a text").to_owned();
    let all = results["checks"].as_array().expect("checks").iter();
    all.filter(|c| c["result"] == how).map(|c| (text(c, "check"), text(c, "evidence"))).collect()
}

#[track_caller]
fn passes(ran: &Ran, skipped: &[&str]) {
    let results = results(ran);
    assert_eq!((ran.code, ended(&results, "failed")), (Some(0), vec![]));
    let found: BTreeSet<_> = ended(&results, "skipped").into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, skipped.iter().map(ToString::to_string).collect(), "skipped");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn every_bundled_backend_passes() {
    let bheval = Bheval::new();
    for (backend, folder) in BUNDLED {
        passes_with(&bheval, backend, &model(folder));
    }
    passes_with(&bheval, "onnx", &model("onnx").join("llama.onnx"));
    // How many positions a graph has is in no ONNX file: config.json beside it says so.
    let folder = bheval.path("gpt2");
    std::fs::create_dir(&folder).expect("a folder");
    for (file, name) in
        [(model("onnx").join("gpt2.onnx"), "model.onnx"), (model("gpt2").join("config.json"), "config.json")]
    {
        std::fs::copy(file, folder.join(name)).expect("copied");
    }
    passes_with(&bheval, "onnx", &folder);
}

/// A model of the n-gram backend is trained first.
#[test]
fn a_trained_ngram_model_passes() {
    let bheval = Bheval::new();
    let line = |i: usize| format!("the {} saw the {} in {}\n", i % 7, i * i % 11, i % 3);
    bheval.write("text.txt", (0..400).map(line).collect::<String>());
    let tokenizer = model("gpt2");
    let tokenizer = tokenizer.to_str().expect("UTF-8");
    bheval.run(&["train-ngram", "--text", "text.txt", "--tokenizer", tokenizer, "--out", "trained"]).done();
    passes_with(&bheval, "ngram", &bheval.path("trained"));
}

#[track_caller]
fn passes_with(bheval: &Bheval, backend: &str, model: &Path) {
    let ran = verify(bheval, backend, model, &["--json"]);
    let results = results(&ran);
    let model = model.display();
    assert_eq!((ran.code, ended(&results, "failed")), (Some(0), vec![]), "{backend} with {model}");
    let passed = ended(&results, "passed");
    for name in ["opens", "finite", "sums-to-one", "batch", "order", "threads", "hostile", "memory-calls"] {
        assert!(passed.iter().any(|(passed, _)| passed == name), "{backend} with {model}: {name}");
    }
}

/// As a library of its own it has threads to end, and can be unloaded.
#[test]
fn a_bundled_backend_passes_as_a_plugin() {
    let library = example("bheval-candle", "hgrn2");
    let ran = verify(&Bheval::new(), library.to_str().expect("UTF-8"), &model("hgrn2"), &["--json"]);
    passes(&ran, &OF_MASKED);
}

/// Checks about masked models say nothing about causal ones.
const OF_MASKED: [&str; 2] = ["batches", "causal-refused"];
const OF_CAUSAL: [&str; 9] =
    ["causal", "forest", "lengths", "logits", "parents", "sizes", "subset", "unwanted", "wanted-root"];

#[test]
fn the_template_in_c_passes() {
    let bheval = Bheval::new();
    let folder = repository("backends/example-c");
    let library = compiled_from(&bheval.path(""), "mine", &folder.join("mine.c"));
    passes(
        &verify(&bheval, library.to_str().expect("UTF-8"), &folder.join("model"), &["--json"]),
        &OF_MASKED,
    );
}

#[test]
fn the_template_in_rust_passes() {
    let bheval = Bheval::new();
    let library = built_in_rust();
    let model = repository("backends/example-c/model");
    passes(&verify(&bheval, library.to_str().expect("UTF-8"), &model, &["--json"]), &OF_MASKED);
}

/// The template in Rust, built as its author would.
fn built_in_rust() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example-rust");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--offline", "--manifest-path"]);
    command.arg(repository("backends/example-rust/Cargo.toml")).arg("--target-dir").arg(&target);
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug").join(bheval_host::file_name("mine"))
}

/// Both templates are the same model: they score the same sentences alike, with the tokenizer that lies beside it.
#[test]
fn both_templates_score_text_alike() {
    let bheval = Bheval::new();
    let folder = repository("backends/example-c");
    let text = bheval.write("text", "The cat sat on the mat.\nA dog sees the cats.\n");
    let in_c = compiled_from(&bheval.path(""), "mine", &folder.join("mine.c"));
    let score = |library: &Path| {
        let args = ["score", text.to_str().expect("UTF-8"), "--model"];
        let mut command = bheval.command();
        command.args(args).arg(folder.join("model")).arg("--backend").arg(library);
        ran(&command.output().expect("starts")).done().stdout
    };
    let (in_c, in_rust) = (score(&in_c), score(&built_in_rust()));
    assert_eq!(in_c, in_rust);
    // By hand, from counts.txt: `the` begins 7 of 8 sentences, and is 13 of the 61 tokens that follow another; 19 in all.
    let expected = ((7.0 + 4.0 * (13.0 + 1.0) / (61.0 + 19.0)) / (8.0 + 4.0_f64)).ln();
    let the = in_c.lines().find(|line| line.starts_with("0,1,18,the,")).unwrap_or_else(|| panic!("{in_c}"));
    let first: f64 = the.split(',').nth(6).and_then(|value| value.parse().ok()).expect("a log-probability");
    assert!((first - expected).abs() < 1e-6, "{first}, {expected}");
}

/// The first block of the how-to in a language, after a heading.
fn block(how_to: &str, heading: &str, language: &str) -> String {
    let chapter = how_to.split_once(&format!("\n## {heading}\n")).expect("the chapter is there").1;
    let block = chapter.split_once(&format!("\n```{language}\n")).expect("the block is there").1;
    block.split_once("\n```").expect("the block ends").0.to_owned() + "\n"
}

/// Runs lines of the how-to in a folder that has the clone beside it.
fn follow(bheval: &Bheval, folder: &str, lines: &str) -> Ran {
    let program = Path::new(env!("CARGO_BIN_EXE_bheval")).parent().expect("a folder");
    let path = std::env::var("PATH").expect("a path of programs");
    let mut command = Command::new("sh");
    command.args(["-ec", lines]).current_dir(bheval.path(folder)).env("CARGO_NET_OFFLINE", "true");
    command.env("PATH", format!("{}:{path}", program.display())).env_remove("CARGO_TARGET_DIR");
    ran(&command.output().expect("a shell"))
}

/// The clone, where the how-to says that it lies.
fn beside(bheval: &Bheval) -> String {
    let clone = repository("").canonicalize().expect("a path");
    std::os::unix::fs::symlink(clone, bheval.path("bheval")).expect("linked");
    std::fs::read_to_string(repository("docs/write-a-backend.md")).expect("the how-to")
}

#[test]
fn the_how_to_leads_from_an_empty_folder_to_a_backend_in_c() {
    let bheval = Bheval::new();
    let how_to = beside(&bheval);
    let said = follow(&bheval, "", &block(&how_to, "In C", "sh")).done().stdout;
    assert!(said.contains(" 0 failed, 2 skipped") && said.contains(",cat,"), "{said}");
}

#[test]
fn the_how_to_leads_from_an_empty_folder_to_a_backend_in_rust() {
    let bheval = Bheval::new();
    let how_to = beside(&bheval);
    let chapter = "In Rust";
    follow(&bheval, "", &block(&how_to, chapter, "sh")).done();
    let head = bheval.read("mine/Cargo.toml").replace("[dependencies]\n", "");
    bheval.write("mine/Cargo.toml", head + &block(&how_to, chapter, "toml"));
    bheval.write("mine/src/lib.rs", block(&how_to, chapter, "rust"));
    let after = how_to.split_once("bheval_abi::export!(Unigram);").expect("the example ends").1;
    let last = block(&format!("\n## Last\n{after}"), "Last", "sh");
    let said = follow(&bheval, "mine", &last).done().stdout;
    assert!(said.contains(" 0 failed, 3 skipped"), "{said}");
}

#[test]
fn the_how_to_names_every_check() {
    let how_to = std::fs::read_to_string(repository("docs/write-a-backend.md")).expect("the how-to");
    for name in checks() {
        assert!(how_to.contains(&format!("`{name}`")), "{name}");
    }
}

/// Each fault of `tests/plugins/faulty.c`, and the checks that must fail, no more and no fewer. Where there are several,
/// the fault is about what each of them asks.
const FAULTS: &[(&str, &[&str])] = &[
    ("none", &[]),
    ("positive", &["finite", "logits", "sums-to-one"]),
    ("nan", &["context-limit", "finite", "full-call", "hostile", "logits", "sums-to-one"]),
    ("left-out", &["context-limit", "finite", "full-call", "hostile", "logits", "sums-to-one"]),
    ("sum", &["logits", "sums-to-one"]),
    ("logits", &["logits"]),
    ("unwanted", &["unwanted"]),
    ("fed-nothing", &["fed"]),
    ("fed-more", &["fed"]),
    ("small-calls", &["full-call"]),
    ("hungry", &["full-call"]),
    ("changing-info", &["info"]),
    ("any-dtype", &["open-refusals"]),
    ("batch", &["batch"]),
    ("order", &["order"]),
    ("subset", &["subset"]),
    ("threads", &["threads"]),
    ("state-of-process", &["at-once", "repeat", "several-models", "threads"]),
    ("latest-model", &["at-once", "several-models"]),
    ("at-once", &["at-once"]),
    ("own-thread", &["at-once", "other-thread"]),
    ("sees-ahead", &["batch", "causal", "forest", "logits", "order"]),
    ("branches", &["batch", "forest", "logits", "order", "sums-to-one"]),
    ("token-crash", &["hostile", "token-range"]),
    ("token-silent", &["hostile", "token-range"]),
    ("after-error", &["hostile", "token-range"]),
    ("long-path-taken", &["context-limit"]),
    ("long-path-abort", &["context-limit"]),
    ("wanted-root", &["hostile", "wanted-root"]),
    ("parents", &["hostile", "parents"]),
    ("null-arrays", &["nulls"]),
    ("sizes", &["sizes"]),
    ("lengths", &["lengths"]),
    ("message", &["messages"]),
    ("hangs-at-nothing", &["empty", "hostile"]),
    ("leaves-at-nothing", &["empty", "hostile"]),
    ("crash-at-the-end", &["exit", "unload"]),
    ("thread-stays", &["unload"]),
    ("leak-calls", &["memory-calls"]),
    ("leak-models", &["memory-models"]),
    ("masked-none", &[]),
    ("masked-batch", &["batch"]),
    ("masked-order", &["order"]),
    ("masked-threads", &["threads"]),
    ("masked-sum", &["sums-to-one"]),
    ("masked-target", &["hostile", "token-range"]),
    ("masked-long-path-taken", &["context-limit"]),
    ("masked-batches", &["batches", "hostile"]),
    ("masked-causal", &["causal-refused"]),
];

/// The checks that failed for a fault, with what they saw.
fn failures(bheval: &Bheval, library: &Path, fault: &str) -> Vec<(String, String)> {
    bheval.write(&format!("{fault}/fault"), fault);
    let more = ["--json", "--timeout", "15"];
    let ran = verify(bheval, library.to_str().expect("UTF-8"), &bheval.path(fault), &more);
    let results = results(&ran);
    let failed = ended(&results, "failed");
    assert_eq!(ran.code, Some(i32::from(!failed.is_empty())), "{fault}");
    if fault.ends_with("none") {
        let expected = if fault.starts_with("masked") { &OF_CAUSAL[..] } else { &OF_MASKED };
        passes(&ran, expected);
    }
    failed
}

#[test]
fn every_fault_fails_the_checks_that_are_there_for_it_and_no_other() {
    let bheval = Bheval::new();
    let library = compiled(&bheval.path(""), "faulty");
    // Most of the time is spent waiting for threads that stay behind, so the runs overlap.
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some((fault, expected)) =
            FAULTS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            let mut found = failures(&bheval, &library, fault);
            found.sort();
            if found.iter().map(|(name, _)| name.as_str()).ne(expected.iter().copied()) {
                wrong.push(format!("{fault}: expected {expected:?}, found {found:#?}"));
            }
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names of all checks.
fn checks() -> BTreeSet<String> {
    let listed = Bheval::new().run(&["verify", "--list"]).done().stdout;
    let cell = |line: &str| Some(line.strip_prefix('│')?.split('┆').next()?.trim().to_owned());
    let names: BTreeSet<_> = listed.lines().filter_map(cell).filter(|name| name != "check").collect();
    assert!(names.len() > 30, "{listed}");
    names
}

/// Each check fails for some fault, or the suite could not fail there.
#[test]
fn every_check_has_a_fault() {
    let names = checks();
    // Two faults are chosen by a variable, and one ends everything: see the tests below.
    let elsewhere = ["extensions", "opens"];
    let faulted: BTreeSet<_> = FAULTS.iter().flat_map(|(_, checks)| *checks).chain(&elsewhere).collect();
    let missing: Vec<_> = names.iter().filter(|name| !faulted.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn faults_that_have_no_model_to_name_them() {
    let bheval = Bheval::new();
    let library = compiled(&bheval.path(""), "faulty");
    bheval.write("none/fault", "none");
    for (variable, check, essential) in [
        ("FAULTY_OPENS_ANYTHING", "open-refusals", "a path where nothing is was taken"),
        ("FAULTY_EXTENDS_ANYTHING", "extensions", "has a table"),
    ] {
        let mut command = bheval.command();
        command.arg("verify").arg(&library).args(["--model", "none", "--json"]).env(variable, "1");
        let failed = ended(&results(&ran(&command.output().expect("starts"))), "failed");
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(failed[0].0 == check && failed[0].1.contains(essential), "{failed:?}");
    }
}

#[test]
fn a_crash_is_told_with_its_signal_and_the_others_go_on() {
    let bheval = Bheval::new();
    let library = compiled(&bheval.path(""), "faulty");
    let evidence = |fault: &str, check: &str| {
        let all = failures(&bheval, &library, fault);
        let found = all.into_iter().find(|(name, _)| name == check);
        found.unwrap_or_else(|| panic!("{fault} does not fail {check}")).1
    };
    for (fault, check, parts) in [
        ("token-crash", "token-range", ["SIGSEGV", "before the check was done"]),
        ("long-path-abort", "context-limit", ["SIGABRT", "answer `bad input`"]),
        ("leaves-at-nothing", "empty", ["exit code 0", "before the check was done"]),
        ("crash-at-the-end", "exit", ["SIGSEGV", "after the check was done"]),
        ("thread-stays", "unload", ["SIGSEGV", "End every thread"]),
        ("batch", "batch", ["values differ", "alone"]),
        ("leak-calls", "memory-calls", ["1000 calls", "MB more"]),
    ] {
        let evidence = evidence(fault, check);
        parts.iter().for_each(|part| assert!(evidence.contains(part), "{fault}: {evidence}"));
    }
}

#[test]
fn a_panic_fails_its_check_inside_the_guard_and_outside_of_it() {
    let bheval = Bheval::new();
    let library = example("bheval-tests", "careless");
    let failed = |name: &str| {
        bheval.write(&format!("{name}/model"), "");
        ended(
            &results(&verify(&bheval, library.to_str().expect("UTF-8"), &bheval.path(name), &["--json"])),
            "failed",
        )
    };
    let contained = failed("contained");
    let names: Vec<_> = contained.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["token-range", "hostile"], "{contained:#?}");
    assert!(contained[0].1.contains("as `panic`") && contained[0].1.contains("index out of bounds"));
    let uncaught = failed("uncaught");
    assert_eq!(uncaught.len(), 1, "{uncaught:#?}");
    assert_eq!(uncaught[0].0, "context-limit");
    for part in ["SIGABRT", "it said", "a path of more than 48 tokens"] {
        assert!(uncaught[0].1.contains(part), "{uncaught:#?}");
    }
}

#[test]
fn a_model_that_does_not_open_fails_once_and_the_rest_is_skipped() {
    let bheval = Bheval::new();
    let library = compiled(&bheval.path(""), "faulty");
    bheval.write("no-opening/fault", "no-opening");
    let ran = verify(&bheval, library.to_str().expect("UTF-8"), &bheval.path("no-opening"), &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for part in ["SIGABRT", "needs a model that opens", "0 passed, 1 failed"] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
}

#[test]
fn only_some_checks() {
    let bheval = Bheval::new();
    let ran = verify(&bheval, "hgrn2", &model("hgrn2"), &["--only", "finite,empty"]).done();
    assert!(ran.stdout.contains("3 passed, 0 failed, 0 skipped"), "{}", ran.stdout);
    assert!(ran.stdout.contains("│ finite") && !ran.stdout.contains("│ batch"), "{}", ran.stdout);
}

#[test]
fn what_can_not_start_is_refused() {
    let bheval = Bheval::new();
    bheval.write("libtext.so", "hello");
    let golden = model("hgrn2");
    verify(&bheval, "hgrn2", Path::new("no/such/model"), &[]).refused(2, &["no model at no/such/model"]);
    verify(&bheval, "./libtext.so", &golden, &[]).refused(2, &["error: ", "libtext.so is no bheval plugin"]);
    verify(&bheval, "gru", &golden, &[]).refused(2, &["no backend `gru`"]);
    verify(&bheval, "hgrn2", &golden, &["--only", "fnite"]).refused(2, &["no check `fnite`", "--list"]);
    verify(&bheval, "hgrn2", &golden, &["--tokenizer", "x"]).refused(2, &["leave --tokenizer out"]);
    verify(&bheval, "hgrn2", &golden, &["--isolate"]).refused(2, &["leave --isolate out"]);
}
