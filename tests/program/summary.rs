//! The numbers of `results.json`, recomputed from the items' rows with other code.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kit::{Bheval, json, table};

/// Quantiles from printed tables: z(0.975), t(0.975, 66), t(0.975, 10).
const Z: f64 = 1.959_964;
const T_66: f64 = 1.996_564;
const T_10: f64 = 2.228_139;

type Rows = BTreeMap<String, BTreeMap<String, String>>;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 2e-6, "{found} where {expected} follows from the items");
}

/// Scores of each subset.
fn by_subset(rows: &Rows, column: &str) -> BTreeMap<String, Vec<f64>> {
    let mut subsets: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for row in rows.values() {
        subsets.entry(row["subset"].clone()).or_default().push(row[column].parse().expect("a number"));
    }
    subsets
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample variance over n: the square of the standard error of a mean.
fn squared_error(values: &[f64]) -> f64 {
    let m = mean(values);
    values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (values.len() as f64 - 1.0) / values.len() as f64
}

fn wilson(p: f64, n: f64) -> [f64; 2] {
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [-half, half].map(|h| (p + Z * Z / (2.0 * n) + h) / (1.0 + Z * Z / n))
}

#[track_caller]
fn same_interval(found: &Value, expected: [f64; 2]) {
    near(number(&found[0]), expected[0]);
    near(number(&found[1]), expected[1]);
}

#[test]
fn blimp_follows_from_its_items() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "blimp", "--limit", "25"]).done();
    let results = json(&bheval.path("run/results.json"));
    let rows = table(&bheval.read("run/items/blimp.csv"));
    let subsets = by_subset(&rows, "correct");
    assert_eq!(subsets.len(), 67);
    for (name, scores) in &subsets {
        let entry = &results["results"][format!("blimp_{name}")];
        near(number(&entry["acc"]), mean(scores));
        near(number(&entry["acc_stderr"]), squared_error(scores).sqrt());
        // No ties among these items, so each is a plain trial.
        assert_eq!(entry["ties"], 0);
        same_interval(&entry["acc_ci95"], wilson(mean(scores), 25.0));
    }
    let means: Vec<f64> = subsets.values().map(|s| mean(s)).collect();
    let group = &results["results"]["blimp"];
    near(number(&group["acc"]), mean(&means));
    near(number(&group["acc_micro"]), mean(&subsets.values().flatten().copied().collect::<Vec<_>>()));
    let error = subsets.values().map(|s| squared_error(s)).sum::<f64>().sqrt() / 67.0;
    near(number(&group["acc_stderr"]), error);
    let details = &results["details"]["blimp"]["metrics"]["acc"];
    let half = T_66 * squared_error(&means).sqrt();
    same_interval(&details["95% interval over paradigms"], [mean(&means) - half, mean(&means) + half]);
    // p(1-p)/SE² trials, with the correction n/(n-K) that makes a single subset give its n.
    let (p, n) = (mean(&means), 67.0 * 25.0);
    same_interval(
        &details["95% interval over items"],
        wilson(p, p * (1.0 - p) / (error * error) * n / (n - 67.0)),
    );
}

#[test]
fn fields_and_terms_are_means_over_their_paradigms() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "blimp", "--limit", "10"]).done();
    let results = json(&bheval.path("run/results.json"));
    let subsets = by_subset(&table(&bheval.read("run/items/blimp.csv")), "correct");
    for (kind, column) in [("field", "field"), ("term", "linguistics_term")] {
        let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, scores) in &subsets {
            let path = bheval_tests::data().join("blimp/data").join(format!("{name}.jsonl"));
            let text = std::fs::read_to_string(path).expect("a paradigm");
            let row: Value = serde_json::from_str(text.lines().next().expect("a row")).expect("JSON");
            let value = row[column].as_str().expect("text").replace('/', "_");
            groups.entry(value).or_default().push(mean(scores));
        }
        let key = format!("mean over the paradigms of a {kind}");
        let found = results["details"]["blimp"]["metrics"]["acc"][&key].as_object().expect("groups");
        assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), groups.keys().cloned().collect());
        for (value, means) in &groups {
            near(number(&found[value]), mean(means));
        }
    }
}

#[test]
fn rows_made_from_one_item_are_one_draw() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "ewok_filtered"]).done();
    let results = json(&bheval.path("run/results.json"));
    let rows = table(&bheval.read("run/items/ewok_filtered.csv"));
    let mut squares = 0.0;
    let mut means = Vec::new();
    for (name, scores) in by_subset(&rows, "correct") {
        let m = mean(&scores);
        // The same four texts, the other way round: the same four log-probabilities in the other order.
        let mut sums: BTreeMap<Vec<String>, f64> = BTreeMap::new();
        for row in rows.values().filter(|row| row["subset"] == name) {
            let mut four: Vec<String> = ["t1_c1", "t2_c1", "t1_c2", "t2_c2"]
                .iter()
                .map(|q| row[&format!("log_prob_{q}")].clone())
                .collect();
            four.sort();
            *sums.entry(four).or_default() += row["correct"].parse::<f64>().expect("a number") - m;
        }
        let k = sums.len() as f64;
        let error = (k / (k - 1.0) * sums.values().map(|s| s * s).sum::<f64>()).sqrt() / scores.len() as f64;
        let entry = &results["results"][format!("ewok_filtered_{name}")];
        near(number(&entry["acc_stderr"]), error);
        if error == 0.0 {
            // All items alike: as many trials as there are independent draws, and never an interval without width.
            same_interval(&entry["acc_ci95"], wilson(m, k));
        }
        squares += error * error;
        means.push(m);
    }
    near(number(&results["results"]["ewok_filtered"]["acc_stderr"]), squares.sqrt() / 11.0);
    let half = T_10 * squared_error(&means).sqrt();
    let details = &results["details"]["ewok_filtered"]["metrics"]["acc"];
    same_interval(&details["95% interval over domains"], [mean(&means) - half, mean(&means) + half]);
}
