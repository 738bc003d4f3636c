//! Killed at any step and resumed: the same bits as if nothing had happened.

use std::cell::Cell;
use std::path::Path;

use bheval_train::trainer::Ending;

use crate::kit::{Bench, Run, names, steps};

const PLAN: &str = r#"
    data = {sequence_length = 8, offset = "window"}
    optimizer.learning_rate = 0.05
    schedule = {shape = "cosine", warmup_steps = 5, floor = 0.1}
    train = {batch = 5, micro_batch = 2, epochs = 1.6, seed = 7}
    checkpoint = {every_steps = 7, keep = 3}
    evaluate.every_steps = 10
"#;

/// A kill between two steps leaves what the last checkpoint and the table hold; one within a write leaves a part as well.
fn kill_at(bench: &Bench, folder: &str, step: u64) {
    let plan = bench.plan(PLAN);
    let calls = Cell::new(0);
    // Stopped politely, what a stop saves beyond the schedule is taken away again.
    let run = Run {
        stop: &|| {
            calls.set(calls.get() + 1);
            calls.get() == step
        },
        ..Run::new(&plan, folder)
    };
    let (finished, ..) = bench.done(run);
    assert_eq!((finished.ending, finished.state.step), (Ending::Interrupted, step));
    let checkpoints = bench.path(folder).join("checkpoints");
    if !step.is_multiple_of(7) {
        std::fs::remove_dir_all(checkpoints.join(format!("step-{step:08}"))).expect("removed");
    }
    // What a kill in the middle of a checkpoint and of a row leaves.
    let torn = checkpoints.join(".step-00000099.1.tmp");
    std::fs::create_dir_all(&torn).expect("made");
    std::fs::write(torn.join("model.safetensors"), "half").expect("written");
    let table = bench.path(folder).join("steps.csv");
    let mut text = std::fs::read(&table).expect("read");
    text.extend_from_slice(b"9999,1.0,77");
    std::fs::write(&table, text).expect("written");
}

fn file(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).expect("a file")
}

#[test]
fn ten_kills_end_with_the_same_bits() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    assert_eq!(plan.train.steps, 64);
    let (whole, told, learner) = bench.done(Run::new(&plan, "whole"));
    assert_eq!((whole.ending, told.losses.len()), (Ending::Done, 64));
    // Ten steps by a generator that has nothing to do with the plan's seed.
    let mut state = 2024_u64;
    for kill in 0..10 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let step = 1 + (state >> 33) % 63;
        let folder = format!("killed-{kill}");
        kill_at(&bench, &folder, step);
        let (again, told, resumed) = bench.done(Run::new(&plan, &folder));
        assert_eq!(told.started_at, step / 7 * 7, "killed at {step}");
        assert_eq!(told.losses.len() as u64, 64 - step / 7 * 7);
        assert!(resumed.bits() == learner.bits(), "other weights after a kill at step {step}");
        let (one, two) = (bench.path("whole"), bench.path(&folder));
        for name in ["model/model.safetensors", "checkpoints/step-00000064/optimizer.safetensors"] {
            assert!(file(&one, name) == file(&two, name), "{name} differs after a kill at step {step}");
        }
        assert_eq!(steps(&one), steps(&two), "killed at {step}");
        assert_eq!(again.state.dev, whole.state.dev);
        assert_eq!(names(&two.join("checkpoints")), names(&one.join("checkpoints")));
    }
}

#[test]
fn several_interruptions_of_one_run_add_up_to_it() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    let (_, _, learner) = bench.done(Run::new(&plan, "whole"));
    for round in 0..64 / 9 {
        let calls = Cell::new(0);
        let run = Run {
            stop: &|| {
                calls.set(calls.get() + 1);
                calls.get() == 9
            },
            ..Run::new(&plan, "parts")
        };
        let (finished, ..) = bench.done(run);
        assert_eq!((finished.ending, finished.state.step), (Ending::Interrupted, 9 * (round + 1)));
        assert!(finished.model.is_none() && finished.checkpoint.is_some());
    }
    let (finished, _, last) = bench.done(Run::new(&plan, "parts"));
    assert_eq!(finished.ending, Ending::Done);
    assert!(last.bits() == learner.bits());
    assert_eq!(steps(&bench.path("parts")), steps(&bench.path("whole")));
    // Once more: nothing is left to do, and nothing changes.
    let (again, told, _) = bench.done(Run::new(&plan, "parts"));
    assert_eq!((again.ending, again.steps_done, told.losses.len()), (Ending::Done, 0, 0));
    assert_eq!(
        file(&bench.path("parts"), "model/model.safetensors"),
        file(&bench.path("whole"), "model/model.safetensors")
    );
}

