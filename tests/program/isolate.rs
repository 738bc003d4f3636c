//! `--isolate`: a backend that dies takes its worker with it, and nothing else.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bheval_data::encode::Encoder;
use bheval_data::locate::Folders;
use bheval_data::tokenizer::Tokenizer;
use bheval_tasks::select;
use bheval_tests::plugins::compiled;

use crate::kit::{Bheval, Ran, model, ran, table};

const TASK: &str = "demo_pairs";

/// A folder, and in it a backend that goes wrong in the way it is asked to.
struct Crashing {
    bheval: Bheval,
    plugin: PathBuf,
}

impl Crashing {
    fn new() -> Self {
        let bheval = Bheval::new();
        let plugin = compiled(&bheval.path(""), "crashing");
        Self { bheval, plugin }
    }

    fn args(&self, run: &str, more: &[&str]) -> Vec<String> {
        let (model, plugin) = (model("hgrn2"), self.plugin.to_str().expect("UTF-8"));
        let model = model.to_str().expect("UTF-8");
        let args = ["--model", model, "--backend", plugin, "--tasks", TASK, "--run-dir", run];
        args.iter().chain(more).map(ToString::to_string).collect()
    }

    /// Scores the task, with the fault that `fault` names.
    fn eval(&self, run: &str, fault: &str, more: &[&str]) -> Ran {
        let mut command = self.bheval.command();
        ran(&command.env("CRASHING", fault).args(self.args(run, more)).output().expect("the program starts"))
    }

    /// Scores the task without any fault, in one process.
    fn whole(&self) {
        self.eval("whole", "", &[]).done();
    }

    #[track_caller]
    fn same_as_whole(&self, run: &str) {
        for name in ["results.json".to_owned(), "plan.json".to_owned(), format!("items/{TASK}.csv")] {
            let (found, expected) = (format!("{run}/{name}"), format!("whole/{name}"));
            assert!(self.bheval.read(&found) == self.bheval.read(&expected), "{found} differs");
        }
    }
}

/// A token that stands in a few items of the task only, and those items.
fn rare_token() -> (u32, BTreeSet<String>) {
    token_in(2..5)
}

/// A token that stands in so many items of the task, and those items.
fn token_in(count: Range<usize>) -> (u32, BTreeSet<String>) {
    let tokenizer = Tokenizer::load_for(&model("hgrn2"), &model("hgrn2")).expect("a tokenizer");
    let encoder = Encoder::new(&tokenizer, "bheval".parse().expect("a protocol"));
    let folders = Folders::from_env(Some(bheval_tests::data()), true).expect("folders");
    let selected = select(TASK).expect("a task");
    let mut items: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for item in selected[0].task.load(&folders).expect("items").items {
        for query in &item.queries {
            for id in encoder.request(query).expect("a request").ids {
                items.entry(id).or_default().insert(item.id.clone());
            }
        }
    }
    let found = items.into_iter().find(|(_, items)| count.contains(&items.len()));
    found.expect("a token that is as rare in the task")
}

#[test]
fn with_and_without_isolation_the_bytes_are_the_same() {
    let bheval = Bheval::new();
    let tasks = ["--tasks", "demo,blimp", "--limit", "15"];
    bheval.eval("here", &tasks).done();
    let there = bheval.eval("there", &[&tasks[..], &["--isolate"]].concat()).done();
    assert!(!there.stderr.contains("died"), "{}", there.stderr);
    for name in
        ["results.json", "plan.json", "items/blimp.csv", "items/demo_pairs.csv", "items/demo_scenes.csv"]
    {
        let files = ["here", "there"].map(|run| bheval.read(&format!("{run}/{name}")));
        assert!(files[0] == files[1], "{name} differs");
    }
    // Records in the order of their keys' arrival, too.
    assert!(bheval.read("here/records.jsonl") == bheval.read("there/records.jsonl"));
}

