//! Training: a plan becomes a model, whatever happens on the way.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::{Bheval, Ran, json, ran};

/// Short documents, an empty line between them.
fn text() -> String {
    let nouns = [
        "cat", "dog", "farmer", "teacher", "child", "nurse", "bird", "horse", "baker", "girl", "boy", "mouse",
    ];
    let verbs = ["sleeps", "walks", "sings", "waits", "eats", "draws", "runs"];
    let places = ["in the garden", "at school", "near the old mill", "by the river", "on the sofa"];
    let mut text = String::new();
    for i in 0..900_usize {
        let (noun, verb) = (nouns[i * i % 12], verbs[(i * 5 + i / 7) % 7]);
        text += &format!(
            "The {noun} {verb} {}.\n{}",
            places[(i * i / 3 + i) % 5],
            if i % 3 == 2 { "\n" } else { "" }
        );
    }
    text
}

const PLAN: &str = r#"
[model]
model_type = "hgrn2"
hidden_size = 32
num_hidden_layers = 2
expand_ratio = 16
intermediate_size = 48
tie_word_embeddings = true

[data]
corpus = "corpus"
sequence_length = 16
offset = "epoch"

[optimizer]
learning_rate = 5e-3

[schedule]
shape = "cosine"
warmup_steps = 4

[train]
batch = 6
micro_batch = 4
steps = 40
seed = 11

[checkpoint]
every_steps = 6
keep = 2

[evaluate]
every_steps = 10
tokens = 300
"#;

/// A tokenizer, a corpus and a plan.
fn prepared() -> Bheval {
    let bheval = Bheval::new();
    bheval.write("text/all.txt", text());
    bheval
        .run(&["tokenizer", "train", "--from", "text", "--vocab", "320", "-o", "tokenizer", "--quiet"])
        .done();
    let build = [
        "corpus",
        "build",
        "--tokenizer",
        "tokenizer",
        "--from",
        "text",
        "--dev-share",
        "0.1",
        "-o",
        "corpus",
        "--quiet",
    ];
    bheval.run(&build).done();
    bheval.write("plan.toml", PLAN);
    bheval
}

fn train(bheval: &Bheval, out: &str, more: &[&str]) -> Ran {
    bheval.run(&[&["train", "plan.toml", "-o", out], more].concat())
}

fn weights(bheval: &Bheval, run: &str) -> Vec<u8> {
    std::fs::read(bheval.path(run).join("model/model.safetensors")).expect("a model")
}

/// Rows of steps.csv without the times, the header left out.
fn rows(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("steps.csv")).unwrap_or_default();
    text.lines().skip(1).map(|line| line.rsplitn(3, ',').last().expect("columns").to_owned()).collect()
}

