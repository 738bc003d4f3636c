//! Killed at any moment, a run goes on and ends with the same bytes.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::kit::{Bheval, model};

/// Small batches, so that there are many moments to be killed at.
const ARGS: [&str; 6] = ["--tasks", "blimp", "--limit", "40", "--batch-size", "3"];

fn records(bheval: &Bheval) -> usize {
    std::fs::read_to_string(bheval.path("run/records.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn ten_kills_change_no_byte() {
    let bheval = Bheval::new();
    bheval.eval("whole", &ARGS).done();
    let mut stood_at = Vec::new();
    for kill in 0..10 {
        let before = records(&bheval);
        let path = model("hgrn2");
        let mut child = bheval
            .command()
            .args(["--model", path.to_str().expect("UTF-8"), "--run-dir", "run"])
            .args(ARGS)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Wait for some records, so that each life of the run gets a little further, then for an odd moment more.
        while records(&bheval) <= before && child.try_wait().expect("a child").is_none() {
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_micros(700 * (kill * kill * 7 % 31)));
        child.kill().expect("killed");
        child.wait().expect("gone");
        stood_at.push(records(&bheval));
    }
    assert!(!bheval.path("run/results.json").exists(), "the run was over before the last kill: {stood_at:?}");
    assert!(stood_at.windows(2).all(|w| w[0] < w[1]), "the run did not get further each time: {stood_at:?}");
    bheval.eval("run", &ARGS).done();
    for name in ["results.json", "items/blimp.csv", "plan.json"] {
        assert!(
            bheval.read(&format!("run/{name}")) == bheval.read(&format!("whole/{name}")),
            "{name} differs"
        );
    }
}

#[test]
fn a_torn_record_is_scored_again() {
    let bheval = Bheval::new();
    let args = ["--tasks", "demo"];
    bheval.eval("run", &args).done();
    let results = bheval.read("run/results.json");
    let whole = bheval.read("run/records.jsonl");
    std::fs::write(bheval.path("run/records.jsonl"), &whole[..whole.len() / 2]).expect("written");
    std::fs::remove_file(bheval.path("run/results.json")).expect("removed");
    let ran = bheval.eval("run", &args).done();
    assert!(ran.stderr.contains("1 damaged or torn records"), "{}", ran.stderr);
    assert_eq!(bheval.read("run/results.json"), results);
    assert_eq!(bheval.read("run/records.jsonl"), whole);
}

#[test]
fn a_finished_run_is_not_scored_again() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "demo"]).done();
    let ran = bheval.eval("run", &["--tasks", "demo"]).done();
    assert!(ran.stderr.contains("were found scored"), "{}", ran.stderr);
}

#[test]
fn another_run_in_the_same_folder_is_refused_and_fresh_puts_it_aside() {
    let bheval = Bheval::new();
    bheval.eval("run", &["--tasks", "demo_pairs"]).done();
    let other = ["--tasks", "demo_pairs", "--protocol", "lm-eval"];
    bheval
        .eval("run", &other)
        .refused(2, &["the protocol: bheval there, lm-eval asked for", "--run-dir", "--fresh"]);
    bheval.eval("run", &[&other[..], &["--fresh"]].concat()).done();
    assert!(bheval.path("run.old1/results.json").exists());
}

#[test]
fn records_of_another_run_are_never_taken() {
    let bheval = Bheval::new();
    let other = ["--tasks", "demo", "--protocol", "babylm2024"];
    bheval.eval("clean", &other).done();
    for fresh in [&[][..], &["--fresh"]] {
        let _ = std::fs::remove_dir_all(bheval.path("run"));
        bheval.eval("run", &["--tasks", "demo"]).done();
        std::fs::remove_file(bheval.path("run/plan.json")).expect("removed");
        let ran = bheval.eval("run", &[&other[..], fresh].concat()).done();
        assert!(!ran.stderr.contains("found scored"), "{}", ran.stderr);
        assert_eq!(bheval.read("run/results.json"), bheval.read("clean/results.json"));
    }
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let bheval = Bheval::new();
    bheval.eval("whole", &ARGS).done();
    let path = model("hgrn2");
    // A limit on the size of files stands in for a full disk: the write fails in the middle of the run.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} --model {} --run-dir run {}",
        env!("CARGO_BIN_EXE_bheval"),
        path.display(),
        ARGS.join(" ")
    );
    let output = bheval.command();
    let mut shell = std::process::Command::new("bash");
    shell.current_dir(bheval.path("")).args(["-c", &script]);
    for (key, value) in output.get_envs() {
        if let Some(value) = value {
            shell.env(key, value);
        }
    }
    let ran = crate::kit::ran(&shell.output().expect("a shell"));
    ran.refused(1, &["records.jsonl", "what was scored so far is kept"]);
    assert!(records(&bheval) > 100, "{}", records(&bheval));
    bheval.eval("run", &ARGS).done();
    assert!(bheval.read("run/results.json") == bheval.read("whole/results.json"));
}
