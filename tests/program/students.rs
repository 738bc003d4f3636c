//! `[distill]` and `bheval export`: students of golden teachers, and what becomes of a trained model.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::kit::{Bheval, Ran, json, model};

/// A folder with a corpus that the golden GPT-NeoX's tokenizer cut, and plans for tiny students.
struct School(Bheval);

const PLAN: &str = r#"
[model]
model_type = "llama"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 48
max_position_embeddings = 64
tie_word_embeddings = true
[data]
sequence_length = 16
vocab_multiple = 16
[optimizer]
learning_rate = 1e-2
[train]
batch = 4
micro_batch = 2
epochs = 1.3
seed = 3
[checkpoint]
every_steps = 5
keep = "all"
[evaluate]
every_steps = 5
"#;

impl School {
    fn new() -> Self {
        let school = Self(Bheval::new());
        let words = ["the cat", "a dog", "some birds", "my old friend", "nobody"];
        let acts = ["sat here", "saw it", "will never sing", "has gone", "liked the house"];
        let sentence = |i: usize| format!("{} {} .", words[i * 7 % 5], acts[(i * i + i / 5) % 5]);
        let text: Vec<String> = (0..150).map(sentence).collect();
        school.0.write("text.txt", text.join("\n\n"));
        let tokenizer = model("gpt_neox");
        let tokenizer = tokenizer.to_str().expect("UTF-8");
        let build =
            ["corpus", "build", "--domain", "text=text.txt", "--licence", "text=made up", "--tokenizer"];
        school.0.run(&[&build[..], &[tokenizer, "--dev-share", "0.1", "-o", "corpus"]].concat()).done();
        school
    }

    /// Trains into the folder `run` with more keys in the plan.
    fn train(&self, run: &str, more: &str) -> Ran {
        let plan = format!("{run}.toml");
        self.0.write(&plan, format!("{PLAN}{more}"));
        self.0.run(&["train", &plan, "--corpus", "corpus", "-o", run, "--threads", "2"])
    }

    fn export(&self, args: &[&str]) -> Ran {
        self.0.run(&[&["export"], args].concat())
    }

    /// The column of a run's steps.csv.
    fn column(&self, run: &str, name: &str) -> Vec<f64> {
        let text = self.0.read(&format!("{run}/steps.csv"));
        let mut lines = text.lines();
        let header =
            lines.next().expect("a header").split(',').position(|column| column == name).expect("there");
        lines.map(|line| line.split(',').nth(header).expect("a cell").parse().expect("a number")).collect()
    }
}

fn teachers(names: &[&str], more: &str) -> String {
    let paths: Vec<String> = names.iter().map(|name| format!("{:?}", model(name))).collect();
    format!("[distill]\nteachers = [{}]\n{more}\n", paths.join(", "))
}

#[test]
fn a_student_hears_the_same_by_every_way() {
    let school = School::new();
    let two = ["gpt_neox", "mamba2"];
    let told = school.train("live", &teachers(&two, "")).done();
    assert!(!told.stderr.contains("cache"), "{}", told.stderr);
    let live = school.column("live", "distillation");
    assert!(live.iter().all(|kl| kl.is_finite() && *kl > 0.0), "{live:?}");
    assert!(live[live.len() - 1] < 0.85 * live[0], "the student comes nearer: {live:?}");
    for (run, cache) in [("full", "cache = \"full\""), ("hidden", "cache = \"hidden\"\ncache_dir = \"kept\"")]
    {
        let told = school.train(run, &teachers(&two, cache)).done();
        assert!(
            told.stderr.contains("teachers' cache") && told.stderr.contains(" are free"),
            "{}",
            told.stderr
        );
        for (ours, live) in school.column(run, "distillation").iter().zip(&live) {
            assert!((ours - live).abs() < 1e-3 * live, "{run}: {ours}, not {live}");
        }
    }
    // One event for all tokens but eight can't tell more than all of them, at the same weights: those of the first step.
    school.train("top", &teachers(&two, "cache = \"top-k\"\nk = 8")).done();
    let top = school.column("top", "distillation");
    assert!(top[0] < live[0] && top[0] > 0.1 * live[0], "{} {}", top[0], live[0]);
    // What was kept is used again, in whatever run keeps it in the same place.
    let again = school.train("again", &teachers(&two, "cache = \"hidden\"\ncache_dir = \"kept\"")).done();
    assert!(
        again.stderr.contains("teachers' cache kept") && !again.stderr.contains(" are free"),
        "{}",
        again.stderr
    );
    assert_eq!(school.column("again", "loss"), school.column("hidden", "loss"));
}

