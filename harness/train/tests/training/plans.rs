//! Plans: where keys come from, and what is said of wrong ones.

use bheval_train::plan::{Draft, Identity, Keep, PRESETS, Plan, Sources};
use bheval_train::schedule::Shape;
use serde_json::{Map, Value};

use crate::kit::Bench;

fn sources(file: Option<&str>, preset: Option<&str>, set: &[&str]) -> Sources {
    Sources {
        file: file.map(|text| ("plan.toml".to_owned(), text.to_owned())),
        preset: preset.map(str::to_owned),
        set: set.iter().map(|s| (*s).to_owned()).collect(),
        corpus: None,
    }
}

fn plan(bench: &Bench, sources: Sources) -> Result<Plan, String> {
    let corpus = Some(bench.corpus.folder().display().to_string());
    let draft = Draft::read(&Sources { corpus, ..sources }).map_err(|e| e.to_string())?;
    draft.resolve(&bench.corpus, &bench.tokenizer).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(bench: &Bench, sources: Sources, parts: &[&str]) {
    let text = plan(bench, sources).expect_err("refused");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn the_command_line_is_stronger_than_the_file_and_that_than_its_preset() {
    let bench = Bench::of(20_001, 500);
    let file = "preset = \"hgrn2-nano\"\n[model]\nhidden_size = 128\n[train]\nsteps = 12\n";
    let set = ["train.batch=7", "optimizer.learning_rate=3e-4", "evaluate.tasks=blimp,ewok", "train.batch=8"];
    let plan = plan(&bench, sources(Some(file), None, &set)).expect("a plan");
    assert_eq!((plan.preset.as_deref(), plan.train.steps, plan.train.batch), (Some("hgrn2-nano"), 12, 8));
    assert_eq!(
        (plan.optimizer.learning_rate, plan.optimizer.beta2, plan.optimizer.clip),
        (3e-4, 0.95, Some(1.0))
    );
    assert_eq!(plan.evaluate.tasks.as_deref(), Some("blimp,ewok"));
    assert_eq!((&plan.model["hidden_size"], &plan.model["num_hidden_layers"]), (&128.into(), &8.into()));
    assert_eq!(plan.model["architectures"], serde_json::json!(["HGRN2ForCausalLM"]));
    assert_eq!((&plan.model["vocab_size"], &plan.model["eos_token_id"]), (&12.into(), &0.into()));
    assert!(!plan.model.contains_key("bos_token_id"));
}

#[test]
fn a_vocabulary_is_padded_where_asked() {
    let bench = Bench::new();
    let with = |more: &str| {
        plan(
            &bench,
            sources(
                Some(&format!("model.model_type = \"llama\"\n{more}\n[data]\nsequence_length = 8\n")),
                None,
                &["data.vocab_multiple=64"],
            ),
        )
    };
    assert_eq!(with("").expect("a plan").model["vocab_size"], 64);
    assert_eq!(with("model.vocab_size = 20").expect("a plan").model["vocab_size"], 20);
    assert!(
        with("model.vocab_size = 11")
            .expect_err("too small")
            .contains("plan.toml, line 2: model.vocab_size is 11")
    );
    assert!(
        with("model.eos_token_id = 5")
            .expect_err("another")
            .contains("model.eos_token_id is 5, but the corpus's tokenizer has 0")
    );
}

#[test]
fn wrong_keys_are_named_with_line_and_choice() {
    let bench = Bench::new();
    let head = "[model]\nmodel_type = \"llama\"\n[data]\nsequence_length = 8\n";
    let cases: [(&str, &[&str]); 19] = [
        (
            "[optimizer]\nlearnig_rate = 1\n",
            &["plan.toml, line 6", "unknown field `learnig_rate`", "`learning_rate`"],
        ),
        ("[optimiser]\n", &["line 5", "unknown field `optimiser`", "`optimizer`"]),
        ("[schedule]\nshape = \"cosin\"\n", &["line 6", "unknown variant `cosin`", "`cosine`", "`wsd`"]),
        ("[train]\nbatch = \"x\"\n", &["line 6", "invalid type: string \"x\", expected u64"]),
        ("[train]\nbatch = -1\n", &["line 6", "invalid value: integer `-1`"]),
        ("[train]\nbatch = 0\n", &["line 6", "train.batch is 0, but must be from 1 to"]),
        ("[train]\nsteps = 3\nepochs = 2\n", &["line 7", "train.steps and train.epochs are two answers"]),
        ("[train]\nepochs = nan\n", &["line 6", "train.epochs is NaN, but must be above 0"]),
        ("[train]\nepochs = 1e9\n", &[]),
        (
            "[optimizer]\nlearning_rate = 0.0\n",
            &["line 6", "optimizer.learning_rate is 0, but must be above 0"],
        ),
        ("[optimizer]\nbeta2 = 1.0\n", &["line 6", "optimizer.beta2 is 1, but must be from 0 to below 1"]),
        ("[optimizer]\nclip = inf\n", &["line 6", "optimizer.clip is inf"]),
        (
            "[schedule]\nwarmup_steps = 1000\n[train]\nsteps = 10\n",
            &["line 6", "warmup_steps is 1000, but the run has 10 steps"],
        ),
        ("[schedule]\ndecay_share = 0.5\n", &["line 6", "decay_share belongs to schedule.shape = \"wsd\""]),
        ("[checkpoint]\nkeep = 0\n", &["line 6", "checkpoint.keep is 0"]),
        ("[checkpoint]\nkeep = \"some\"\n", &["line 6", "\"some\"", "\"all\" or a number"]),
        ("[evaluate]\npatience = 3\n", &["line 6", "evaluate.patience needs evaluate.every_steps"]),
        ("[train]\nthreads = 0\n", &["line 6", "train.threads is 0"]),
        ("[train]\ninitialise = \"no/such\"\n", &["no/such"]),
    ];
    for (more, parts) in cases {
        let file = format!("{head}{more}");
        if parts.is_empty() {
            plan(&bench, sources(Some(&file), None, &[])).expect("large but right");
        } else {
            refused(&bench, sources(Some(&file), None, &[]), parts);
        }
    }
    refused(
        &bench,
        sources(Some("[model]\nmodel_type = \"llama\"\nhiden_size = 3\n"), None, &[]),
        &["line 3", "model.hiden_size is no key of llama", "hidden_size"],
    );
    refused(
        &bench,
        sources(Some("[model]\nmodel_type = \"bert\"\n"), None, &[]),
        &["line 2", "model.model_type is bert", "hgrn2, llama"],
    );
    refused(
        &bench,
        sources(Some("[train]\nsteps = 1\n"), None, &[]),
        &["model.model_type is missing", "--list-presets"],
    );
    refused(&bench, sources(Some("[model\n"), None, &[]), &["plan.toml"]);
    refused(&bench, sources(None, Some("gpt5"), &[]), &["none called \"gpt5\"", "hgrn2-nano"]);
    refused(
        &bench,
        sources(Some("preset = \"gpt2-10m\"\n[model]\nmodel_type = \"llama\"\n"), None, &[]),
        &["line 3", "but the preset's is \"gpt2\""],
    );
    refused(
        &bench,
        sources(Some("preset = \"gpt2-10m\"\n"), Some("hgrn2-nano"), &[]),
        &["preset is \"gpt2-10m\"", "--preset hgrn2-nano"],
    );
    refused(&bench, sources(None, Some("hgrn2-nano"), &["batch"]), &["--set batch", "section.key=value"]);
    refused(
        &bench,
        sources(None, Some("hgrn2-nano"), &["train.bach=3"]),
        &["--set train.bach=3", "unknown field `bach`"],
    );
    refused(
        &bench,
        sources(None, Some("hgrn2-nano"), &["data.sequence_length=4000"]),
        &["1601 tokens hold no window of 4000"],
    );
}

#[test]
fn a_file_without_a_corpus_says_where_to_get_one() {
    let draft = Draft::read(&sources(None, Some("hgrn2-nano"), &[])).expect("read");
    let text = draft.corpus().expect_err("none").to_string();
    assert!(text.contains("data.corpus is missing") && text.contains("bheval corpus build"), "{text}");
}

#[test]
fn a_dev_loss_that_only_a_preset_asks_for_is_left_out_without_dev_text() {
    let bench = Bench::of(20_001, 0);
    let found = plan(&bench, sources(None, Some("hgrn2-nano"), &[])).expect("a plan");
    assert_eq!(found.evaluate.every_steps, None);
    refused(
        &bench,
        sources(None, Some("hgrn2-nano"), &["evaluate.every_steps=10"]),
        &["the corpus has no dev text"],
    );
}

#[test]
fn how_long_a_run_is_may_be_said_in_three_ways() {
    let bench = Bench::new();
    let windows = |how: &str| {
        let file =
            format!("model.model_type = \"llama\"\ndata.sequence_length = 8\ntrain.batch = 7\ntrain.{how}\n");
        let plan = plan(&bench, sources(Some(&file), None, &[])).expect("a plan");
        (plan.train.windows, plan.train.steps)
    };
    // 200 windows an epoch, 6 words each: 15 in 20 tokens.
    assert_eq!(windows("steps = 30"), (210, 30));
    assert_eq!(windows("epochs = 1"), (200, 29));
    assert_eq!(windows("epochs = 1.5"), (300, 43));
    assert_eq!(windows("words = 2400"), (400, 58));
    assert_eq!(windows("words = 1200"), (200, 29));
}

#[test]
fn schedules_and_rates_are_resolved() {
    let bench = Bench::new();
    let file = "model.model_type = \"llama\"\ndata.sequence_length = 8\ntrain = {batch = 8, steps = 200}\n\
                schedule = {shape = \"wsd\", warmup_share = 0.1, decay_share = 0.25, floor = 0.1}\noptimizer.clip = 0\n";
    let found = plan(&bench, sources(Some(file), None, &[])).expect("a plan");
    assert_eq!(
        (found.schedule.shape, found.schedule.warmup_steps, found.schedule.decay_steps),
        (Shape::Wsd, 20, 50)
    );
    let rates = found.rates(10);
    assert_eq!((rates.learning_rate, rates.clip, rates.step), (0.5e-3, None, 10));
    assert_eq!(found.checkpoint.keep, Keep::Newest(2));
}

#[test]
fn threads_and_checkpoints_are_no_part_of_what_decides_the_weights() {
    let bench = Bench::new();
    let digest = |more: &str| {
        let file = format!("model.model_type = \"llama\"\ndata.sequence_length = 8\n{more}\n");
        Identity::of(&plan(&bench, sources(Some(&file), None, &[])).expect("a plan")).digest()
    };
    let base = digest("");
    for same in
        ["train.threads = 3", "checkpoint.every_steps = 3", "evaluate.tasks = \"demo\"", "train.epochs = 1"]
    {
        assert_eq!(digest(same), base, "{same}");
    }
    for other in [
        "train.seed = 1",
        "optimizer.beta1 = 0.8",
        "train.precision = \"bf16\"",
        "schedule.floor = 0.5",
        "data.offset = \"epoch\"",
        "model.hidden_size = 8",
        "distill.alpha = 0.5",
    ] {
        assert_ne!(digest(other), base, "{other}");
    }
}

/// Parameters by the formulas of architectures.md for a vocabulary of 16,000, from a preset's keys.
fn parameters(model: &Map<String, Value>) -> u64 {
    let n = |key: &str| model[key].as_u64().unwrap_or_else(|| panic!("{key}"));
    let vocab = 16_000;
    let tied =
        ["tie_word_embeddings", "tie_weights"].iter().any(|key| model.get(*key) == Some(&Value::Bool(true)));
    let heads = if tied { 1 } else { 2 };
    match model["model_type"].as_str().expect("a text") {
        "hgrn2" => {
            let (d, l) = (n("hidden_size"), n("num_hidden_layers"));
            // 1.9: 256 * ceil(floor(2 * D * ratio / 3) / 256).
            let i = model.get("intermediate_size").map_or_else(
                || (2 * d * n("hidden_ratio") / 3).div_ceil(256) * 256,
                |i| i.as_u64().expect("a size"),
            );
            l * (4 * d * d + 3 * d * i + 3 * d) + heads * vocab * d + l * d + d
        }
        "llama" => {
            let (d, l, i) = (n("hidden_size"), n("num_hidden_layers"), n("intermediate_size"));
            l * (4 * d * d + 3 * d * i + 2 * d) + d + heads * vocab * d
        }
        "gpt2" => {
            let (d, l) = (n("n_embd"), n("n_layer"));
            vocab * d + n("n_positions") * d + l * (12 * d * d + 13 * d) + 2 * d
        }
        "lstm_lm" => {
            let (e, h, p) = (n("embedding_size"), n("hidden_size"), n("num_layers"));
            let layers: u64 = (0..p).map(|p| 4 * (h * if p == 0 { e } else { h } + h * h + 2 * h)).sum();
            // Section 4; tied heads of another width have a projection. The head has a bias.
            layers + vocab * e + if tied { h * e } else { vocab * h } + vocab
        }
        "mamba" => {
            let (d, i, s, r) =
                (n("hidden_size"), n("intermediate_size"), n("state_size"), n("time_step_rank"));
            let layer = 2 * d * i + 5 * i + i * (r + 2 * s) + r * i + i + i * s + i + i * d + d;
            n("num_hidden_layers") * layer + d + heads * vocab * d
        }
        "mamba2" => {
            let (d, s, h) = (n("hidden_size"), n("state_size"), n("num_heads"));
            let i = h * n("head_dim");
            let mixed = i + 2 * n("n_groups") * s;
            n("num_hidden_layers") * (d * (i + mixed + h) + 5 * mixed + 3 * h + i + i * d + d)
                + d
                + heads * vocab * d
        }
        "xlstm" => {
            // Section 7.3 of the package's shapes.
            let (d, b) = (n("embedding_dim"), n("num_blocks"));
            let scalar = model["slstm_at"].as_array().expect("a list").len() as u64;
            let i = (2 * d).next_multiple_of(64);
            let matrix = 2 * i * d + 3 * i * 4 + 5 * i + 2 * (4 * 3 * i + 4) + i + i + d * i + d;
            let f = ((1.3 * d as f64 / 64.0).ceil() * 64.0) as u64;
            let s = 5 * d + 4 * d * d / 4 + 4 * d * d / 4 + 4 * d + d + 3 * f * d + 2 * d;
            (b - scalar) * matrix + scalar * s + d + heads * vocab * d
        }
        other => panic!("{other}"),
    }
}

/// The counts that paper.md 4 and architectures.md print, and "about 10M".
#[test]
fn presets_have_the_sizes_of_the_papers_table() {
    let expected = |name: &str| match name {
        "babyhgrn-360m" => (366_846_976, 366_846_976),
        "babyhgrn-1b" => (990_529_536, 990_529_536),
        "xlstm-340m" => (338_181_456, 338_181_456),
        "babyllama-58m" => (58_335_000, 58_345_000),
        "transformer-360m" => (401_850_000, 401_950_000),
        "lstm-300m" => (283_450_000, 283_550_000),
        "mamba-350m" => (350_350_000, 350_450_000),
        _ => (9_800_000, 10_700_000),
    };
    let bench = Bench::of(20_001, 500);
    for preset in PRESETS {
        let found = plan(&bench, sources(None, Some(preset.name), &["train.steps=1000"]))
            .unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        let (count, (low, high)) = (parameters(&found.model), expected(preset.name));
        assert!((low..=high).contains(&count), "{}: {count}", preset.name);
        assert!(preset.title().contains("parameters"), "{}", preset.title());
    }
}
