//! What is learnt, and that it is what was planned.

use std::path::Path;

use bheval_train::checkpoint::{State, verify};
use bheval_train::estimate::{burst, estimate};
use bheval_train::learner::Learner;
use bheval_train::scores::{Examiner, Score};
use bheval_train::trainer::Ending;

use crate::bigram::Bigram;
use crate::kit::{Bench, Run, names, steps};

const PLAN: &str = r#"
    data.sequence_length = 8
    optimizer.learning_rate = 0.1
    train = {batch = 6, micro_batch = 6, epochs = 4, seed = 3}
    evaluate.every_steps = 40
"#;

fn no_dropout(learner: &mut Bigram) {
    learner.dropout = 0.0;
}

/// Each token is one of three, alike, given the one before; but for an end in every 20, and the start after it. The bigram's
/// floor is the entropy: 19/20 of the targets have ln 3, and it can't know when the end comes (about 0.2 nats each token).
#[test]
fn a_bigram_learns_the_text_down_to_its_entropy() {
    let bench = Bench::of(8001, 2001);
    let plan = bench.plan(PLAN);
    let run = Run { prepare: &no_dropout, ..Run::new(&plan, "run") };
    let (finished, told, _) = bench.done(run);
    assert!((told.losses[0] - 12_f64.ln()).abs() < 0.05, "{}", told.losses[0]);
    let last = finished.state.dev.last().expect("a dev loss").loss;
    // H = 0.05 * ln 20 + 0.95 * ln(20 / 19) + 0.95 * ln 3 + what follows an end (ln 3 too, in its own row).
    let entropy = 0.05 * 20_f64.ln() + 0.95 * (20.0_f64 / 19.0).ln() + 0.95 * 3_f64.ln();
    assert!((last - entropy).abs() < 0.06, "{last} is not near {entropy}");
}

#[test]
fn the_micro_batch_changes_the_last_digits_only() {
    let bench = Bench::new();
    let weights = |micro: usize| {
        let plan = bench.plan(&PLAN.replace("micro_batch = 6", &format!("micro_batch = {micro}")));
        let folder = format!("micro-{micro}");
        let run = Run { prepare: &no_dropout, ..Run::new(&plan, &folder) };
        bench.done(run).2.weights()
    };
    let whole = weights(6);
    for micro in [1, 4, 5] {
        let parts = weights(micro);
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let apart =
            norm(&mut whole.iter().zip(&parts).map(|(a, b)| a - b)) / norm(&mut whole.iter().copied());
        assert!(apart < 1e-5, "micro-batch {micro}: {apart}");
    }
}

#[test]
fn a_checkpoint_is_a_model_and_its_state() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    let (finished, _, mut learner) = bench.done(Run::new(&plan, "run"));
    let checkpoint = finished.checkpoint.expect("a checkpoint");
    let expected = [
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "special_tokens_map.json",
        "state.json",
        "tokenizer.json",
    ];
    assert_eq!(names(&checkpoint), expected);
    assert_eq!(
        names(&bench.path("run/model")),
        ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json"]
    );
    let state: State = verify(&checkpoint).expect("whole");
    // 1601 tokens are 200 windows of 8; 4 epochs of them in batches of 6 are 134 steps.
    assert_eq!((state.step, state.epoch, state.cursor), (134, 4, 0));
    assert_eq!(state.tokens_seen, 4 * 200 * 8);
    // 1600 inputs are 80 documents of 20 tokens and 15 words.
    assert_eq!(state.words_seen, 4 * 80 * 15);
    // The crate that defines the format reads what was written.
    for (file, tensor, kept) in [
        ("model.safetensors", "table.weight", bheval_train::learner::Kept::Weight),
        ("optimizer.safetensors", "second_moment/table.weight", bheval_train::learner::Kept::SecondMoment),
    ] {
        let bytes = std::fs::read(checkpoint.join(file)).expect("read");
        let stored = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let found = stored.tensor(tensor).expect("the tensor");
        let mut values = vec![0.0; 144];
        learner.read(0, kept, &mut values).expect("read");
        let expected: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!((found.shape(), found.data()), (&[12, 12][..], &expected[..]));
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(checkpoint.join("config.json")).expect("read")).expect("JSON");
    assert_eq!((&config["vocab_size"], &config["eos_token_id"]), (&12.into(), &0.into()));
}

