//! The card's tables, in Markdown.

use bheval_corpus::record::Record;

use super::grouped;
use crate::scores::Score;

fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let head = line(columns.iter().map(|c| (*c).to_owned()).collect());
    let rule = line(vec!["---".to_owned(); columns.len()]);
    let rows = rows.map(|cells| line(cells.iter().map(|cell| escaped(cell)).collect()));
    [head, rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// A cell may hold no bar and no end of a line.
fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// What each domain gave to training and to the dev text.
pub(super) fn domains(record: &Record) -> String {
    let columns = ["domain", "licence", "documents", "words", "tokens", "dev words"];
    let rows = record.domains.iter().map(|domain| {
        vec![
            domain.name.clone(),
            domain.licence.clone().unwrap_or_else(|| "not stated".to_owned()),
            grouped(domain.train.documents),
            grouped(domain.train.words),
            grouped(domain.train.tokens),
            grouped(domain.dev.words),
        ]
    });
    let total = &record.train.total;
    let dev = record.dev.as_ref().map_or(0, |dev| dev.total.words);
    let sum =
        ["all", "", &grouped(total.documents), &grouped(total.words), &grouped(total.tokens), &grouped(dev)];
    table(&columns, rows.chain([sum.map(str::to_owned).to_vec()]))
}

/// The files that were read.
pub(super) fn sources(record: &Record) -> String {
    let name = |file: &str| file.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let rows = record.sources.iter().map(|source| {
        let domain = source.domain.clone().unwrap_or_else(|| "by row".to_owned());
        vec![
            name(&source.file),
            domain,
            source.split.clone(),
            grouped(source.words),
            format!("`{}`", source.sha256),
        ]
    });
    table(&["file", "domain", "part", "words", "SHA-256"], rows)
}

/// What tasks gave.
pub(super) fn scores(scores: &[Score]) -> String {
    let rows = scores.iter().map(|s| vec![s.task.clone(), s.measure.clone(), format!("{:.2}", s.value)]);
    table(&["task", "measure", "value"], rows)
}
