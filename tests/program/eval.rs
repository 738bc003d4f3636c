//! Scoring tasks: what is printed, what is stored.

use crate::kit::{Bheval, json, table};

#[test]
fn the_demo_needs_no_data() {
    let bheval = Bheval::new();
    let model = crate::kit::model("hgrn2");
    let args = ["--model", model.to_str().expect("UTF-8"), "--tasks", "demo", "--run-dir", "run"];
    let output = bheval.command().env_remove("BHEVAL_DATA").args(args).output().expect("starts");
    let ran = crate::kit::ran(&output).done();
    assert!(ran.stdout.contains("demo_pairs") && ran.stdout.contains("15 paradigms"), "{}", ran.stdout);
    assert_eq!(table(&bheval.read("run/items/demo_pairs.csv")).len(), 300);
    assert_eq!(table(&bheval.read("run/items/demo_scenes.csv")).len(), 60);
}

#[test]
fn results_have_the_shape_of_lm_eval_and_follow_from_the_items() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "blimp", "--limit", "20"]).done();
    let results = json(&bheval.path("run/results.json"));
    let block = results["results"].as_object().expect("a block");
    assert_eq!(block.len(), 68);
    let items = table(&bheval.read("run/items/blimp.csv"));
    assert_eq!(items.len(), 67 * 20);
    let mut sum = 0.0;
    for name in results["group_subtasks"]["blimp"].as_array().expect("members") {
        let name = name.as_str().expect("text");
        let own = items.values().filter(|row| format!("blimp_{}", row["subset"]) == name);
        let scores: Vec<f64> = own.map(|row| row["correct"].parse().expect("a number")).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let stored = block[name]["acc"].as_f64().expect("a fraction");
        assert!((mean - stored).abs() < 1e-12, "{name}");
        sum += mean;
    }
    let macro_mean = block["blimp"]["acc"].as_f64().expect("a fraction");
    assert!((macro_mean - sum / 67.0).abs() < 1e-12);
}

#[test]
fn each_item_is_correct_exactly_if_its_good_sentence_is_more_probable() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "blimp/*island*", "--limit", "50"]).done();
    for (id, row) in table(&bheval.read("run/items/blimp.csv")) {
        let value = |column: &str| row[column].parse::<f64>().expect("a number");
        let expected = f64::from(u8::from(value("log_prob_good") > value("log_prob_bad")));
        let expected = if value("log_prob_good") == value("log_prob_bad") { 0.5 } else { expected };
        assert_eq!(value("correct"), expected, "{id}");
    }
}

#[test]
fn a_part_is_never_named_as_the_whole() {
    let bheval = Bheval::new();
    let ran = bheval.eval("run", &["--tasks", "blimp/morphology", "--limit", "5"]).done();
    assert!(ran.stdout.contains("blimp (part, first 5)"), "{}", ran.stdout);
    let results = json(&bheval.path("run/results.json"));
    assert!(results["results"].get("blimp").is_none());
    assert_eq!(results["group_subtasks"]["blimp:part"].as_array().map(Vec::len), Some(18));
}

#[test]
fn json_is_the_stored_file_and_quiet_is_quiet() {
    let bheval = Bheval::new();
    let ran = bheval.eval("run", &["--tasks", "demo", "--json", "--quiet"]).done();
    assert_eq!(ran.stdout, bheval.read("run/results.json"));
    assert_eq!(ran.stderr, "");
}

#[test]
fn ties_are_half_and_counted_or_first_wins_by_protocol() {
    let bheval = Bheval::new();
    // A model with one distribution for every place makes all pairs with the same tokens tie.
    let model = bheval.copy_of("hgrn2");
    crate::faults::rewrite(&model.join("model.safetensors"), |name, values| {
        if name == "lm_head.weight" {
            values.fill(0.0);
        }
    });
    let model = model.to_str().expect("UTF-8");
    let args = ["--model", model, "--tasks", "blimp/wh_island", "--run-dir"];
    let run = |name: &str, protocol: &str| {
        bheval.run(&[&args[..], &[name, "--protocol", protocol]].concat()).done()
    };
    let half = run("half", "bheval");
    run("first", "lm-eval");
    assert!(half.stderr.contains("are ties"), "{}", half.stderr);
    let of = |name: &str| json(&bheval.path(name).join("results.json"))["results"]["blimp_wh_island"].clone();
    let (half, first) = (of("half"), of("first"));
    let ties = half["ties"].as_f64().expect("a count");
    assert!(ties > 0.0 && half["ties"] == first["ties"]);
    let gain = (first["acc"].as_f64().expect("acc") - half["acc"].as_f64().expect("acc")) * 1000.0;
    assert!((gain - ties / 2.0).abs() < 1e-9, "{half} {first}");
}