#[test]
fn checkpoints_stay_by_the_rule() {
    let bench = Bench::of(1601, 0);
    // 15 words in 20 tokens, 24 tokens a step: 18 words a step, so that a multiple of 100 is passed at steps 6, 12, 17, 23, 28.
    let plan = bench.plan(
        "data.sequence_length = 8\ntrain = {batch = 3, steps = 30}\ncheckpoint = {every_steps = 5, every_words = 100, keep = 2}",
    );
    let (_, told, _) = bench.done(Run::new(&plan, "run"));
    let steps = |names: &[String]| -> Vec<u64> {
        names.iter().filter_map(|n| n.strip_prefix("step-")?.parse().ok()).collect()
    };
    assert_eq!(steps(&told.saved).len(), 11, "{:?}", told.saved);
    let kept = steps(&names(&bench.path("run/checkpoints")));
    assert_eq!(kept, [6, 12, 17, 23, 25, 28, 30]);
    let rest = bench.plan(
        "data.sequence_length = 8\ntrain = {batch = 3, steps = 30}\ncheckpoint = {every_steps = 5, keep = 2}",
    );
    bench.done(Run::new(&rest, "rest"));
    assert_eq!(names(&bench.path("rest/checkpoints")), ["step-00000025", "step-00000030"]);
}

#[test]
fn training_stops_when_the_dev_loss_does_and_the_best_is_the_model() {
    let bench = Bench::new();
    // A huge improvement is asked for, so that only the first evaluation is one.
    let plan = bench.plan(
        "data.sequence_length = 8\ntrain = {batch = 4, steps = 400}\ncheckpoint = {every_steps = 0, keep = 1}\n\
         evaluate = {every_steps = 5, patience = 3, min_improvement = 1000.0}",
    );
    let (finished, told, _) = bench.done(Run::new(&plan, "run"));
    assert_eq!((finished.ending, finished.state.step), (Ending::Early, 20));
    assert_eq!(told.dev.iter().map(|d| d.step).collect::<Vec<_>>(), [5, 10, 15, 20]);
    assert_eq!(finished.model.as_ref().expect("a model").1, 5);
    let weights = |path: &str| std::fs::read(bench.path(path)).expect("weights");
    assert!(
        weights("run/model/model.safetensors") == weights("run/checkpoints/step-00000005/model.safetensors")
    );
    // It stays ended.
    let (again, ..) = bench.done(Run::new(&plan, "run"));
    assert_eq!(again.ending, Ending::Early);
}

#[test]
fn dev_loss_is_that_of_every_dev_token_but_the_first() {
    let bench = Bench::of(801, 45);
    let plan = bench.plan(
        "data.sequence_length = 8\ntrain = {batch = 4, micro_batch = 4, steps = 1}\nevaluate.every_steps = 1",
    );
    let (finished, _, learner) = bench.done(Run::new(&plan, "run"));
    let tokens = bench.corpus.dev().expect("dev").tokens(0..45).expect("tokens");
    // The definition, in f64.
    let (table, bias) = {
        let w = learner.weights();
        (w[..144].to_vec(), w[144..].to_vec())
    };
    let nats = |pair: &[u32]| {
        let logit = |j: usize| f64::from(table[pair[0] as usize * 12 + j]) + f64::from(bias[j]);
        (0..12).map(|j| logit(j).exp()).sum::<f64>().ln() - logit(pair[1] as usize)
    };
    let expected = tokens.windows(2).map(nats).sum::<f64>() / 44.0;
    let found = finished.state.dev[0].loss;
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    // And of the first so many, where the plan says so: whole windows or not.
    let some = bench.plan(
        "data.sequence_length = 8\ntrain = {batch = 4, micro_batch = 4, steps = 1}\nevaluate = {every_steps = 1, tokens = 13}",
    );
    let (finished, ..) = bench.done(Run::new(&some, "some"));
    let expected = tokens[..14].windows(2).map(nats).sum::<f64>() / 13.0;
    assert!((finished.state.dev[0].loss - expected).abs() < 1e-6);
}

#[derive(Default)]
struct Class {
    seen: Vec<u64>,
    fails_at: Option<u64>,
}

impl Examiner for Class {
    fn examine(&mut self, model: &Path, step: u64) -> Result<Vec<Score>, String> {
        assert!(model.join("model.safetensors").is_file() && model.join("tokenizer.json").is_file());
        self.seen.push(step);
        if self.fails_at == Some(step) {
            return Err("the teacher is ill".into());
        }
        Ok(vec![Score { task: "demo".into(), measure: "macro".into(), value: step as f64 / 2.0 }])
    }
}

#[test]
fn tasks_are_run_at_each_checkpoint_and_again_where_a_kill_came_between() {
    let bench = Bench::new();
    let plan = bench.plan("data.sequence_length = 8\ntrain = {batch = 4, steps = 10}\ncheckpoint = {every_steps = 4, keep = \"all\"}");
    let mut class = Class { fails_at: Some(8), ..Class::default() };
    let run = Run { examiner: Some(&mut class), ..Run::new(&plan, "run") };
    let (finished, told, _) = bench.done(run);
    assert_eq!(class.seen, [4, 8, 10]);
    assert_eq!(finished.unexamined, [(8, "the teacher is ill".to_owned())]);
    assert!(
        told.warnings[0].contains("tasks of step 8 could not be run: the teacher is ill"),
        "{:?}",
        told.warnings
    );
    let scores = || std::fs::read_to_string(bench.path("run/scores.csv")).expect("scores");
    // 32 tokens a step are 24 words.
    assert_eq!(scores(), "step,words_seen,task,measure,value\n4,96,demo,macro,2\n10,240,demo,macro,5\n");
    // A kill between the last checkpoint and its tasks.
    std::fs::write(bench.path("run/scores.csv"), scores().replace("10,240,demo,macro,5\n", ""))
        .expect("written");
    let mut class = Class::default();
    let run = Run { examiner: Some(&mut class), ..Run::new(&plan, "run") };
    bench.done(run);
    assert_eq!(class.seen, [10]);
    assert!(scores().ends_with("10,240,demo,macro,5\n"));
}