#[test]
fn the_broken_newest_checkpoint_is_told_and_the_one_before_it_used() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    let (_, _, learner) = bench.done(Run::new(&plan, "whole"));
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 5] = [
        ("bit", |folder| {
            let path = folder.join("optimizer.safetensors");
            let mut bytes = std::fs::read(&path).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).expect("written");
        }),
        ("cut", |folder| {
            let path = folder.join("model.safetensors");
            let bytes = std::fs::read(&path).expect("read");
            std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
        }),
        ("gone", |folder| std::fs::remove_file(folder.join("tokenizer.json")).expect("removed")),
        ("stateless", |folder| std::fs::remove_file(folder.join("state.json")).expect("removed")),
        ("state", |folder| {
            let path = folder.join("state.json");
            let text = std::fs::read_to_string(&path).expect("read").replace("\"step\": 64", "\"step\": 63");
            std::fs::write(&path, text).expect("written");
        }),
    ];
    for (name, harm) in damage {
        let run = format!("harmed-{name}");
        bench.done(Run::new(&plan, &run));
        harm(&bench.path(&run).join("checkpoints/step-00000064"));
        let (_, told, resumed) = bench.done(Run::new(&plan, &run));
        assert_eq!(told.started_at, 63, "{name}");
        let warning = told.warnings.first().expect("a warning");
        assert!(warning.contains("damaged") && warning.contains("step-00000064.broken1"), "{warning}");
        assert!(resumed.bits() == learner.bits(), "{name}");
        let left = names(&bench.path(&run).join("checkpoints"));
        assert!(
            left.contains(&"step-00000064.broken1".to_owned()) && left.contains(&"step-00000064".to_owned())
        );
    }
}

#[test]
fn a_run_without_a_whole_checkpoint_is_not_begun_anew_unasked() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    bench.done(Run::new(&plan, "run"));
    let checkpoints = bench.path("run/checkpoints");
    for name in names(&checkpoints) {
        std::fs::write(checkpoints.join(name).join("state.json"), "{}").expect("written");
    }
    let (error, _) = bench.stopped(Run::new(&plan, "run"));
    let text = error.to_string();
    assert!(text.contains("no checkpoint") && text.contains("--fresh"), "{text}");
    let run = Run { fresh: true, ..Run::new(&plan, "run") };
    assert_eq!(bench.done(run).0.steps_done, 64);
}

#[test]
fn a_checkpoint_of_another_plan_is_refused_with_the_keys_that_differ() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    bench.done(Run::new(&plan, "run"));
    let other = bench.plan(&PLAN.replace("0.05", "0.06").replace("micro_batch = 2, ", ""));
    let (error, _) = bench.stopped(Run::new(&other, "run"));
    let text = error.to_string();
    for part in [
        "optimizer.learning_rate is 0.05 there and 0.06 here",
        "train.micro_batch is 2 there and 5 here",
        "--fresh",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!text.contains("seed"), "{text}");
    // A checkpoint that was carried over from another run.
    bench.done(Run::new(&other, "other"));
    let (from, to) =
        (bench.path("run/checkpoints/step-00000064"), bench.path("other/checkpoints/step-00000064"));
    std::fs::remove_dir_all(&to).expect("removed");
    std::fs::rename(from, to).expect("moved");
    let (error, _) = bench.stopped(Run::new(&other, "other"));
    assert!(error.to_string().contains("optimizer.learning_rate is 0.05 there and 0.06 here"), "{error}");
    // When checkpoints are written decides nothing.
    let more = bench.plan(&PLAN.replace("every_steps = 7", "every_steps = 9"));
    assert_eq!(bench.done(Run::new(&more, "again")).0.steps_done, 64);
    assert_eq!(bench.done(Run::new(&plan, "again")).0.steps_done, 0);
}

#[test]
fn two_processes_never_train_in_one_folder() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    let identity = bheval_train::plan::Identity::of(&plan);
    let open = || bheval_train::folder::Folder::open(&bench.path("run"), &plan, &identity, false);
    let first = open().expect("opened");
    assert!(first.locked());
    assert!(open().expect_err("refused").to_string().contains("another bheval trains in"));
    drop(first);
    open().expect("free again");
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("home")).expect("made");
    std::fs::write(bench.path("home/letter.txt"), "dear").expect("written");
    let plan = bench.plan(PLAN);
    let run = Run { fresh: true, ..Run::new(&plan, "home") };
    let (error, _) = bench.stopped(run);
    assert!(error.to_string().contains("holds letter.txt, but no run"), "{error}");
    assert_eq!(names(&bench.path("home")), ["letter.txt"]);
}
