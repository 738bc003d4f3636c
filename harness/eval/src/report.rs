//! The files of a finished run. They hold nothing that differs from one run of the same plan to the next: no times, no
//! thread counts.

use bheval_stats::Interval;
use bheval_tasks::Loaded;
use serde_json::{Map, Value, json};

use crate::{Average, Error, ItemOutcome, Plan, SubsetSummary, Summary, TaskSummary};

/// `results.json`: a `results` block shaped like lm-eval's, and beside it the plan and the details.
#[must_use]
pub fn results_json(plan: &Plan, summary: &Summary) -> String {
    let mut results = Map::new();
    let mut members = Map::new();
    let mut versions = Map::new();
    let mut samples = Map::new();
    let mut details = Map::new();
    for task in &summary.tasks {
        let group = group_name(task);
        results.insert(group.clone(), group_entry(plan, task));
        let own: Vec<Value> = task.subsets.iter().map(|s| subset_key(task, s).into()).collect();
        members.insert(group.clone(), own.into());
        versions.insert(group.clone(), task.info.version.into());
        samples.insert(
            group.clone(),
            json!({"original": task.available, "effective": task.items - task.failed}),
        );
        details.insert(group, task_details(task));
        for subset in &task.subsets {
            results.insert(subset_key(task, subset), subset_entry(plan, task, subset));
        }
    }
    let whole = json!({
        "plan": plan,
        "results": results,
        "group_subtasks": members,
        "versions": versions,
        "n-samples": samples,
        "details": details,
        "failed_items": summary.failed(),
    });
    let mut text = serde_json::to_string_pretty(&whole).expect("results are plain data and always JSON");
    text.push('\n');
    text
}

/// The task's name, if all of it was asked: a part of a task must not be read as the whole.
fn group_name(task: &TaskSummary) -> String {
    if task.whole { task.info.name.to_owned() } else { format!("{}:part", task.info.name) }
}

fn subset_key(task: &TaskSummary, subset: &SubsetSummary) -> String {
    format!("{}_{}", task.info.name, subset.name)
}

fn group_entry(plan: &Plan, task: &TaskSummary) -> Value {
    let mut entry = named(plan, task.info.name.to_owned());
    for average in &task.averages {
        entry.insert(average.name.into(), json!(average.macro_mean));
        entry.insert(format!("{}_stderr", average.name), json!(average.standard_error));
        entry.insert(format!("{}_micro", average.name), json!(average.micro_mean));
        entry.insert(ties_key(average.name), average.ties.into());
    }
    entry.insert("items".into(), task.items.into());
    if let Some(limit) = task.limit {
        entry.insert("limit".into(), limit.into());
    }
    entry.insert("chance".into(), task.info.chance.into());
    entry.into()
}

/// The head of an entry. Every number of a masked model says how it was read: other readings give other quantities.
fn named(plan: &Plan, alias: String) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("alias".into(), alias.into());
    if let Some(pll) = &plan.identity.pll {
        entry.insert("pll".into(), pll.clone().into());
    }
    entry
}

fn subset_entry(plan: &Plan, task: &TaskSummary, subset: &SubsetSummary) -> Value {
    let mut entry = named(plan, format!(" - {}", subset.name));
    for (average, metric) in task.averages.iter().zip(&subset.metrics) {
        entry.insert(average.name.into(), json!(metric.score));
        entry.insert(format!("{}_stderr", average.name), json!(metric.standard_error));
        entry.insert(format!("{}_ci95", average.name), interval(metric.interval));
        entry.insert(ties_key(average.name), metric.ties.into());
    }
    entry.insert("items".into(), subset.items.into());
    if subset.failed > 0 {
        entry.insert("failed".into(), subset.failed.into());
    }
    entry.into()
}

fn ties_key(metric: &str) -> String {
    metric.replacen("acc", "ties", 1)
}

fn task_details(task: &TaskSummary) -> Value {
    let metrics: Map<String, Value> =
        task.averages.iter().map(|a| (a.name.to_owned(), average_details(task, a))).collect();
    json!({"title": task.info.title, "licence": task.info.licence, "source": task.info.source, "metrics": metrics})
}

fn average_details(task: &TaskSummary, average: &Average) -> Value {
    let mut entry = Map::new();
    entry.insert("compares".into(), average.label.into());
    entry.insert(format!("mean over {}s (macro)", task.info.subset_noun), json!(average.macro_mean));
    entry.insert("mean over items (micro)".into(), json!(average.micro_mean));
    entry.insert("95% interval over items".into(), interval(average.over_items));
    entry.insert(format!("95% interval over {}s", task.info.subset_noun), interval(average.over_subsets));
    for kind in kinds(average) {
        let own = average.by_tag.iter().filter(|(k, ..)| *k == kind);
        let means: Map<String, Value> = own.map(|(_, value, _, mean)| (value.clone(), json!(mean))).collect();
        entry.insert(format!("mean over the {}s of a {kind}", task.info.subset_noun), means.into());
    }
    entry.insert("comparisons".into(), average.comparisons.into());
    entry.insert("ties".into(), average.ties.into());
    entry.into()
}

fn kinds(average: &Average) -> Vec<&'static str> {
    let mut kinds: Vec<_> = average.by_tag.iter().map(|(kind, ..)| *kind).collect();
    kinds.dedup();
    kinds
}

fn interval(interval: Option<Interval>) -> Value {
    interval.map_or(Value::Null, |i| json!([i.low, i.high]))
}

/// `items/TASK.csv`: one row an item, with ids and numbers only, so that protected items stay protected.
///
/// # Errors
/// None in practice: it writes into memory.
pub fn items_csv(task: &Loaded, outcomes: &[ItemOutcome]) -> Result<Vec<u8>, Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::Damaged { path: "items".into(), reason: e.to_string() };
    writer.write_record(header(task)).map_err(failed)?;
    for (item, outcome) in task.items.iter().zip(outcomes) {
        let mut row = vec![item.id.clone(), task.subsets[item.subset].name.clone()];
        row.extend(outcome.records.iter().map(|r| r.map_or(String::new(), |r| r.log_prob.to_string())));
        row.extend(outcome.records.iter().map(|r| r.map_or(String::new(), |r| r.tokens.to_string())));
        row.extend(outcome.judgements.iter().map(|j| j.map_or(String::new(), |j| j.ties.to_string())));
        row.extend(outcome.judgements.iter().map(|j| j.map_or(String::new(), |j| j.score.to_string())));
        writer.write_record(row).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::Damaged { path: "items".into(), reason: e.to_string() })
}

fn header(task: &Loaded) -> Vec<String> {
    let mut header = vec!["id".to_owned(), "subset".to_owned()];
    header.extend(task.labels.iter().map(|l| format!("log_prob_{l}")));
    header.extend(task.labels.iter().map(|l| format!("tokens_{l}")));
    header.extend(task.metrics.iter().map(|m| m.name.replacen("acc", "tie", 1)));
    header.extend(task.metrics.iter().map(|m| m.name.replacen("acc", "correct", 1)));
    header
}