#[test]
fn a_run_begun_without_isolation_goes_on_with_it() {
    let crashing = Crashing::new();
    crashing.whole();
    let records = crashing.bheval.read("whole/records.jsonl");
    let half: String = records.split_inclusive('\n').take(records.lines().count() / 2).collect();
    crashing.bheval.write("run/records.jsonl", half);
    crashing.bheval.write("run/plan.json", crashing.bheval.read("whole/plan.json"));
    let ran = crashing.eval("run", "", &["--isolate"]).done();
    assert!(ran.stderr.contains("sentences were found scored"), "{}", ran.stderr);
    crashing.same_as_whole("run");
}

#[test]
fn score_and_inspect_say_the_same_with_isolation() {
    let bheval = Bheval::new();
    let text = bheval.write("text", "The cat sat on the mat.\nWho hasn't Amy's sister called?\n");
    let golden = model("hgrn2");
    let common = ["--model", golden.to_str().expect("UTF-8")];
    for command in [&["score", text.to_str().expect("UTF-8")][..], &["inspect"]] {
        let here = bheval.run(&[command, &common].concat()).done();
        let there = bheval.run(&[command, &common, &["--isolate"]].concat()).done();
        assert_eq!((here.stdout, here.stderr), (there.stdout, there.stderr));
    }
}