/// The size that `--dry-run` says is that of the file that a run writes, whichever form it has.
#[test]
fn the_size_of_a_cache_is_known_before_it_is_made() {
    let school = School::new();
    for (run, form) in
        [("full", "cache = \"full\""), ("top", "cache = \"top-k\"\nk = 5"), ("hidden", "cache = \"hidden\"")]
    {
        let more = teachers(&["gpt_neox"], form);
        let plan = school.0.write(&format!("{run}-dry.toml"), format!("{PLAN}{more}"));
        let dry = [
            "train",
            plan.to_str().expect("UTF-8"),
            "--corpus",
            "corpus",
            "--dry-run",
            "--json",
            "--flops",
            "1e12",
        ];
        let said: Value = serde_json::from_str(&school.0.run(&dry).done().stdout).expect("JSON");
        school.train(run, &more).done();
        let files = fs::read_dir(school.0.path(run).join("teachers")).expect("a cache");
        let sizes: Vec<u64> =
            files.map(|file| file.expect("a file").metadata().expect("its size").len()).collect();
        assert_eq!(sizes, [said["teachers_cache_bytes"].as_u64().expect("a size")], "{run}");
    }
}

#[test]
fn batchmean_weighs_as_many_times_more_as_a_window_has_tokens() {
    let school = School::new();
    school.train("token", &teachers(&["gpt_neox"], "alpha = 0.0\ntemperature = 1.0")).done();
    school
        .train("sum", &teachers(&["gpt_neox"], "alpha = 0.0\ntemperature = 1.0\nreduction = \"batchmean\""))
        .done();
    let norm = |run| school.column(run, "gradient_norm")[0];
    let ratio = norm("sum") / norm("token");
    assert!((ratio - 16.0).abs() < 1e-3, "{ratio}");
}

#[test]
fn teachers_that_do_not_fit_are_refused_before_anything_is_trained() {
    let school = School::new();
    let refused = |run: &str, distill: &str, parts: &[&str]| {
        school.train(run, distill).refused(2, parts);
        assert!(!school.0.path(run).join("steps.csv").exists());
    };
    refused("a", &teachers(&["llama"], ""), &["llama can't teach this student", "token"]);
    refused("b", &teachers(&["bert"], ""), &["bert can't teach this student"]);
    refused("c", &teachers(&["gpt_neox"], "alpha = 2.0"), &["alpha is 2"]);
    refused("d", &teachers(&["gpt_neox"], "tau = 2.0"), &["[distill]", "tau"]);
    refused("e", "[distill]\nteachers = [\"nowhere\"]\n", &["nowhere"]);
    refused("f", &teachers(&["xlstm"], "cache = \"hidden\""), &["xlstm", "can't teach"]);
    school.0.write("g.toml", format!("{PLAN}{}", teachers(&["gpt_neox"], "cache = \"full\"")));
    let shifted = ["train", "g.toml", "--corpus", "corpus", "-o", "g", "--set", "data.offset=epoch"];
    school.0.run(&shifted).refused(2, &["data.offset"]);
    // Another teacher is another run.
    school.train("h", &teachers(&["gpt_neox"], "")).done();
    school.train("h", &teachers(&["mamba"], "")).refused(2, &["another plan", "distill.teachers"]);
}

