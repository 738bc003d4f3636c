//! `--dry-run`: the resolved plan, and what it will cost.

use std::time::Duration;

use bheval_corpus::Corpus;
use bheval_train::estimate::{Estimate, Source, burst, estimate};
use bheval_train::learner::Learner;
use bheval_train::plan::Plan;
use serde_json::{Value, json};

use super::Start;
use crate::args::TrainArgs;
use crate::console::{Outcome, answer, grouped};
use crate::table::table;

/// How long passes are timed, at most.
const BURST: Duration = Duration::from_secs(5);

/// `cache` is how large the teachers' is, where they have one.
pub(super) fn run(
    args: &TrainArgs,
    plan: &Plan,
    corpus: &Corpus,
    cache: Option<u64>,
) -> anyhow::Result<Outcome> {
    let mut learner = Start::new(args, plan)?.learner()?;
    let info = learner.info(plan.data.sequence_length)?;
    plan.check(&info)?;
    let found = estimate(plan, corpus, &info, learner.tensors())?;
    let found = match args.flops {
        Some(rate) => found.at(rate),
        None => found.measured(burst(plan, corpus, &mut learner, BURST)?, plan),
    };
    let text = if args.json {
        let machine = json!({"threads": info.threads, "device": info.device, "arithmetic": info.arithmetic});
        serde_json::to_string_pretty(
            &json!({"plan": plan, "estimate": found, "machine": machine, "teachers_cache_bytes": cache}),
        )?
    } else {
        format!("{}\n{}", keys(&serde_json::to_value(plan)?), costs(plan, &found, cache))
    };
    answer(&text)?;
    Ok(Outcome::Done)
}

/// A line for each key: `train.batch = 64`.
fn keys(plan: &Value) -> String {
    fn add(name: &str, value: &Value, text: &mut String) {
        match value {
            Value::Null => (),
            Value::Object(inner) => {
                for (key, value) in inner {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    add(&name, value, text);
                }
            }
            other => *text += &format!("{name} = {other}\n"),
        }
    }
    let mut text = String::new();
    add("", plan, &mut text);
    text
}

fn costs(plan: &Plan, found: &Estimate, cache: Option<u64>) -> String {
    let mut rows = table(&["what", "how much"], 1..2);
    let mut row = |what: &str, much: String| {
        rows.add_row([what.to_owned(), much]);
    };
    row("parameters", grouped(found.parameters));
    row("steps", format!("{} of {} windows", grouped(found.steps), grouped(plan.train.batch)));
    row("epochs", format!("{:.2}", found.epochs));
    row("tokens, words", format!("{}, {}", grouped(found.tokens), grouped(found.words)));
    row("memory: weights, gradients, moments", bytes(found.memory.parameters));
    if let Some(held) = found.memory.held {
        row("memory: with the buffers of a pass, measured", bytes(held));
    }
    row("operations a token, forward", scaled(found.flops.forward_per_token));
    row("operations a token, training", scaled(found.flops.training_per_token));
    row("operations in all", scaled(found.flops.total));
    row("checkpoints written, kept", format!("{}, {}", found.checkpoints_written, found.checkpoints_kept));
    row("a checkpoint", bytes(found.checkpoint_bytes));
    row("disk at the most", bytes(found.disk_bytes));
    if let Some(size) = cache {
        row("teachers' cache, beside that", bytes(size));
    }
    if let Some(time) = found.time {
        let how = if time.source == Source::Measured { "measured" } else { "reckoned" };
        row(&format!("tokens a second, {how}"), grouped(time.tokens_per_second as u64));
        row("operations a second", scaled(time.flops_per_second));
        row("time, without dev text, tasks and checkpoints", duration(time.seconds));
    }
    rows.to_string()
}

fn bytes(n: u64) -> String {
    let (value, unit) = unit(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]);
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// In powers of 1000: `1.2 G`.
fn scaled(x: f64) -> String {
    let (value, unit) = unit(x, 1000.0, &["", "k", "M", "G", "T", "P", "E", "Z", "Y"]);
    format!("{value:.2} {unit}").trim_end().to_owned()
}

fn unit<'a>(x: f64, step: f64, units: &[&'a str]) -> (f64, &'a str) {
    let (mut x, mut at) = (x, 0);
    while x >= step && at + 1 < units.len() {
        (x, at) = (x / step, at + 1);
    }
    (x, units[at])
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds:.0} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} days {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_for_people() {
        assert_eq!([999, 2048, 3 << 30].map(bytes), ["999 B", "2.0 KiB", "3.0 GiB"]);
        assert_eq!([0.5, 999.0, 1.5e9, 1.62e17].map(scaled), ["0.50", "999.00", "1.50 G", "162.00 P"]);
        assert_eq!(
            [12.4, 75.0, 7300.0, 180_000.0].map(duration),
            ["12 s", "1 min 15 s", "2 h 1 min", "2 days 2 h"]
        );
    }

    #[test]
    fn a_key_a_line() {
        assert_eq!(keys(&json!({"a": {"b": 1, "c": null}, "d": "x"})), "a.b = 1\nd = \"x\"\n");
    }
}
