//! `bheval tasks`: what can be asked.

use bheval_tasks::{Info, all, groups};
use serde_json::json;

use crate::args::TasksArgs;
use crate::console::{Outcome, answer, grouped};
use crate::table::{count, table};

pub(crate) fn run(args: &TasksArgs) -> anyhow::Result<Outcome> {
    let tasks: Vec<&Info> = all().into_iter().map(|t| t.info()).collect();
    let text = if args.json { serde_json::to_string_pretty(&as_json(&tasks))? } else { as_text(&tasks) };
    answer(&text)?;
    Ok(Outcome::Done)
}

fn as_text(tasks: &[&Info]) -> String {
    let mut table = table(&["task", "items", "subsets", "chance", "licence", "source"], 1..4);
    for info in tasks {
        table.add_row([
            info.name.to_owned(),
            grouped(info.items as u64),
            count(info.subsets, info.subset_noun),
            format!("{:.0} %", 100.0 * info.chance),
            info.licence.to_owned(),
            info.source.to_owned(),
        ]);
    }
    let mut text = format!("{table}\n\n");
    for info in tasks {
        text += &format!("{:<17} {}\n", info.name, info.title);
    }
    for (group, members) in groups() {
        text += &format!("{group:<17} = {}\n", members.join(","));
    }
    text + "\nA part of a task: blimp/wh_island, blimp/*island*, blimp/morphology, ewok/agent*\n"
}

fn as_json(tasks: &[&Info]) -> serde_json::Value {
    let tasks: Vec<_> = tasks
        .iter()
        .map(|i| {
            json!({
                "name": i.name, "title": i.title, "version": i.version, "items": i.items, "subsets": i.subsets,
                "subset_noun": i.subset_noun, "chance": i.chance, "licence": i.licence, "source": i.source,
            })
        })
        .collect();
    let groups: serde_json::Map<_, _> = groups().into_iter().map(|(g, m)| (g.to_owned(), json!(m))).collect();
    json!({"tasks": tasks, "groups": groups})
}
