//! BERT and RoBERTa in the binary: readings, results, and what is refused.

use serde_json::Value;

use crate::kit::{Bheval, Ran, json, model, table};

fn run(bheval: &Bheval, command: &str, name: &str, more: &[&str]) -> Ran {
    let path = model(name);
    bheval.run(&[&[command, "--model", path.to_str().expect("UTF-8")], more].concat())
}

fn eval(bheval: &Bheval, name: &str, folder: &str, more: &[&str]) -> Ran {
    run(bheval, "eval", name, &[&["--run-dir", folder], more].concat())
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|x| x.as_str().expect("a text")).collect()
}

/// The first items of a paradigm, good and bad, against the BabyLM 2025 pipeline's.
fn babylm2025(name: &str, backend: &str, pll: &str) {
    let bheval = Bheval::new();
    let golden =
        json(&bheval_tests::golden().join(format!("protocols/babylm25_blimp_{backend}_{name}.json")));
    let tasks = "blimp/anaphor_number_agreement,blimp/irregular_past_participle_verbs";
    let args = ["--tasks", tasks, "--limit", "150", "--protocol", "babylm2025", "--pll", pll];
    eval(&bheval, name, "run", &args).done();
    let items = table(&bheval.read("run/items/blimp.csv"));
    assert_eq!(items.len(), 300);
    for (uid, own) in golden["items"].as_object().expect("paradigms") {
        for (index, scores) in own["scores"].as_array().expect("scores").iter().enumerate() {
            let row = &items[&format!("blimp/{uid}/{index}")];
            let scores = numbers(scores);
            for (column, golden) in ["log_prob_good", "log_prob_bad"].iter().zip(&scores) {
                let ours: f64 = row[*column].parse().expect("a number");
                assert!(
                    (ours - golden).abs() <= 2e-4,
                    "{uid} {index}: {ours} where the pipeline has {golden}"
                );
            }
            if (scores[0] - scores[1]).abs() > 1e-4 {
                assert_eq!(row["correct"] == "1", own["pred"][index] == 0, "{uid} {index}");
            }
        }
    }
}

#[test]
fn the_babylm_2025_pipelines_items_come_out() {
    babylm2025("bert", "mlm", "original");
    babylm2025("roberta", "mlm", "original");
}

#[test]
fn the_babylm_2025_pipelines_mntp_items_come_out() {
    babylm2025("bert", "mntp", "mntp");
}

/// Rows of `score`'s table for each sentence.
fn score(bheval: &Bheval, name: &str, sentences: &[&str], more: &[&str]) -> Vec<Vec<csv::StringRecord>> {
    let text = bheval.write("sentences", sentences.join("\n") + "\n");
    let more = [&[text.to_str().expect("UTF-8")], more].concat();
    let stdout = run(bheval, "score", name, &more).done().stdout;
    let mut reader = csv::Reader::from_reader(stdout.as_bytes());
    let columns = ["sentence", "index", "id", "piece", "start", "end", "log_prob", "surprisal_bits", "pll"];
    assert_eq!(reader.headers().expect("a header"), columns.to_vec());
    let rows: Vec<_> = reader.records().map(|r| r.expect("a row")).collect();
    let of = |s: usize| rows.iter().filter(|r| r[0] == s.to_string()).cloned().collect();
    (0..sentences.len()).map(of).collect()
}

fn values(rows: &[csv::StringRecord]) -> Vec<f64> {
    rows.iter().filter(|r| !r[6].is_empty()).map(|r| r[6].parse().expect("a number")).collect()
}

#[test]
fn score_gives_each_hidden_token_as_the_golden_does() {
    for name in ["bert", "roberta"] {
        let bheval = Bheval::new();
        let golden = json(&model(name).join("golden.json"));
        let all = golden["sentences"].as_array().expect("sentences");
        let fit: Vec<&Value> =
            all.iter().filter(|s| !s["text"].as_str().expect("text").contains('\n')).collect();
        assert!(fit.len() >= 31);
        let sentences: Vec<&str> = fit.iter().map(|s| s["text"].as_str().expect("text")).collect();
        let scored = score(&bheval, name, &sentences, &["--pll", "original"]);
        for (sentence, rows) in fit.iter().zip(scored) {
            let ids: Vec<f64> = rows.iter().map(|r| r[2].parse().expect("an id")).collect();
            assert_eq!(ids, numbers(&sentence["ids"]));
            assert!(rows[0][6].is_empty() && rows[rows.len() - 1][6].is_empty(), "special tokens");
            assert!(rows.iter().all(|r| &r[8] == "original"));
            let (ours, expected) = (values(&rows), numbers(&sentence["logprobs"]));
            assert_eq!(ours.len(), expected.len());
            for (ours, expected) in ours.iter().zip(expected) {
                assert!((ours - expected).abs() <= 5e-5, "{ours} where the golden has {expected}");
            }
            let total: f64 = ours.iter().sum();
            assert!((total - sentence["total"].as_f64().expect("a total")).abs() <= 2e-4);
        }
    }
}

#[test]
fn score_reads_by_words_unless_told_otherwise_as_minicons_would() {
    for name in ["bert", "roberta"] {
        let bheval = Bheval::new();
        let golden = json(&bheval_tests::golden().join(format!("protocols/minicons_mlm_{name}.json")));
        let sentences = texts(&golden["sentences"]);
        let scored = score(&bheval, name, &sentences, &[]);
        for (rows, expected) in scored.iter().zip(numbers(&golden["pll_sum_within_word_l2r"])) {
            let total: f64 = values(rows).iter().sum();
            assert!((total - expected).abs() <= 2e-4, "{total} where minicons has {expected}");
            assert!(rows.iter().all(|r| &r[8] == "within_word_l2r"));
        }
    }
}

