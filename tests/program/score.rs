//! Per-token surprisal.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::kit::{Bheval, Ran, json, model, ran};

/// Scores `text` given on stdin.
fn score(bheval: &Bheval, name: &str, text: &[u8], more: &[&str]) -> Ran {
    let path = model(name);
    let mut child = bheval
        .command()
        .args(["score", "-", "--model", path.to_str().expect("UTF-8")])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let text = text.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&text)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    ran(&output)
}

fn rows(text: &str) -> Vec<csv::StringRecord> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().expect("a header");
    assert_eq!(
        header,
        vec!["sentence", "index", "id", "piece", "start", "end", "log_prob", "surprisal_bits"]
    );
    reader.records().map(|r| r.expect("a row")).collect()
}

/// Every golden sentence that fits on a line.
fn sentences(golden: &Value) -> Vec<&Value> {
    let all = golden["sentences"].as_array().expect("sentences");
    let fits = |s: &&Value| s["text"].as_str().is_some_and(|t| !t.contains('\n'));
    let kept: Vec<_> = all.iter().filter(fits).collect();
    assert!(kept.len() >= 31, "only {} of {} fit on a line", kept.len(), all.len());
    kept
}

fn against_golden(name: &str) {
    let bheval = Bheval::new();
    let golden = json(&model(name).join("golden.json"));
    let sentences = sentences(&golden);
    let text: String = sentences.iter().map(|s| format!("{}\n", s["text"].as_str().expect("text"))).collect();
    let scored = rows(&score(&bheval, name, text.as_bytes(), &["--as-encoded"]).done().stdout);
    for (index, sentence) in sentences.iter().enumerate() {
        let own: Vec<_> = scored.iter().filter(|r| r[0] == index.to_string()).collect();
        let column = |i: usize| own.iter().map(|r| r[i].to_owned()).collect::<Vec<_>>();
        let list =
            |v: &Value| v.as_array().expect("a list").iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(column(2), list(&sentence["ids"]), "ids of {sentence}");
        let offsets: Vec<_> = own.iter().map(|r| format!("[{},{}]", &r[4], &r[5])).collect();
        assert_eq!(offsets, list(&sentence["offsets"]), "offsets of {sentence}");
        assert_eq!(&own[0][6], "", "the first token has no score");
        let expected = sentence["logprobs"].as_array().expect("log-probs");
        let mut total = 0.0;
        for (row, expected) in own[1..].iter().zip(expected) {
            let log_prob: f64 = row[6].parse().expect("a number");
            let expected = expected.as_f64().expect("a number");
            assert!((log_prob - expected).abs() <= 5e-5, "{log_prob} where the golden has {expected}");
            let bits: f64 = row[7].parse().expect("a number");
            assert!((bits + log_prob / std::f64::consts::LN_2).abs() < 1e-5);
            total += log_prob;
        }
        assert!((total - sentence["total"].as_f64().expect("a total")).abs() <= 2e-4);
    }
}

#[test]
fn hgrn2_as_encoded_equals_the_golden() {
    against_golden("hgrn2");
}

#[test]
fn hgrn2_with_convolutions_as_encoded_equals_the_golden() {
    against_golden("hgrn2_conv");
}

#[test]
fn jsonl_has_totals_and_says_the_same() {
    let bheval = Bheval::new();
    let text = "The cat sat on the mat.\nDogs bark.\n";
    let csv = rows(&score(&bheval, "hgrn2", text.as_bytes(), &[]).done().stdout);
    let jsonl = score(&bheval, "hgrn2", text.as_bytes(), &["--format", "jsonl"]).done().stdout;
    let objects: Vec<Value> = jsonl.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(objects.len(), 2);
    for object in &objects {
        let sentence = object["sentence"].to_string();
        let own = csv.iter().filter(|r| r[0] == sentence);
        let total: f64 = own.filter_map(|r| r[6].parse::<f64>().ok()).sum();
        assert!((object["log_prob"].as_f64().expect("a total") - total).abs() < 1e-5);
        let bits = object["surprisal_bits"].as_f64().expect("a total");
        assert!((bits + total / std::f64::consts::LN_2).abs() < 1e-4);
    }
    assert_eq!(objects[1]["text"], "Dogs bark.");
}