#[test]
fn a_crash_costs_the_items_that_cause_it_and_a_mended_backend_scores_them() {
    let crashing = Crashing::new();
    crashing.whole();
    let whole = table(&crashing.bheval.read(&format!("whole/items/{TASK}.csv")));
    let (token, culprits) = rare_token();
    for (kind, how) in
        [("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "ended by itself with exit code 0")]
    {
        let ran = crashing.eval(kind, &format!("{kind} {token}"), &["--isolate"]);
        ran.refused(
            1,
            &[how, "crashing: its worker", "asked to score", "it held", "was started anew", "have no score"],
        );
        if kind == "abort" {
            assert!(ran.stderr.contains(&format!("the last it said: crashing: token {token} is too much")));
        }
        let named: BTreeSet<String> = ran.stderr.lines().filter_map(culprit).collect();
        assert!(!named.is_empty() && named.is_subset(&culprits), "{named:?} of {culprits:?}\n{}", ran.stderr);
        let items = table(&crashing.bheval.read(&format!("{kind}/items/{TASK}.csv")));
        for (id, row) in &whole {
            assert_eq!(&items[id] != row, culprits.contains(id), "{id}: {:?}", items[id]);
        }
        let session = json_line(&crashing.bheval.read(&format!("{kind}/sessions.jsonl")));
        assert!(session["crashes"].as_u64().is_some_and(|n| n > 2), "{session}");
        let records = crashing.bheval.read(&format!("{kind}/records.jsonl"));
        let again = crashing.eval(kind, "", &["--isolate"]).done();
        assert!(again.stderr.contains("sentences were found scored"), "{}", again.stderr);
        assert!(crashing.bheval.read(&format!("{kind}/records.jsonl")).starts_with(&records), "all was kept");
        crashing.same_as_whole(kind);
    }
}

/// More culprits in a row than a backend may have that never scored anything: this one has, in the first run.
#[test]
fn culprits_alone_are_asked_to_the_last_one() {
    let crashing = Crashing::new();
    let (token, culprits) = token_in(45..60);
    let fault = format!("segv {token}");
    for _ in 0..2 {
        let ran = crashing.eval("run", &fault, &["--isolate"]);
        ran.refused(1, &[&format!("{} items have no score", culprits.len())]);
    }
    let sessions = crashing.bheval.read("run/sessions.jsonl");
    assert_eq!(sessions.lines().count(), 2, "both runs came to their end");
    assert!(json_line(&sessions)["crashes"].as_u64().is_some_and(|n| n > 128), "{sessions}");
}

/// The item that an error's line names.
fn culprit(line: &str) -> Option<String> {
    let (item, rest) = line.strip_prefix("error: ")?.split_once(": crashing: its worker ")?;
    rest.contains("score").then(|| item.to_owned())
}

fn json_line(text: &str) -> serde_json::Value {
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn a_crash_that_does_not_come_back_is_a_warning() {
    let crashing = Crashing::new();
    crashing.whole();
    let (token, _) = rare_token();
    let once = crashing.bheval.path("once");
    let ran = crashing.eval("run", &format!("once {token} {}", once.display()), &["--isolate"]).done();
    assert!(ran.stderr.contains("worker died once") && ran.stderr.contains("SIGSEGV"), "{}", ran.stderr);
    crashing.same_as_whole("run");
}

#[test]
fn what_a_backend_prints_to_stdout_is_no_part_of_the_answer() {
    let crashing = Crashing::new();
    crashing.whole();
    let (token, _) = rare_token();
    let ran = crashing.eval("run", &format!("print {token}"), &["--isolate", "--json"]).done();
    assert_eq!(ran.stdout, crashing.bheval.read("run/results.json"));
    assert!(ran.stderr.contains("garbage"), "{}", ran.stderr);
    crashing.same_as_whole("run");
}

#[test]
fn a_crash_while_loading_or_opening_starts_nothing() {
    let crashing = Crashing::new();
    crashing
        .eval("run", "load", &["--isolate"])
        .refused(2, &["crashing.so: its worker was killed by SIGSEGV", "load"]);
    let opening = crashing.eval("run", "open", &["--isolate"]);
    opening.refused(
        2,
        &["crashing: its worker was killed by SIGSEGV", "open the model", "nothing to open here"],
    );
    assert!(!crashing.bheval.path("run").exists(), "nothing was begun, so nothing is left behind");
}

#[test]
fn a_crash_while_closing_changes_nothing() {
    let crashing = Crashing::new();
    crashing.whole();
    crashing.eval("run", "close", &["--isolate"]).done();
    crashing.same_as_whole("run");
}

#[test]
fn a_backend_that_dies_on_everything_ends_the_run_with_a_reason() {
    let crashing = Crashing::new();
    // Token 1 is BOS, which leads every sentence.
    let ran = crashing.eval("run", "segv 1", &["--isolate"]);
    ran.refused(1, &["128 calls in a row ended so", "SIGSEGV", "worker died 128 times"]);
    assert!(!crashing.bheval.path("run/results.json").exists());
    // What it held is named all the same, and the session is logged.
    crashing.whole();
    let items = table(&crashing.bheval.read(&format!("whole/items/{TASK}.csv")));
    let held =
        ran.stderr.lines().find(|l| l.starts_with("warning: crashing: its worker")).expect("a warning");
    let named = held.rsplit_once(" sentences, of ").expect("items are named").1;
    let named: Vec<&str> = named.split(", ").collect();
    let (&last, ids) = named.split_last().expect("a name");
    assert!(last == "others" && ids.len() == 3 && ids.iter().all(|id| items.contains_key(*id)), "{held}");
    let sessions = crashing.bheval.read("run/sessions.jsonl");
    let session = json_line(&sessions);
    assert_eq!((sessions.lines().count(), &session["crashes"]), (1, &128.into()), "{session}");
}

/// The fault comes once, and leaves a file in the model's folder: to a plugin that is another model, which the next worker
/// opens.
#[test]
fn files_that_change_under_a_crash_end_the_run_before_anything_of_theirs_is_kept() {
    let crashing = Crashing::new();
    let (token, culprits) = rare_token();
    let copy = crashing.bheval.copy_of("hgrn2");
    let once = copy.join("once");
    let (copy, plugin) = (copy.to_str().expect("UTF-8"), crashing.plugin.to_str().expect("UTF-8"));
    let eval = |run: &str, fault: &str, more: &[&str]| {
        let mut command = crashing.bheval.command();
        command.args(["--model", copy, "--backend", plugin, "--tasks", TASK, "--run-dir", run]);
        ran(&command.env("CRASHING", fault).args(more).output().expect("starts"))
    };
    eval("whole", "", &[]).done();
    let more = ["--isolate", "--batch-size", "4"];
    let ended = eval("run", &format!("once {token} {}", once.display()), &more);
    ended.refused(1, &["the model's files changed during the run", "--fresh", "SIGSEGV", "worker died once"]);
    let held = ended.stderr.lines().find(|l| l.contains("it held 4 sentences, of ")).unwrap_or_default();
    assert!(culprits.iter().any(|id| held.contains(id)), "{culprits:?}\n{}", ended.stderr);
    assert!(!crashing.bheval.path("run/results.json").exists());
    // Whole batches were kept, up to the one with the crash.
    let kept = crashing.bheval.read("run/records.jsonl");
    let of_whole = crashing.bheval.read("whole/records.jsonl");
    assert!(kept.lines().count().is_multiple_of(4) && of_whole.starts_with(&kept), "{kept}");
    eval("run", "", &more).refused(2, &["run holds another run", "the model: "]);
    std::fs::remove_file(&once).expect("it was there");
    eval("run", "", &more).done();
    crashing.same_as_whole("run");
}

#[test]
fn a_worker_tells_that_its_backend_reads_no_masked_models() {
    let crashing = Crashing::new();
    let launch = bheval_host::Launch::new(env!("CARGO_BIN_EXE_bheval").into(), &["worker"]);
    let source = bheval_host::Source::File { path: crashing.plugin.clone(), pin: None };
    let causal = bheval_host::Library::isolated(&launch, &source).expect("a worker");
    assert!(causal.is_isolated() && !causal.reads_masked());
    let source = bheval_host::Source::Linked("transformer".into());
    assert!(bheval_host::Library::isolated(&launch, &source).expect("a worker").reads_masked());
}

#[test]
fn a_backend_that_leaks_gets_fresh_memory_with_each_worker() {
    let crashing = Crashing::new();
    crashing.whole();
    let args = crashing.args("run", &["--isolate", "--batch-size", "32"]);
    let script = format!("ulimit -v 4000000; exec {} {}", env!("CARGO_BIN_EXE_bheval"), args.join(" "));
    let mut shell = std::process::Command::new("bash");
    shell.current_dir(crashing.bheval.path("")).args(["-c", &script]).env("CRASHING", "leak");
    let ran = ran(&shell.output().expect("a shell")).done();
    assert!(ran.stderr.contains("worker died") && ran.stderr.contains("out of memory"), "{}", ran.stderr);
    crashing.same_as_whole("run");
}

#[test]
fn a_line_that_ends_the_worker_is_reported_and_the_others_are_scored() {
    let crashing = Crashing::new();
    let tokenizer = Tokenizer::load_for(&model("hgrn2"), &model("hgrn2")).expect("a tokenizer");
    let token = tokenizer.ids("zebra").expect("ids").last().copied().expect("an id");
    let lines = ["The cat sat.", "A zebra ran.", "The dog sat."];
    let text = crashing.bheval.write("text", lines.join("\n"));
    let golden = model("hgrn2");
    let (text, golden) = (text.to_str().expect("UTF-8"), golden.to_str().expect("UTF-8"));
    let plugin = crashing.plugin.to_str().expect("UTF-8");
    let args = ["score", text, "--model", golden, "--backend", plugin, "--isolate", "--format", "jsonl"];
    let mut command = crashing.bheval.command();
    let ran = ran(&command.env("CRASHING", format!("segv {token}")).args(args).output().expect("starts"));
    ran.refused(1, &["line 2: crashing: its worker was killed by SIGSEGV", "worker died"]);
    let found: Vec<_> = ran.stdout.lines().map(|l| json_line(l)["text"].clone()).collect();
    assert_eq!(found, [lines[0], lines[2]]);
}

/// Processes started by a process, by their ids.
fn children(of: u32) -> Vec<u32> {
    let parent = |pid: u32| stat(pid)?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
    let entries = std::fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent(pid) == Some(of)).collect()
}

/// The name of a process, and what `/proc` says of it behind the name.
fn stat(pid: u32) -> Option<(String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = text.rsplit_once(')')?;
    Some((name.to_owned(), rest.to_owned()))
}

/// Whether a process runs: it is there, and no mere entry that waits to be collected.
fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits for something that is to come soon.
#[track_caller]
fn soon<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: nothing came of it");
        sleep(Duration::from_millis(2));
    }
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(status.expect("kill is there").success());
}