#[test]
fn jsonl_names_the_reading() {
    let bheval = Bheval::new();
    let text = bheval.write("text", "Dogs bark.\n");
    let args = [text.to_str().expect("UTF-8"), "--json", "--pll", "sentence_l2r"];
    let stdout = run(&bheval, "score", "bert", &args).done().stdout;
    let object: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(object["pll"], "sentence_l2r");
    assert!(object["log_prob"].as_f64().is_some_and(|l| l < 0.0));
}

#[test]
fn results_and_tables_name_the_reading() {
    let bheval = Bheval::new();
    let ran = eval(&bheval, "bert", "run", &["--tasks", "demo", "--limit", "3"]).done();
    assert!(ran.stdout.contains("pseudo-log-likelihood read by within_word_l2r"), "{}", ran.stdout);
    let results = json(&bheval.path("run/results.json"));
    assert_eq!(results["plan"]["identity"]["pll"], "within_word_l2r");
    assert_eq!(results["results"]["demo_pairs"]["pll"], "within_word_l2r");
    let other = ["--tasks", "demo", "--limit", "3", "--pll", "original"];
    eval(&bheval, "bert", "run", &other)
        .refused(2, &["the reading: within_word_l2r there, original asked for"]);
}

#[test]
fn batches_and_threads_change_no_byte() {
    let bheval = Bheval::new();
    let tasks = ["--tasks", "blimp,demo", "--limit", "2"];
    for name in ["bert", "roberta"] {
        let run = |folder: &str, more: &[&str]| {
            let folder = format!("{name}-{folder}");
            eval(&bheval, name, &folder, &[&tasks[..], more].concat()).done();
            ["blimp", "demo_pairs", "demo_scenes"]
                .map(|task| bheval.read(&format!("{folder}/items/{task}.csv")))
        };
        let reference = run("auto", &[]);
        let singly = ["--batch-size", "1", "--threads", "1"];
        let little = ["--memory", "8M", "--threads", "2"];
        for (folder, more) in [("singly", singly), ("little", little)] {
            assert!(run(folder, &more) == reference, "{name} {folder}");
        }
    }
}

#[test]
fn a_broken_run_goes_on_to_the_same_bytes() {
    let bheval = Bheval::new();
    let args = ["--tasks", "demo", "--limit", "5"];
    eval(&bheval, "roberta", "run", &args).done();
    let results = bheval.read("run/results.json");
    let records = bheval.read("run/records.jsonl");
    std::fs::write(bheval.path("run/records.jsonl"), &records[..records.len() / 2]).expect("written");
    eval(&bheval, "roberta", "run", &args).done();
    assert!(bheval.read("run/results.json") == results);
}

#[test]
fn inspect_shows_the_copies_and_the_protocols_that_do_not_go() {
    let bheval = Bheval::new();
    let ran = run(&bheval, "inspect", "bert", &["Susan slept."]).done();
    for part in [
        "bert (masked)",
        "MASK       [MASK] (4), by tokenizer_config.json",
        "protocol bheval, read by within_word_l2r",
        "[CLS] s [MASK]< [MASK] s ##le ##p ##t . [SEP]  [##us]",
        "protocol babylm2025, read by original",
        "protocol lm-eval\n  not for this model",
    ] {
        assert!(ran.stdout.contains(part), "`{part}` is not in: {}", ran.stdout);
    }
    let one = ["--protocol", "babylm2025", "--pll", "mntp", "--json", "Susan slept."];
    let stdout = run(&bheval, "inspect", "bert", &one).done().stdout;
    let object: Value = serde_json::from_str(&stdout).expect("JSON");
    let protocol = &object["protocols"][0];
    assert_eq!(protocol["pll"], "mntp");
    assert_eq!(
        protocol["sentences"][0]["copies"][0],
        serde_json::json!({"target": 1, "hidden": [1, 2], "read": 0})
    );
    run(&bheval, "inspect", "bert", &["--protocol", "lm-eval"]).refused(2, &["causal models only"]);
}

#[test]
fn what_would_be_another_quantity_is_refused() {
    let bheval = Bheval::new();
    let refused = |more: &[&str], parts: &[&str]| {
        eval(&bheval, "bert", "run", &[&["--tasks", "demo"], more].concat()).refused(2, parts);
    };
    refused(&["--protocol", "babylm2024"], &["bert is a masked model", "wrong order"]);
    refused(&["--protocol", "lm-eval"], &["causal models only"]);
    refused(&["--protocol", "babylm2025", "--pll", "sentence_l2r"], &["original or mntp"]);
    refused(&["--pll", "answer_l2r+word_l2r"], &["demo_pairs/", "which words are the answer"]);
    assert!(!bheval.path("run").exists());
    let text = bheval.write("text", "The [MASK] barks.\nDogs bark.\n");
    let ran = run(&bheval, "score", "bert", &[text.to_str().expect("UTF-8")]);
    ran.refused(1, &["line 1", "[MASK]"]);
    assert!(ran.stdout.contains("1,5,99,##ar"), "{}", ran.stdout);
}

#[test]
fn an_unknown_reading_lists_the_known_ones() {
    let bheval = Bheval::new();
    let known = "original, within_word_l2r, sentence_l2r, answer_l2r+word_l2r, mntp";
    eval(&bheval, "bert", "run", &["--tasks", "demo", "--pll", "word"]).refused(2, &["`word`", known]);
}