fn spawn(bheval: &Bheval, out: &str) -> Child {
    let mut command = bheval.command();
    command.args(["train", "plan.toml", "-o", out, "--threads", "1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits until a run has written so many rows, or has ended.
fn wait_for(child: &mut Child, run: &Path, count: usize) {
    while rows(run).len() < count && child.try_wait().expect("waited").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

#[test]
fn a_trained_model_is_evaluated_and_does_not_depend_on_threads() {
    let bheval = prepared();
    let one = train(&bheval, "one", &["--threads", "1", "--json"]).done();
    let report: serde_json::Value = serde_json::from_str(&one.stdout).expect("JSON");
    assert_eq!((&report["ending"], &report["step"]), (&"done".into(), &40.into()));
    assert_eq!(report["model"]["step"], 40);
    train(&bheval, "three", &["--threads", "3", "--quiet"]).done();
    assert!(weights(&bheval, "one") == weights(&bheval, "three"));
    assert_eq!(rows(&bheval.path("one")), rows(&bheval.path("three")));
    assert_eq!(rows(&bheval.path("one")).len(), 40);
    let losses: Vec<f64> = rows(&bheval.path("one"))
        .iter()
        .map(|r| r.split(',').nth(5).expect("a loss").parse().expect("a number"))
        .collect();
    // 320 entries: guessing gives 5.77 nats.
    assert!((losses[0] - 320_f64.ln()).abs() < 0.3 && losses[39] < 4.0, "{losses:?}");
    let dev: Vec<_> = rows(&bheval.path("one"))
        .iter()
        .filter(|r| !r.ends_with(','))
        .map(|r| r.split(',').next().expect("a step").to_owned())
        .collect();
    assert_eq!(dev, ["10", "20", "30", "40"]);
    // The model, and a checkpoint as it lies.
    for model in ["one/model", "one/checkpoints/step-00000036"] {
        let eval = bheval.run(&[
            "--model",
            model,
            "--tasks",
            "demo",
            "--json",
            "--quiet",
            "--run-dir",
            &format!("eval-{}", model.len()),
        ]);
        assert!(eval.done().stdout.contains("\"demo_pairs\""));
    }
    let config = json(&bheval.path("one/model/config.json"));
    assert_eq!((&config["vocab_size"], &config["model_type"]), (&320.into(), &"hgrn2".into()));
    // The same command has nothing left to do.
    let again = train(&bheval, "one", &[]).done();
    assert!(
        again.stdout.contains("40 of 40 steps") && again.stdout.contains("bheval eval --model one/model"),
        "{}",
        again.stdout
    );
}

/// Ten kills of one run, and one of each of two others, at whatever they were doing.
#[test]
#[cfg(unix)]
fn killed_ten_times_it_ends_with_the_same_weights() {
    let bheval = prepared();
    train(&bheval, "whole", &["--threads", "2", "--quiet"]).done();
    let run = bheval.path("killed");
    let mut kills = 0;
    for (i, rows_wanted) in [1, 5, 9, 10, 14, 19, 23, 24, 31, 37].into_iter().enumerate() {
        let mut child = spawn(&bheval, "killed");
        wait_for(&mut child, &run, rows_wanted);
        // Now within a step, now within a checkpoint.
        std::thread::sleep(Duration::from_micros(400 * (i as u64 % 4)));
        kills += usize::from(child.try_wait().expect("waited").is_none());
        child.kill().expect("killed");
        child.wait().expect("waited");
    }
    assert!(kills >= 5, "{kills} of 10 were alive when they were killed");
    train(&bheval, "killed", &["--quiet"]).done();
    assert!(weights(&bheval, "killed") == weights(&bheval, "whole"));
    assert_eq!(rows(&run), rows(&bheval.path("whole")));
}

#[test]
#[cfg(unix)]
fn an_interrupt_finishes_the_step_saves_and_exits_130() {
    let bheval = prepared();
    bheval.write(
        "plan.toml",
        PLAN.replace("steps = 40", "steps = 4000").replace("every_steps = 6", "every_steps = 0"),
    );
    for (out, name, code) in [("int", "-INT", 130), ("term", "-TERM", 143)] {
        let mut child = spawn(&bheval, out);
        wait_for(&mut child, &bheval.path(out), 3);
        signal(&child, name);
        let ended = ran(&child.wait_with_output().expect("ended"));
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains("interrupted, and saved"), "{}", ended.stderr);
        let done = rows(&bheval.path(out)).len();
        let state = json(&bheval.path(out).join(format!("checkpoints/step-{done:08}/state.json")));
        assert_eq!((&state["step"], &state["scheduled"]), (&done.into(), &false.into()));
        assert!(!bheval.path(out).join("model").exists());
    }
}

#[test]
fn tasks_are_run_at_checkpoints() {
    let bheval = prepared();
    let run = train(
        &bheval,
        "run",
        &["--set", "evaluate.tasks=demo", "--set", "train.steps=12", "--set", "evaluate.limit=5"],
    )
    .done();
    assert!(run.stderr.contains("step 12: demo_pairs acc/macro"), "{}", run.stderr);
    let scores = bheval.read("run/scores.csv");
    let steps: Vec<_> = scores
        .lines()
        .skip(1)
        .filter(|l| l.contains(",demo_pairs,acc/macro,"))
        .map(|l| l.split(',').next().expect("a step"))
        .collect();
    assert_eq!(steps, ["6", "12"], "{scores}");
    // What the curve says is what the evaluation of the model says.
    let results = json(&bheval.path("run/evaluations/step-00000012/results.json"));
    let said = results["results"].as_object().expect("results").values().next().expect("a task")["acc"]
        .as_f64()
        .expect("a score");
    let last =
        scores.lines().find(|l| l.starts_with("12,") && l.contains(",demo_pairs,acc/macro,")).expect("a row");
    assert_eq!(last.rsplit(',').next().expect("a value").parse::<f64>().expect("a number"), 100.0 * said);
    train(&bheval, "other", &["--set", "evaluate.tasks=nonsense"]).refused(2, &["nonsense"]);
}

#[test]
fn a_dry_run_says_what_it_will_cost_and_writes_nothing() {
    let bheval = prepared();
    let found = bheval.run(&["train", "plan.toml", "--dry-run", "--json"]).done();
    let found: serde_json::Value = serde_json::from_str(&found.stdout).expect("JSON");
    let estimate = &found["estimate"];
    // architectures.md 1.9: L(4D² + 3DI + 3D) + VD + LD + D.
    let (d, i, l, v) = (32, 48, 2, 320);
    let parameters = l * (4 * d * d + 3 * d * i + 3 * d) + v * d + l * d + d;
    assert_eq!(estimate["parameters"], parameters);
    assert_eq!((&estimate["steps"], &estimate["tokens"]), (&40.into(), &(40 * 6 * 16).into()));
    assert_eq!(estimate["memory"]["parameters"], 16 * parameters);
    assert!(estimate["memory"]["held"].as_u64().expect("measured") >= 16 * parameters);
    assert_eq!(estimate["time"]["source"], "measured");
    assert_eq!((&estimate["checkpoints_written"], &estimate["checkpoints_kept"]), (&7.into(), &2.into()));
    // 1.10, chunks of 64 counted: L(8D² + 6DI + 4D(C + e)) + 2VD forward, three times that in training.
    let forward = (l * (8 * d * d + 6 * d * i + 4 * d * (64 + 16)) + 2 * v * d) as f64;
    assert_eq!(estimate["flops"]["training_per_token"], 3.0 * forward);
    let given = bheval.run(&["train", "plan.toml", "--dry-run", "--flops", "1e9"]).done();
    assert!(
        given.stdout.contains("train.batch = 6") && given.stdout.contains("tokens a second, reckoned"),
        "{}",
        given.stdout
    );
    let entries: Vec<_> = std::fs::read_dir(bheval.path("."))
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert_eq!(entries.len(), 4, "{entries:?}");
}

#[test]
fn presets_are_listed_shown_and_used() {
    let bheval = prepared();
    let list = bheval.run(&["train", "--list-presets"]).done();
    assert!(
        list.stdout.contains("babyhgrn-360m") && list.stdout.contains("366,846,976 parameters"),
        "{}",
        list.stdout
    );
    let shown = bheval.run(&["train", "--show-preset", "hgrn2-nano"]).done();
    // What is shown is a plan.
    bheval.write("nano.toml", &shown.stdout);
    let small = [
        "--set",
        "model.num_hidden_layers=1",
        "--set",
        "model.hidden_size=128",
        "--set",
        "train.steps=2",
        "--set",
        "train.batch=2",
        "--corpus",
        "corpus",
        "--quiet",
    ];
    bheval.run(&[&["train", "nano.toml", "-o", "file"], &small[..]].concat()).done();
    bheval.run(&[&["train", "--preset", "hgrn2-nano", "-o", "preset"], &small[..]].concat()).done();
    assert!(weights(&bheval, "file") == weights(&bheval, "preset"));
    bheval.run(&["train", "--show-preset", "gpt9"]).refused(2, &["gpt9", "hgrn2-nano"]);
}

#[test]
fn what_can_not_be_trained_is_refused_before_anything_is_written() {
    let bheval = prepared();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--set", "train.bach=3"], &["unknown field `bach`", "`batch`"]),
        (&["--set", "model.hiden_size=3"], &["model.hiden_size is no key of hgrn2", "hidden_size"]),
        (&["--set", "data.corpus=nowhere"], &["nowhere", "bheval corpus build"]),
        (&["--set", "data.sequence_length=1000000"], &["no window of 1000000"]),
        (&["--set", "model.hidden_size=33"], &["config.json"]),
        (&["--backend", "ngram"], &["ngram"]),
        (&["--backend", "no-such-backend"], &["no-such-backend"]),
        (&["--set", "train.precision=f16"], &["unknown variant `f16`", "`bf16`"]),
        (&["--set", "train.initialise=corpus"], &["model.safetensors"]),
        (&["--preset", "no-such"], &["there is none called \"no-such\""]),
        (&["--corpus", "text"], &["text", "corpus.json"]),
        (
            &["--set", "evaluate.patience=2", "--set", "evaluate.every_steps=0"],
            &["evaluate.patience needs evaluate.every_steps"],
        ),
    ];
    for (more, parts) in cases {
        train(&bheval, "run", more).refused(2, parts);
        assert!(!bheval.path("run/checkpoints/step-00000006").exists(), "{more:?}");
    }
    bheval.run(&["train", "nowhere.toml", "-o", "run"]).refused(2, &["nowhere.toml"]);
    bheval.run(&["train", "plan.toml"]).refused(2, &["--out"]);
    bheval.write("home/letter.txt", "dear");
    train(&bheval, "home", &["--fresh"]).refused(2, &["holds letter.txt, but no run"]);
}

#[test]
fn a_learning_rate_that_diverges_stops_the_run_and_names_the_batch() {
    let bheval = prepared();
    let wild = ["--set", "optimizer.learning_rate=500", "--set", "schedule.warmup_steps=0"];
    let ended = train(&bheval, "run", &wild);
    ended.refused(1, &["at step ", "(windows ", "of epoch 0", "try a lower optimizer.learning_rate"]);
    assert!(!bheval.path("run/model").exists());
    let finite = rows(&bheval.path("run")).iter().all(|row| !row.contains("NaN") && !row.contains("inf"));
    assert!(finite);
}

/// The counts that paper.md 4 prints and those of the formulas in architectures.md, from the tensors themselves.
#[test]
fn presets_have_as_many_parameters_as_they_say() {
    let bheval = prepared();
    for (preset, parameters) in [
        // 8 (4D² + 3DI + 3D) + VD + 8D + D, D 256, I 688, V 16,000.
        ("hgrn2-nano", 8 * (4 * 65_536 + 3 * 256 * 688 + 768) + 4_096_000 + 2048 + 256),
        // 8 (4D² + 3DI + 2D) + D + VD.
        ("llama-10m", 8 * (4 * 65_536 + 3 * 256 * 688 + 512) + 256 + 4_096_000),
        // VD + 512 D + 8 (12 D² + 13 D) + 2 D.
        ("gpt2-10m", 4_096_000 + 512 * 256 + 8 * (12 * 65_536 + 13 * 256) + 512),
        // 4 (HE + H² + 2H) + 4 (2H² + 2H) + VE + HE + V, E 256, H 640.
        ("lstm-10m", 4 * (163_840 + 409_600 + 1280) + 4 * (819_200 + 1280) + 4_096_000 + 163_840 + 16_000),
        // 14 (2DI + 5I + I(R + 2N) + RI + I + IN + I + ID + D) + D + VD, I 512, N and R 16.
        (
            "mamba-10m",
            14 * (262_144 + 2560 + 24_576 + 8192 + 512 + 8192 + 512 + 131_072 + 256) + 256 + 4_096_000,
        ),
        // 14 (D(I + 768 + 8) + 5 · 768 + 3 · 8 + I + ID + D) + D + VD: 768 are x, B and C, 8 heads.
        ("mamba2-10m", 14 * (256 * 1288 + 3840 + 24 + 512 + 131_072 + 256) + 256 + 4_096_000),
        // 13 mLSTM blocks, 2 sLSTM blocks with a gated MLP of 384, D and VD (section 7.3).
        ("xlstm-10m", 13 * 415_496 + 2 * 429_056 + 256 + 4_096_000),
    ] {
        let args = [
            "--preset",
            preset,
            "--corpus",
            "corpus",
            "--set",
            "model.vocab_size=16000",
            "--dry-run",
            "--flops",
            "1e12",
        ];
        let small = ["--set", "data.sequence_length=16", "--json"];
        let found = bheval.run(&[&["train"], &args[..], &small[..]].concat()).done();
        let found: serde_json::Value = serde_json::from_str(&found.stdout).expect("JSON");
        assert_eq!(found["estimate"]["parameters"], parameters, "{preset}");
    }
}

#[test]
fn another_plan_is_refused_and_put_aside_when_asked() {
    let bheval = prepared();
    let short = ["--set", "train.steps=6", "--quiet"];
    train(&bheval, "run", &short).done();
    let other = [&short[..], &["--set", "optimizer.learning_rate=1e-3"]].concat();
    train(&bheval, "run", &other).refused(
        2,
        &[
            "run holds a run of another plan",
            "optimizer.learning_rate is 0.005 there and 0.001 here",
            "--fresh",
        ],
    );
    train(&bheval, "run", &[&other[..], &["--fresh"]].concat()).done();
    assert!(bheval.path("run.old1/steps.csv").exists() && bheval.path("run/model").exists());
}

/// A file that may not grow beyond a limit is what a full disk looks like to a program: a write that fails.
#[test]
#[cfg(unix)]
fn a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_last_good_one() {
    let bheval = prepared();
    let whole = train(&bheval, "whole", &["--quiet"]).done();
    assert!(whole.stderr.is_empty(), "{}", whole.stderr);
    let mut child = spawn(&bheval, "run");
    wait_for(&mut child, &bheval.path("run"), 8);
    child.kill().expect("killed");
    child.wait().expect("waited");
    let kept = std::fs::read_dir(bheval.path("run/checkpoints")).expect("a folder").count();
    assert!(kept >= 1);
    let program = env!("CARGO_BIN_EXE_bheval");
    let mut shell = Command::new("bash");
    // 100 blocks of 1024 bytes: weights of 81 KB fit, moments of 163 KB do not.
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f 100; exec {program} train plan.toml -o run")]);
    let ended = ran(&shell.current_dir(bheval.path(".")).output().expect("a shell"));
    ended.refused(1, &["could not be written", "The last good one is run/checkpoints/step-", "make room"]);
    let left: Vec<_> = std::fs::read_dir(bheval.path("run/checkpoints"))
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with("step-")), "{left:?}");
    train(&bheval, "run", &["--quiet"]).done();
    assert!(weights(&bheval, "run") == weights(&bheval, "whole"));
}
