//! Training an n-gram model and scoring with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::kit::{Bheval, Ran, json, model, ran};

/// Twelve subjects, places and verbs in many combinations: every order has something to count.
fn text() -> String {
    let nouns = [
        "cat", "dog", "farmer", "teacher", "child", "nurse", "bird", "horse", "baker", "girl", "boy", "mouse",
    ];
    let verbs = ["sleeps", "walks", "sings", "waits", "eats", "draws", "runs"];
    let places = ["in the garden", "at school", "near the old mill", "by the river", "on the sofa"];
    let mut text = String::new();
    for i in 0..600_usize {
        let (noun, verb) = (nouns[i * i % 12], verbs[(i * 5 + i / 7) % 7]);
        text += &format!("The {noun} {verb} {}.\n", places[(i * i / 3 + i) % 5]);
        text += if i % 40 == 0 { "\n" } else { "" };
    }
    text
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Trains on `text.txt` with the tokenizer of a golden model.
fn train(bheval: &Bheval, golden: &str, out: &str, more: &[&str]) -> Ran {
    let tokenizer = model(golden);
    let mut args =
        vec!["train-ngram", "--text", "text.txt", "--tokenizer", utf8(&tokenizer), "--out", out, "--quiet"];
    args.extend(more);
    bheval.run(&args)
}

fn with_text() -> Bheval {
    let bheval = Bheval::new();
    bheval.write("text.txt", text());
    bheval
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const FILES: [&str; 5] =
    ["config.json", "model.ngram", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn a_trained_model_is_evaluated_by_name_and_by_its_config() {
    let bheval = with_text();
    let trained = train(&bheval, "llama", "model", &["--order", "3"]).done();
    assert!(
        trained.stdout.contains("600 sentences") && trained.stdout.contains("vocabulary"),
        "{}",
        trained.stdout
    );
    assert_eq!(names(&bheval.path("model")), FILES);
    let eval = |run: &str, more: &[&str]| {
        let args =
            [&["--model", "model", "--tasks", "demo", "--json", "--quiet", "--run-dir", run], more].concat();
        bheval.run(&args).done().stdout
    };
    let auto = eval("auto", &[]);
    assert!(auto.contains("\"demo_pairs\""), "{auto}");
    assert_eq!(auto, eval("named", &["--backend", "ngram"]));
    let plan = json(&bheval.path("auto/plan.json"));
    assert_eq!(plan["architecture"], "ngram");
    assert_eq!(plan["prefix"], "<s> (1)");
    // The slow twin.
    eval("flat", &["--route", "flat"]);
    assert_eq!(bheval.read("auto/items/demo_pairs.csv"), bheval.read("flat/items/demo_pairs.csv"));
}

#[test]
fn linked_and_loaded_give_the_same_bits() {
    let bheval = with_text();
    train(&bheval, "llama", "model", &[]).done();
    // `cargo test` builds the examples of the crates it tests.
    let plugin = Path::new(env!("CARGO_BIN_EXE_bheval"))
        .with_file_name("examples")
        .join(bheval_host::file_name("ngram"));
    assert!(
        plugin.is_file(),
        "{} is missing: run `cargo build -p bheval-ngram --examples`",
        plugin.display()
    );
    let eval = |run: &str, backend: &str| {
        let args =
            ["--model", "model", "--tasks", "demo", "--backend", backend, "--run-dir", run, "--memory", "1K"];
        bheval.run(&args).done();
    };
    eval("linked", "ngram");
    eval("loaded", utf8(&plugin));
    for name in ["demo_pairs", "demo_scenes"] {
        let name = format!("items/{name}.csv");
        assert!(bheval.read(&format!("linked/{name}")) == bheval.read(&format!("loaded/{name}")), "{name}");
    }
}

#[test]
fn the_file_itself_is_opened_given_a_tokenizer_or_beside_one() {
    let bheval = with_text();
    train(&bheval, "gpt2", "model", &["--order", "2"]).done();
    bheval.write("asked.txt", "The cat sings.\nA dog walks near the river.\n");
    let score = |more: &[&str]| bheval.run(&[&["score", "asked.txt"], more].concat()).done().stdout;
    let whole = score(&["--model", "model"]);
    assert_eq!(whole, score(&["--model", "model/model.ngram"]));
    // A stray export beside the n-grams is not what config.json names.
    bheval.write("model/x.onnx", "");
    assert_eq!(whole, score(&["--model", "model"]));
    std::fs::rename(bheval.path("model/model.ngram"), bheval.path("alone.ngram")).expect("moved");
    let tokenizer = model("gpt2");
    assert_eq!(whole, score(&["--model", "alone.ngram", "--tokenizer", utf8(&tokenizer)]));
    bheval
        .run(&["score", "text.txt", "--model", "alone.ngram"])
        .refused(2, &["tokenizer.json", "--tokenizer"]);
}

#[test]
fn scores_are_those_of_a_hand_calculation() {
    by_hand("words/special_tokens_map.json", r#"{"eos_token": "<eos>"}"#);
}

#[test]
fn special_tokens_that_only_a_config_names_are_kept() {
    by_hand("words/config.json", r#"{"eos_token_id": 0}"#);
}

/// A bigram model of a word-level tokenizer by hand: `<eos>` stands before and behind `a b` and `a a`.
fn by_hand(special_file: &str, special: &str) {
    let bheval = Bheval::new();
    let tokenizer = serde_json::json!({
        "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [{"id": 0, "content": "<eos>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "model": {"type": "WordLevel", "vocab": {"<eos>": 0, "a": 1, "b": 2, "c": 3}, "unk_token": "c"},
    });
    bheval.write("words/tokenizer.json", tokenizer.to_string());
    bheval.write(special_file, special);
    bheval.write("text.txt", "a b\na a\n");
    let args =
        ["train-ngram", "--text", "text.txt", "--tokenizer", "words", "--out", "model", "--order", "2"];
    let trained = bheval.run(&args).done();
    // Bigrams: <eos>a twice, ab, aa, b<eos>, a<eos> once: no count of 3, so D = 1/2, 1, 3/2. Words before: a 2, b 1,
    // <eos> 2, c 0.
    assert!(
        trained.stderr.contains("order 2 can't be estimated (none has an adjusted count of 3"),
        "{}",
        trained.stderr
    );
    bheval.write("asked.txt", "a b\nc a\n");
    let out = bheval.run(&["score", "asked.txt", "--model", "model"]).done().stdout;
    let found: Vec<f64> = out.lines().skip(1).filter_map(|l| l.split(',').nth(6)?.parse().ok()).collect();
    // Unigrams: (a - D)/5 + (1/2 + 1 + 1)/5/4. After <eos>: total 2, b = 1/2. After a: total 3, b = 3/2 / 3.
    let (a, b, c) = (0.2 + 0.125, 0.1 + 0.125, 0.125);
    let expected: [f64; 4] = [0.5 + 0.5 * a, 0.5 / 3.0 + 0.5 * b, 0.5 * c, a];
    assert_eq!(found.len(), 4, "{out}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected.ln()).abs() < 1e-6, "{found} and not {}", expected.ln());
    }
}

#[test]
fn the_same_text_gives_the_same_bytes_from_stdin_in_parts_and_with_other_threads() {
    let bheval = with_text();
    train(&bheval, "llama", "whole", &["--threads", "1"]).done();
    let all = text();
    let at = all.match_indices('\n').nth(300).expect("a line").0 + 1;
    bheval.write("first.txt", &all[..at]);
    let tokenizer = model("llama");
    let mut child = bheval
        .command()
        .args(["train-ngram", "--text", "first.txt", "-", "--tokenizer", utf8(&tokenizer), "--out", "parts"])
        .args(["--threads", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(&all.as_bytes()[at..]).expect("written");
    ran(&child.wait_with_output().expect("it ends")).done();
    let bytes = |name: &str| std::fs::read(bheval.path(name)).expect("a model");
    assert!(bytes("whole/model.ngram") == bytes("parts/model.ngram"));
    let texts = &json(&bheval.path("parts/config.json"))["training"]["texts"];
    assert_eq!(texts[1]["name"], "stdin");
    assert_eq!(texts[1]["sha256"], bheval_data::digest::sha256_hex(&all.as_bytes()[at..]));
}

#[test]
fn every_order_and_json_that_is_the_stored_config() {
    let bheval = with_text();
    let mut sizes = Vec::new();
    for order in ["1", "2", "3", "4", "5"] {
        let out = format!("order-{order}");
        let ran = train(&bheval, "llama", &out, &["--order", order, "--json"]).done();
        assert_eq!(ran.stdout, bheval.read(&format!("{out}/config.json")));
        let config = json(&bheval.path(&format!("{out}/config.json")));
        assert_eq!(config["order"].to_string(), order);
        assert_eq!(config["training"]["sentences"], 600);
        assert_eq!(config["training"]["texts"][0]["blank_lines"], 15);
        sizes.push(std::fs::metadata(bheval.path(&out).join("model.ngram")).expect("a file").len());
        let args = ["score", "text.txt", "--model", &out, "--json"];
        let lines = bheval.run(&args).refused_lines();
        assert_eq!(lines, 600);
    }
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
    train(&bheval, "llama", "order-6", &["--order", "6"]).refused(2, &["6", "1..=5"]);
}

impl Ran {
    /// Lines of a `score` whose empty lines are reported as what can't be scored.
    fn refused_lines(&self) -> usize {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 15, "{}", self.stderr);
        self.stdout.lines().count()
    }
}

#[test]
fn what_is_there_is_not_overwritten() {
    let bheval = with_text();
    bheval.write("model/notes.txt", "mine");
    let refused = |more: &[&str], parts: &[&str]| train(&bheval, "llama", "model", more).refused(2, parts);
    refused(&[], &["not empty", "notes.txt", "--force"]);
    refused(&["--force"], &["notes.txt", "replaces n-gram models only"]);
    std::fs::remove_file(bheval.path("model/notes.txt")).expect("removed");
    train(&bheval, "llama", "model", &["--order", "2"]).done();
    let before = std::fs::read(bheval.path("model/model.ngram")).expect("a model");
    refused(&[], &["not empty", "--force"]);
    train(&bheval, "llama", "model", &["--order", "3", "--force"]).done();
    assert!(before != std::fs::read(bheval.path("model/model.ngram")).expect("a model"));
    assert_eq!(names(&bheval.path("model")), FILES);
    // A model of another kind is never replaced.
    let copy = bheval.copy_of("llama");
    train(&bheval, "llama", utf8(&copy), &["--force"]).refused(2, &["model.safetensors"]);
    std::fs::remove_file(copy.join("model.safetensors")).expect("removed");
    train(&bheval, "llama", utf8(&copy), &["--force"]).refused(2, &["holds none"]);
    train(&bheval, "llama", "text.txt", &["--force"]).refused(2, &["it is a file"]);
    assert_eq!(names(&bheval.path(".")).iter().filter(|n| n.starts_with('.')).count(), 0);
}

#[test]
fn bad_texts_and_tokenizers_are_named() {
    let bheval = with_text();
    let llama = model("llama");
    let run = |text: &[&str], tokenizer: &str, parts: &[&str]| {
        let args = [&["train-ngram", "--tokenizer", tokenizer, "--out", "model", "--text"], text].concat();
        bheval.run(&args).refused(2, parts);
        assert!(!bheval.path("model").exists());
    };
    bheval.write("latin.txt", b"One line.\nCaf\xe9.\n");
    run(&["text.txt", "latin.txt"], utf8(&llama), &["latin.txt", "line 2", "not UTF-8 from byte 3"]);
    run(&["text.txt", "none.txt"], utf8(&llama), &["none.txt", "one sentence a line"]);
    run(&["."], utf8(&llama), &["it is a folder"]);
    run(&["-", "-"], utf8(&llama), &["once"]);
    run(&["text.txt"], "nowhere", &["nowhere/tokenizer.json"]);
    bheval.write("empty.txt", "\n \n");
    run(&["empty.txt"], utf8(&llama), &["nothing to learn from"]);
}

#[test]
fn damaged_models_are_refused() {
    let bheval = with_text();
    train(&bheval, "llama", "model", &[]).done();
    let path = bheval.path("model/model.ngram");
    let whole = std::fs::read(&path).expect("a model");
    let eval = ["--model", "model", "--tasks", "demo"];
    let refused = |bytes: &[u8], parts: &[&str]| {
        std::fs::write(&path, bytes).expect("written");
        bheval.run(&eval).refused(2, parts);
    };
    refused(&whole[..whole.len() / 2], &["model.ngram", "promises", "copy the file again"]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    refused(&flipped, &["model.ngram", "checksum"]);
    train(&bheval, "llama", "other", &["--order", "4"]).done();
    refused(
        &std::fs::read(bheval.path("other/model.ngram")).expect("a model"),
        &["order", "different models"],
    );
    std::fs::remove_file(&path).expect("removed");
    bheval.run(&eval).refused(2, &["model.ngram"]);
}

#[test]
fn another_model_is_another_run() {
    let bheval = with_text();
    train(&bheval, "llama", "model", &["--order", "2"]).done();
    let eval = ["--model", "model", "--tasks", "demo", "--run-dir", "run"];
    bheval.run(&eval).done();
    train(&bheval, "llama", "model", &["--order", "3", "--force"]).done();
    bheval.run(&eval).refused(2, &["run", "the model:"]);
}

#[test]
fn killed_at_any_moment_training_leaves_a_whole_model_or_none() {
    let bheval = with_text();
    let tokenizer = model("llama");
    let (mut none, mut whole) = (0, 0);
    for kill in 0..24_u64 {
        let out: PathBuf = bheval.path("model");
        let mut child = bheval
            .command()
            .args(["train-ngram", "--text", "text.txt", "--tokenizer", utf8(&tokenizer), "--out", "model"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // The first at once, the last when it is done; most of them when files are on their way.
        let staging = bheval.path(&format!(".model.{}.tmp", child.id()));
        if kill == 23 {
            child.wait().expect("a child");
        } else if kill > 3 {
            while !staging.exists() && child.try_wait().expect("a child").is_none() {
                sleep(Duration::from_micros(50));
            }
            sleep(Duration::from_micros(150 * (kill - 4)));
        }
        let _ = child.kill();
        child.wait().expect("gone");
        if out.exists() {
            bheval.run(&["inspect", "--model", "model"]).done();
            assert_eq!(names(&out), FILES);
            std::fs::remove_dir_all(&out).expect("removed");
            whole += 1;
        } else {
            none += 1;
        }
    }
    assert!(whole > 0 && none > 3, "{whole} whole, {none} none");
}