#[test]
fn a_comparison_that_no_pipeline_has_keeps_its_own_rule_for_ties() {
    let bheval = Bheval::new();
    let model = bheval.copy_of("hgrn2");
    crate::faults::rewrite(&model.join("model.safetensors"), |name, values| {
        // Nothing of the context reaches the head, so all targets tie between contexts.
        if name == "lm_head.weight" {
            values.fill(0.0);
        }
    });
    let model = model.to_str().expect("UTF-8");
    let args = ["--model", model, "--tasks", "demo_scenes", "--run-dir", "run", "--protocol", "babylm2024"];
    bheval.run(&args).done();
    let results = json(&bheval.path("run/results.json"))["results"]["demo_scenes"].clone();
    assert_eq!(results["acc_contexts"], 0.5);
    assert_eq!(results["ties_contexts"], 120);
}

#[test]
fn a_limited_run_says_so() {
    let bheval = Bheval::new();
    let ran = bheval.eval("run", &["--tasks", "blimp", "--limit", "3"]).done();
    assert!(ran.stdout.contains("blimp (first 3)"), "{}", ran.stdout);
    assert!(ran.stderr.contains("201 of 67000 items were asked"), "{}", ran.stderr);
    assert_eq!(json(&bheval.path("run/results.json"))["results"]["blimp"]["limit"], 3);
    bheval.eval("run", &["--tasks", "blimp", "--limit", "0"]).refused(2, &["--limit"]);
}

#[test]
fn a_tokenizer_that_lies_elsewhere_still_gets_the_models_bos() {
    let bheval = Bheval::new();
    let model = bheval.copy_of("hgrn2");
    let elsewhere = bheval.path("tokenizer");
    std::fs::create_dir(&elsewhere).expect("made");
    std::fs::copy(model.join("tokenizer.json"), elsewhere.join("tokenizer.json")).expect("copied");
    let model = model.to_str().expect("UTF-8");
    let shown = bheval.run(&["inspect", "--model", model, "--tokenizer", "tokenizer"]).done().stdout;
    assert!(shown.contains("BOS        <s> (1), by config.json"), "{shown}");
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure_and_a_reader_that_leaves_is_none() {
    let bheval = Bheval::new();
    let model = crate::kit::model("hgrn2");
    let shell = |script: &str| {
        let mut command = bheval.command();
        let run = format!(
            "{} --model {} --tasks demo --run-dir run",
            env!("CARGO_BIN_EXE_bheval"),
            model.display()
        );
        let mut shell = std::process::Command::new("bash");
        shell.current_dir(bheval.path("")).args(["-c", &script.replace("BHEVAL", &run)]);
        shell.envs(command.env("NO", "").get_envs().filter_map(|(k, v)| Some((k, v?))));
        crate::kit::ran(&shell.output().expect("a shell"))
    };
    shell("BHEVAL > /dev/full").refused(1, &["could not be written to stdout", "run"]);
    assert_eq!(shell("BHEVAL | true; exit ${PIPESTATUS[0]}").code, Some(0));
}

#[test]
fn ewok_leaves_no_text_behind() {
    let bheval = Bheval::new();
    let ran = bheval.eval("run", &["--tasks", "ewok", "--full"]).done();
    let mut left = vec![ran.stdout, ran.stderr];
    for name in ["plan.json", "records.jsonl", "results.json", "items/ewok.csv", "sessions.jsonl"] {
        left.push(bheval.read(&format!("run/{name}")));
    }
    let folders = bheval_data::locate::Folders::from_env(Some(bheval_tests::data()), true).expect("folders");
    let task = bheval_tasks::select("ewok").expect("known").remove(0).task;
    let items = task.load(&folders).expect("loads").items;
    assert_eq!(items.len(), 4374);
    for query in items.iter().flat_map(|item| &item.queries) {
        for text in [query.context.trim(), query.continuation.trim()] {
            // The message names no text on purpose.
            assert!(!left.iter().any(|file| file.contains(text)), "an item's text was left behind");
        }
    }
}

#[test]
fn both_comparisons_of_ewok_follow_from_four_log_probs() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "ewok"]).done();
    for (id, row) in table(&bheval.read("run/items/ewok.csv")) {
        let p = |column: &str| row[&format!("log_prob_{column}")].parse::<f64>().expect("a number");
        let wins = |a: f64, b: f64| if a == b { 0.5 } else { f64::from(u8::from(a > b)) };
        let targets = (wins(p("t1_c1"), p("t2_c1")) + wins(p("t2_c2"), p("t1_c2"))) / 2.0;
        let contexts = (wins(p("t1_c1"), p("t1_c2")) + wins(p("t2_c2"), p("t2_c1"))) / 2.0;
        assert_eq!(row["correct"].parse::<f64>(), Ok(targets), "{id}");
        assert_eq!(row["correct_contexts"].parse::<f64>(), Ok(contexts), "{id}");
    }
}