#[test]
fn training_starts_from_weights_of_another_run() {
    let bench = Bench::new();
    let plan = bench.plan(PLAN);
    bench.done(Run::new(&plan, "first"));
    let from = bench.path("first/model").display().to_string();
    let second = bench.plan(&PLAN.replace("seed = 3", &format!("seed = 4, initialise = '{from}'")));
    let (_, told, _) = bench.done(Run::new(&second, "second"));
    assert!(told.losses[0] < 1.7, "{}", told.losses[0]);
    // It decides the weights, so it is part of the plan.
    let other = bench.plan(&PLAN.replace("seed = 3", "seed = 4"));
    let (error, _) = bench.stopped(Run::new(&other, "second"));
    assert!(error.to_string().contains("train.initialise is "), "{error}");
    // A model of another shape is none to start from.
    let wide = bench.plan(&format!(
        "{}\ndata.vocab_multiple = 16",
        PLAN.replace("seed = 3", &format!("initialise = '{from}'"))
    ));
    let run = Run { prepare: &|learner| *learner = Bigram::new(16, 0), ..Run::new(&wide, "third") };
    let (error, _) = bench.stopped(run);
    assert!(error.to_string().contains("table.weight is [12, 12], and the model's is [16, 16]"), "{error}");
    // Nor is a learner of another vocabulary the one that was planned.
    let (error, _) = bench.stopped(Run::new(&wide, "fourth"));
    assert!(error.to_string().contains("model.vocab_size is 16, but the model has 12 rows"), "{error}");
}

#[test]
fn an_estimate_is_what_then_happens() {
    let bench = Bench::new();
    let plan = bench.plan(
        "data.sequence_length = 8\ntrain = {batch = 6, micro_batch = 4, epochs = 2.5}\ncheckpoint = {every_steps = 9, every_words = 300, keep = 2}",
    );
    let mut learner = bench.learner(&plan);
    let found = estimate(&plan, &bench.corpus, &learner.info(8).expect("known"), learner.tensors())
        .expect("an estimate");
    assert_eq!((found.parameters, found.tensors, found.memory.parameters), (156, 2, 156 * 16));
    assert_eq!((found.windows, found.tokens, found.epochs), (500, 4000, 2.5));
    assert_eq!(found.flops.total, 3.0 * 24.0 * 4000.0);
    let (finished, told, _) = bench.done(Run::new(&plan, "run"));
    assert_eq!(
        (found.steps, found.tokens, found.words),
        (finished.state.step, finished.state.tokens_seen, finished.state.words_seen)
    );
    assert_eq!(found.checkpoints_written, told.saved.len() as u64);
    let kept = names(&bench.path("run/checkpoints")).len() as u64;
    assert!(
        found.checkpoints_kept >= kept && found.checkpoints_kept <= kept + 1,
        "{} {kept}",
        found.checkpoints_kept
    );
    let given = found.clone().at(7200.0).time.expect("a time");
    assert_eq!((given.tokens_per_second, given.seconds), (100.0, 40.0));
    let burst =
        burst(&plan, &bench.corpus, &mut learner, std::time::Duration::from_millis(20)).expect("timed");
    let measured = found.measured(burst, &plan);
    assert!(measured.time.expect("a time").seconds > 0.0);
    assert_eq!(measured.memory.held, Some(156 * 16));
}

#[test]
fn what_is_seen_is_written_by_step() {
    let bench = Bench::new();
    let plan = bench.plan("data.sequence_length = 8\ntrain = {batch = 100, epochs = 1.25}");
    bench.done(Run::new(&plan, "run"));
    let rows = steps(&bench.path("run"));
    assert_eq!(
        rows[0],
        "step,epoch,words_seen,tokens_seen,learning_rate,loss,distillation,gradient_norm,dev_loss"
    );
    // 250 windows in steps of 100: the last has 50, and the end of the first epoch is within none.
    let starts = ["1,0.500000,", "2,1.000000,1200,1600,", "3,1.250000,"];
    assert!(
        rows[1..].iter().zip(starts).all(|(row, start)| row.starts_with(start)) && rows.len() == 4,
        "{rows:?}"
    );
}
