//! What stops a run, and what it leaves.

use bheval_train::Error;
use bheval_train::feed::pass_number;

use crate::kit::{Bench, Run, names};

const PLAN: &str = r#"
    data.sequence_length = 8
    train = {batch = 4, micro_batch = 2, steps = 20, seed = 3}
    checkpoint = {every_steps = 4, keep = "all"}
"#;

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_the_batch_and_keeps_the_last_checkpoint() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    // Micro-batch 1 of step 10: windows 38 and 39 of the first epoch, counted from 0.
    let run =
        Run { prepare: &|learner| learner.poison = Some(pass_number(3, 10, 1)), ..Run::new(&plan, "run") };
    let (error, told) = bench.stopped(run);
    assert!(matches!(error, Error::NotFinite(_)));
    let text = error.to_string();
    for part in [
        "loss is NaN at step 10, micro-batch 1",
        "windows 38 of epoch 0 to 39 of epoch 0",
        "step-00000008",
        "learning_rate",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(told.losses.len(), 9);
    assert_eq!(names(&bench.path("run/checkpoints")), ["step-00000004", "step-00000008"]);
    // A run that does not meet it goes on from there, to the bits of a run that never did.
    let (_, told, learner) = bench.done(Run::new(&plan, "run"));
    assert_eq!(told.started_at, 8);
    let (_, _, whole) = bench.done(Run::new(&plan, "whole"));
    assert!(learner.bits() == whole.bits());
}

#[test]
fn a_gradient_that_is_not_finite_names_the_windows_of_the_step() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    let run = Run { prepare: &|learner| learner.burst = Some(2), ..Run::new(&plan, "run") };
    let (error, _) = bench.stopped(run);
    let text = error.to_string();
    for part in
        ["gradient norm is inf at step 2 (", "windows 4 of epoch 0 to 7 of epoch 0", "no checkpoint yet"]
    {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(names(&bench.path("run/checkpoints")).is_empty());
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_last_one_and_no_half() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    // Two tensors, three things kept of each: the second checkpoint breaks off within its moments.
    let run = Run { prepare: &|learner| learner.reads_left = Some(10), ..Run::new(&plan, "run") };
    let (error, _) = bench.stopped(run);
    let text = error.to_string();
    assert!(text.contains("step 8 could not be written") && text.contains("step-00000004"), "{text}");
    assert_eq!(names(&bench.path("run/checkpoints")), ["step-00000004"]);
    let (_, told, learner) = bench.done(Run::new(&plan, "run"));
    assert_eq!(told.started_at, 4);
    let (_, _, whole) = bench.done(Run::new(&plan, "whole"));
    assert!(learner.bits() == whole.bits());
}

#[test]
fn a_loss_that_stays_above_guessing_is_warned_of() {
    let bench = Bench::new();
    let plan = bench.plan(
        "data.sequence_length = 8\noptimizer = {learning_rate = 100.0, weight_decay = 0.0}\ntrain = {batch = 4, steps = 80}\n\
         schedule.shape = \"constant\"",
    );
    let (_, told, _) = bench.done(Run::new(&plan, "run"));
    assert!(told.losses[10..].iter().all(|loss| *loss > 12_f64.ln() + 0.5), "{:?}", told.losses);
    let [warning] = &told.warnings[..] else { panic!("{:?}", told.warnings) };
    assert!(
        warning.contains("above 2.98 for 50 steps") && warning.contains("optimizer.learning_rate"),
        "{warning}"
    );
}