/// GPT-2's tokenizer puts nothing in front, so that of a single token nothing is known.
#[test]
fn a_sentence_without_a_scored_token_has_no_totals() {
    let bheval = Bheval::new();
    let more = ["--protocol", "babylm2025", "--format", "jsonl"];
    let text = score(&bheval, "gpt2", b"a\nThe cat sat.\n", &more).done().stdout;
    let objects: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let (none, some) = (&objects[0], &objects[1]);
    assert_eq!(none["tokens"].as_array().map(Vec::len), Some(1), "{none}");
    assert_eq!(none["tokens_scored"], 0);
    assert!(none["tokens"][0]["log_prob"].is_null(), "{none}");
    for total in ["log_prob", "surprisal_bits"] {
        assert!(none.get(total) == Some(&Value::Null), "{none}");
        assert!(some[total].as_f64().is_some_and(|total| total != 0.0), "{some}");
    }
}

#[test]
fn offsets_count_characters_and_point_into_the_line_under_every_protocol() {
    let bheval = Bheval::new();
    let text = "Zoë ordered crème brûlée.";
    for protocol in ["bheval", "babylm2024", "babylm2025", "lm-eval"] {
        let scored = rows(&score(&bheval, "hgrn2", text.as_bytes(), &["--protocol", protocol]).done().stdout);
        let length = text.chars().count();
        let ends: Vec<usize> = scored.iter().map(|r| r[5].parse().expect("a number")).collect();
        assert_eq!(ends.iter().max(), Some(&length), "{protocol}");
        let brulee = scored.iter().filter(|r| r[4].parse::<usize>().is_ok_and(|s| s >= 18));
        assert!(brulee.count() > 0, "{protocol}");
    }
}

#[test]
fn a_bad_line_is_reported_and_the_others_are_scored() {
    let bheval = Bheval::new();
    let mut text = b"Dogs bark.\n\n\xff\xfe\n".to_vec();
    text.extend(vec![b'a'; (1 << 20) + 1]);
    text.extend(b"\nDogs bark.\n");
    let ran = score(&bheval, "hgrn2", &text, &[]);
    ran.refused(1, &["line 2", "line 3", "line 4"]);
    let scored = rows(&ran.stdout);
    let of = |s: &str| scored.iter().filter(|r| &r[0] == s).map(|r| r[6].to_owned()).collect::<Vec<_>>();
    assert!(!of("0").is_empty());
    assert_eq!(of("0"), of("4"));
    assert!(of("1").is_empty() && of("2").is_empty() && of("3").is_empty());
}

#[test]
fn a_line_of_a_megabyte_is_scored_or_refused_by_name() {
    let bheval = Bheval::new();
    let mut text = "the cat sat on the mat ".repeat((1 << 20) / 23 - 1).into_bytes();
    text.extend(b"\nDogs bark.\n");
    let ran = score(&bheval, "hgrn2", &text, &["--memory", "64M"]);
    ran.refused(1, &["line 1", "tokens"]);
    assert!(rows(&ran.stdout).iter().all(|r| &r[0] == "1"));
}

#[test]
fn pll_is_refused_for_a_causal_model() {
    let bheval = Bheval::new();
    score(&bheval, "hgrn2", b"Dogs bark.\n", &["--pll", "original"]).refused(2, &["is causal"]);
}

#[test]
fn a_text_of_which_nothing_can_be_scored_still_has_its_rows() {
    let bheval = Bheval::new();
    let model = bheval.copy_of("hgrn2");
    // A tokenizer that adds nothing, under a protocol that adds nothing.
    let mut tokenizer = json(&model.join("tokenizer.json"));
    tokenizer["post_processor"] = Value::Null;
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let text = bheval.write("text", "a\nThe cat\n");
    let args = ["score", text.to_str().expect("UTF-8"), "--model", model.to_str().expect("UTF-8")];
    let ran = bheval.run(&[&args[..], &["--protocol", "babylm2025"]].concat()).done();
    let scored = rows(&ran.stdout);
    let of = |s: &str| scored.iter().filter(|r| &r[0] == s).map(|r| r[6].to_owned()).collect::<Vec<_>>();
    assert_eq!(of("0"), [""]);
    assert!(of("1").len() > 1 && of("1")[0].is_empty() && !of("1")[1].is_empty());
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let bheval = Bheval::new();
    let text = bheval.write("text", "The cat sat on the mat.\n".repeat(20_000));
    let path = model("hgrn2");
    let script = format!(
        "{} score {} --model {} | head -1; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_bheval"),
        text.display(),
        path.display()
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().expect("a shell");
    let ran = ran(&output);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}
