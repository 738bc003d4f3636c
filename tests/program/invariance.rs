//! Scores depend on the sentence alone.

use crate::kit::{Bheval, table};

const TASKS: [&str; 4] = ["--tasks", "blimp,ewok,demo", "--limit", "12"];

#[test]
fn batch_size_and_threads_change_no_bit() {
    let bheval = Bheval::new();
    let run = |name: &str, more: &[&str]| {
        bheval.eval(name, &[&TASKS[..], more].concat()).done();
        let items = ["blimp", "ewok", "demo_pairs"].map(|t| bheval.read(&format!("{name}/items/{t}.csv")));
        (bheval.read(&format!("{name}/results.json")), items)
    };
    let reference = run("auto", &["--threads", "2"]);
    for (name, more) in [
        ("one-thread", ["--threads", "1", "--batch-size", "auto"]),
        ("batch-1", ["--threads", "2", "--batch-size", "1"]),
        ("batch-7", ["--threads", "1", "--batch-size", "7"]),
        ("batch-64", ["--threads", "2", "--batch-size", "64"]),
    ] {
        assert!(run(name, &more) == reference, "{name} gives other bytes");
    }
}

#[test]
fn the_flat_route_gives_the_same_numbers() {
    let bheval = Bheval::new();
    bheval.eval("forest", &TASKS).done();
    bheval.eval("flat", &[&TASKS[..], &["--route", "flat"]].concat()).done();
    let mut largest = 0.0_f64;
    for task in ["blimp", "ewok", "demo_pairs", "demo_scenes"] {
        let forest = table(&bheval.read(&format!("forest/items/{task}.csv")));
        let flat = table(&bheval.read(&format!("flat/items/{task}.csv")));
        assert_eq!(forest.len(), flat.len());
        for (id, row) in &forest {
            for (column, value) in row.iter().filter(|(column, _)| column.starts_with("log_prob")) {
                let other: f64 = flat[id][column].parse().expect("a number");
                largest = largest.max((value.parse::<f64>().expect("a number") - other).abs());
            }
        }
    }
    assert!(largest <= 1e-5, "{largest}");
}