/// Names, shapes and values of a safetensors file, as f32.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(path).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let values = |view: &safetensors::tensor::TensorView<'_>| -> Vec<f32> {
        match view.dtype() {
            safetensors::Dtype::F32 => {
                view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            _ => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
                .collect(),
        }
    };
    let mut all: Vec<_> =
        file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), values(&view))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn names(folder: &PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn an_exported_model_is_the_checkpoint_and_its_plan_trains_it_again() {
    let school = School::new();
    school.train("run", "").done();
    let ran =
        school.export(&["run", "-o", "out", "--license", "mit", "--name", "A | tiny one", "--json"]).done();
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["dev_checkpoint"], report["dev_exported"]);
    let out = school.0.path("out");
    let expected = [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
    ];
    let more = ["tokenizer.json", "tokenizer_config.json", "training_plan.toml"];
    assert_eq!(names(&out), expected.iter().chain(&more).map(|name| (*name).to_owned()).collect());
    assert_eq!(
        tensors(&out.join("model.safetensors")),
        tensors(&school.0.path("run/model/model.safetensors"))
    );
    let config = json(&out.join("config.json"));
    assert_eq!(
        (&config["torch_dtype"], &config["architectures"][0]),
        (&"float32".into(), &"LlamaForCausalLM".into())
    );
    school.0.write("sentence.txt", "the cat saw it .\n");
    school.0.run(&["score", "--model", "out", "sentence.txt"]).done();
    let card = school.0.read("out/README.md");
    let digest = json(&school.0.path("run/plan.json"))["plan"]["data"]["corpus_sha256"].clone();
    let sha256 = report["weights_sha256"].as_str().expect("a digest").to_owned();
    for part in [
        "---\nlicense: \"mit\"\n",
        "language:\n- \"en\"",
        "library_name: transformers",
        "# A | tiny one",
        "| text | made up |",
        digest.as_str().expect("a digest"),
        &sha256,
        "--corpus",
        "bheval export run -o out",
        "Dev perplexity",
    ] {
        assert!(card.contains(part), "{part:?} is not in:\n{card}");
    }
    let again = ["train", "out/training_plan.toml", "--corpus", "corpus", "-o", "again", "--threads", "1"];
    school.0.run(&again).done();
    let weights = |run: &str| fs::read(school.0.path(run).join("model/model.safetensors")).expect("weights");
    assert!(weights("again") == weights("run"));
}

#[test]
fn halves_of_weights_are_the_nearest_and_the_card_says_what_they_cost() {
    let school = School::new();
    school.train("run", "").done();
    school.export(&["run", "-o", "whole"]).done();
    let ran =
        school.export(&["run", "--dtype", "bf16", "--checkpoint", "last", "-o", "half", "--json"]).done();
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let loss = |which: &str| report[which]["loss"].as_f64().expect("a loss");
    let change = (loss("dev_exported") - loss("dev_checkpoint")).abs();
    assert!(change > 0.0 && change < 0.01, "{change}");
    assert!(school.0.read("half/README.md").contains(&format!("{:.6}", loss("dev_exported"))));
    assert_eq!(json(&school.0.path("half/config.json"))["torch_dtype"], "bfloat16");
    let (whole, half) = (
        tensors(&school.0.path("whole/model.safetensors")),
        tensors(&school.0.path("half/model.safetensors")),
    );
    for ((name, shape, whole), (same, alike, half)) in whole.iter().zip(&half) {
        assert_eq!((name, shape), (same, alike));
        // Half of the distance between neighbours with 8 significant bits.
        assert!(whole.iter().zip(half).all(|(a, b)| (a - b).abs() <= a.abs() / 256.0), "{name}");
    }
    school.0.write("sentence.txt", "the cat saw it .\n");
    school.0.run(&["score", "--model", "half", "sentence.txt"]).done();
}

#[test]
fn what_can_not_be_exported_says_why_and_leaves_nothing() {
    let school = School::new();
    school.export(&["nowhere", "-o", "out"]).refused(1, &["nothing to export in nowhere", "plan.json"]);
    school.train("run", "").done();
    school
        .export(&["run", "--checkpoint", "3", "-o", "out"])
        .refused(1, &["no checkpoint of step 3; there are: 5, 6"]);
    school.export(&["run", "--checkpoint", "soon", "-o", "out"]).refused(2, &["`best`, `last`"]);
    school.export(&["run", "--checkpoint", "best", "-o", "out"]).done();
    school.export(&["run", "-o", "out"]).refused(1, &["-o out can't be used", "--force"]);
    school.export(&["run", "-o", "out", "--force"]).done();
    school.0.write("out/notes.txt", "mine");
    school.export(&["run", "-o", "out", "--force"]).refused(1, &["notes.txt"]);
    school.0.write("file", "mine");
    school.export(&["run", "-o", "file/out"]).refused(1, &["could not make the folder"]);
    let newest = names(&school.0.path("run/checkpoints")).into_iter().next_back().expect("a checkpoint");
    let weights = school.0.path("run/checkpoints").join(newest).join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("written");
    school.export(&["run", "-o", "new"]).refused(1, &["is damaged", "SHA-256"]);
    // Without the corpus, the card says what it can't tell.
    fs::rename(school.0.path("corpus"), school.0.path("elsewhere")).expect("renamed");
    let ran = school.export(&["run", "--checkpoint", "5", "-o", "bare"]).done();
    assert!(ran.stderr.contains("can't tell of the data"), "{}", ran.stderr);
    assert!(school.0.read("bare/README.md").contains("The corpus was not at hand"));
    let left: Vec<_> = names(&school.0.path("")).into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(left.is_empty() && !school.0.path("new").exists(), "{left:?}");
}
