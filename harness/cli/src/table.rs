//! Results as tables for people.

use bheval_eval::{Average, Plan, Summary, TaskSummary};
use bheval_stats::Interval;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::console::grouped;

/// The report of a run.
pub(crate) fn report(plan: &Plan, summary: &Summary, full: bool) -> String {
    let mut text = headline(summary) + &reading(plan);
    for task in &summary.tasks {
        for (average, metric) in task.averages.iter().zip(0..) {
            text += &by_tag(task, average);
            if full {
                text += &by_subset(task, metric);
            }
        }
    }
    text
}

fn headline(summary: &Summary) -> String {
    let mut table = table(
        &[
            "task",
            "score",
            "95% over items",
            "95% over subsets",
            "micro",
            "ties",
            "items",
            "subsets",
            "chance",
        ],
        1..9,
    );
    for task in &summary.tasks {
        for average in &task.averages {
            table.add_row([
                row_name(task, average),
                percent(average.macro_mean),
                interval(average.over_items),
                interval(average.over_subsets),
                percent(average.micro_mean),
                grouped(average.ties as u64),
                grouped(task.items as u64),
                count(task.subsets.len(), task.info.subset_noun),
                percent(Some(task.info.chance)),
            ]);
        }
    }
    let note = "score: mean over subsets, each with the same weight (macro), in %; micro: mean over items\n";
    format!("{table}\n{note}{}", legend(summary))
}

/// How a masked model was read.
fn reading(plan: &Plan) -> String {
    let Some(pll) = &plan.identity.pll else { return String::new() };
    format!(
        "masked model, pseudo-log-likelihood read by {pll}: compares with numbers of the same reading only\n"
    )
}

fn row_name(task: &TaskSummary, average: &Average) -> String {
    let part = match (task.whole, task.limit) {
        (false, None) => " (part)".to_owned(),
        (false, Some(limit)) => format!(" (part, first {limit})"),
        (true, Some(limit)) => format!(" (first {limit})"),
        (true, None) => String::new(),
    };
    let metric = match average.name {
        "acc" if task.averages.len() > 1 => ", targets",
        "acc_contexts" => ", contexts",
        _ => "",
    };
    format!("{}{part}{metric}", task.info.name)
}

/// `1 domain`, `11 domains`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

/// What two comparisons of one task mean.
fn legend(summary: &Summary) -> String {
    let several = summary.tasks.iter().find(|t| t.averages.len() > 1);
    let Some(task) = several else { return String::new() };
    let line = |a: &Average| {
        let name = if a.name == "acc" { "targets" } else { "contexts" };
        format!("{name}: {}\n", a.label)
    };
    task.averages.iter().map(line).collect()
}

fn by_tag(task: &TaskSummary, average: &Average) -> String {
    let mut text = String::new();
    for kind in ["field", "term"] {
        let own: Vec<_> = average.by_tag.iter().filter(|(k, ..)| *k == kind).collect();
        if own.is_empty() {
            continue;
        }
        let subsets = format!("{}s", task.info.subset_noun);
        let mut table = table(&[&format!("{} by {kind}", task.info.name), "score", &subsets], 1..3);
        for (_, value, count, mean) in own {
            table.add_row([value.clone(), percent(*mean), count.to_string()]);
        }
        text += &format!("\n{table}\n");
    }
    text
}

fn by_subset(task: &TaskSummary, metric: usize) -> String {
    let name = row_name(task, &task.averages[metric]);
    let mut table = table(
        &[&format!("{name} by {}", task.info.subset_noun), "score", "95% over items", "ties", "items"],
        1..5,
    );
    for subset in &task.subsets {
        let own = &subset.metrics[metric];
        table.add_row([
            subset.name.clone(),
            percent(own.score),
            interval(own.interval),
            grouped(own.ties as u64),
            grouped(subset.items as u64),
        ]);
    }
    format!("\n{table}\n")
}

/// A table; the columns of `numbers` are aligned to the right.
pub(crate) fn table(header: &[&str], numbers: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(numbers.start).take(numbers.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn percent(share: Option<f64>) -> String {
    share.map_or("failed".to_owned(), |s| format!("{:.2}", 100.0 * s))
}

fn interval(interval: Option<Interval>) -> String {
    interval.map_or("-".to_owned(), |i| format!("{:.2} to {:.2}", 100.0 * i.low, 100.0 * i.high))
}