#[test]
fn every_task_loads_and_has_the_items_it_lists() {
    let bheval = Bheval::new();
    let args = ["--tasks", "blimp*,supplement_fast,ewok*,demo", "--limit", "1", "--json"];
    let results: serde_json::Value =
        serde_json::from_str(&bheval.eval("run", &args).done().stdout).expect("JSON");
    let groups = results["group_subtasks"].as_object().expect("groups");
    assert_eq!(groups.len(), 10);
    let listed: serde_json::Value =
        serde_json::from_str(&bheval.run(&["tasks", "--json"]).done().stdout).expect("JSON");
    for task in listed["tasks"].as_array().expect("tasks") {
        let name = task["name"].as_str().expect("a name");
        assert_eq!(groups[name].as_array().map(|g| g.len() as u64), task["subsets"].as_u64(), "{name}");
    }
}

#[test]
fn lists_answer() {
    let bheval = Bheval::new();
    assert!(bheval.run(&["tasks"]).done().stdout.contains("blimp_filtered"));
    assert!(bheval.run(&["backends"]).done().stdout.contains("hgrn2"));
    assert!(bheval.run(&["data", "list"]).done().stdout.contains("ewok"));
    assert!(bheval.run(&["data", "verify", "blimp"]).done().stdout.contains("67 of 67 files are right"));
    let model = crate::kit::model("hgrn2");
    let inspected = bheval.run(&["inspect", "--model", model.to_str().expect("UTF-8")]).done().stdout;
    for part in ["(<s>) [▁The]", "the tokenizer adds \"<s>\"", "a leading space becomes a token of its own"]
    {
        assert!(inspected.contains(part), "`{part}` is not in: {inspected}");
    }
}

#[test]
fn flat_evaluation_saves_nothing_and_says_so() {
    let bheval = Bheval::new();
    let tasks = ["--tasks", "blimp/wh_island", "--route"];
    let flat = bheval.eval("flat", &[&tasks[..], &["flat"]].concat()).done();
    assert!(flat.stderr.contains(": 0.0% saved"), "{}", flat.stderr);
    let forest = bheval.eval("forest", &[&tasks[..], &["forest"]].concat()).done();
    assert!(!forest.stderr.contains(": 0.0% saved"), "{}", forest.stderr);
}

#[test]
fn verify_reads_an_archive_that_is_not_the_pinned_one() {
    let bheval = Bheval::new();
    bheval.write("data/ewok/ewok-core-1.0.zip", "garbage");
    let ran = bheval.run(&["data", "verify", "ewok", "--data", "data"]);
    ran.refused(1, &["ewok-core-1.0.zip"]);
    assert!(ran.stdout.contains("0 of 1 files are right"), "{}", ran.stdout);
}

/// Doctored tokenizers, and the warning that each must raise under a protocol.
#[test]
fn inspect_warns_of_the_classic_faults() {
    type Edit = fn(&mut serde_json::Value, &mut serde_json::Value, &mut serde_json::Value);
    let no_names: Edit = |_, settings, config| {
        for name in ["bos_token", "eos_token", "pad_token"] {
            settings.as_object_mut().expect("an object").remove(name);
            config.as_object_mut().expect("an object").remove(&format!("{name}_id"));
        }
    };
    let cases: [(&str, &str, Edit, &str); 8] = [
        ("unscored", "babylm2025", |t, _, _| t["post_processor"] = serde_json::Value::Null, "is not scored"),
        ("nameless", "bheval", no_names, "nothing stands before a sentence"),
        (
            "eos",
            "bheval",
            |_, s, c| {
                s.as_object_mut().expect("an object").remove("bos_token");
                c.as_object_mut().expect("an object").remove("bos_token_id");
            },
            "names no BOS; \"</s>\" stands before",
        ),
        ("doubled", "bheval", |_, _, _| {}, "the tokenizer adds \"<s>\" by itself"),
        ("setting", "babylm2025", |_, s, _| s["add_bos_token"] = false.into(), "add_bos_token: false"),
        (
            "appended",
            "bheval",
            |t, _, _| {
                t["post_processor"]["single"] = serde_json::json!([
                    {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}
                ]);
            },
            "the tokenizer appends",
        ),
        (
            "larger",
            "bheval",
            |t, _, _| t["model"]["vocab"]["▁unheard"] = 900.into(),
            "the tokenizer has 901 ids and the model 768",
        ),
        ("space", "lm-eval", |_, _, _| {}, "a leading space becomes a token of its own"),
    ];
    let bheval = Bheval::new();
    for (name, protocol, edit, warning) in cases {
        let copy = bheval.copy_of("hgrn2");
        std::fs::remove_file(copy.join("special_tokens_map.json")).expect("removed");
        let files = ["tokenizer.json", "tokenizer_config.json", "config.json"].map(|f| copy.join(f));
        let [mut tokenizer, mut settings, mut config] = files.each_ref().map(|f| json(f));
        edit(&mut tokenizer, &mut settings, &mut config);
        for (file, value) in files.iter().zip([tokenizer, settings, config]) {
            std::fs::write(file, value.to_string()).expect("written");
        }
        let model = copy.to_str().expect("UTF-8");
        let shown = bheval.run(&["inspect", "--model", model, "--protocol", protocol]).done().stdout;
        assert!(shown.contains(warning), "{name}: `{warning}` is not in: {shown}");
    }
}