fn records(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn spawned(command: &mut std::process::Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

#[test]
fn a_worker_that_is_killed_from_outside_costs_no_score() {
    let bheval = Bheval::new();
    let args = ["--tasks", "blimp", "--limit", "40", "--batch-size", "3"];
    bheval.eval("whole", &args).done();
    let path = model("hgrn2");
    let common = ["--model", path.to_str().expect("UTF-8"), "--run-dir", "run", "--isolate"];
    let child = spawned(bheval.command().args(common).args(args));
    for more in [30, 300] {
        soon("records", || (records(&bheval.path("run/records.jsonl")) > more).then_some(()));
        let worker = soon("a worker", || children(child.id()).first().copied());
        kill(worker);
    }
    let ran = ran(&child.wait_with_output().expect("it ends")).done();
    assert!(
        ran.stderr.contains("SIGKILL (from outside") && ran.stderr.contains("worker died 2 times"),
        "{}",
        ran.stderr
    );
    for name in ["results.json", "items/blimp.csv"] {
        assert!(
            bheval.read(&format!("run/{name}")) == bheval.read(&format!("whole/{name}")),
            "{name} differs"
        );
    }
}

#[test]
fn no_worker_outlives_the_harness_even_if_it_hangs() {
    let crashing = Crashing::new();
    // Not SIGINT: a shell that starts the tests in the background has it ignored by all of them.
    for signal in ["-KILL", "-TERM"] {
        let mut command = crashing.bheval.command();
        let mut child = spawned(command.env("CRASHING", "hang 1").args(crashing.args("run", &["--isolate"])));
        // The run's folder is made when the model is open; the first batch follows, and hangs.
        soon("a run", || crashing.bheval.path("run/records.jsonl").exists().then_some(()));
        let worker = soon("a worker", || children(child.id()).first().copied());
        let busy = || stat(worker).and_then(|(_, rest)| rest.split_whitespace().nth(11)?.parse::<u64>().ok());
        let begun = busy();
        soon("work", || (busy() > begun.map(|ticks| ticks + 5)).then_some(()));
        let status = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
        child.wait().expect("gone");
        soon("the worker's end", || (!runs(worker)).then_some(()));
        std::fs::remove_dir_all(crashing.bheval.path("run")).expect("removed");
    }
}

#[test]
fn a_worker_is_not_for_people() {
    let bheval = Bheval::new();
    bheval.run(&["worker"]).refused(2, &["started by bheval itself", "--isolate"]);
    let help = bheval.run(&["--help"]).done().stdout;
    assert!(!help.contains("worker"), "{help}");
    let help = bheval.run(&["eval", "--help"]).done().stdout;
    assert!(help.contains("--isolate"), "{help}");
}

#[test]
fn a_pin_holds_for_an_isolated_backend_too() {
    let crashing = Crashing::new();
    crashing.eval("run", "load", &["--isolate", "--backend-sha256", "00ff"]).refused(2, &["00ff was pinned"]);
    crashing
        .bheval
        .eval("run", &["--tasks", TASK, "--isolate", "--backend-sha256", "00ff"])
        .refused(2, &["`hgrn2` is part of bheval"]);
}
