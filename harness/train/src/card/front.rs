//! The card's head: YAML that the hub reads.

use serde_json::Value;

use super::Card;
use crate::scores::Score;

/// `---` to `---`.
pub(super) fn matter(card: &Card<'_>) -> String {
    let facts = card.facts;
    let mut lines = vec!["---".to_owned()];
    match &facts.license {
        Some(license) => lines.push(format!("license: {}", quoted(license))),
        // The hub's word for a licence that is not on its list.
        None => lines.extend(["license: other".to_owned(), "license_name: not-stated".to_owned()]),
    }
    lines.extend(list("language", &facts.languages));
    lines.extend(list("datasets", &facts.datasets));
    if card.architecture() != "lstm_lm" {
        lines.push("library_name: transformers".to_owned());
    }
    lines.push("pipeline_tag: text-generation".to_owned());
    let tags = ["bheval", card.architecture()].map(str::to_owned);
    lines.extend(list("tags", &[&tags[..], &facts.tags].concat()));
    lines.extend(list("metrics", &["perplexity".to_owned(), "accuracy".to_owned()]));
    lines.extend(index(card));
    lines.push("---".to_owned());
    lines.join("\n") + "\n"
}

fn list(key: &str, items: &[String]) -> Vec<String> {
    if items.is_empty() {
        return vec![];
    }
    let items = items.iter().map(|item| format!("- {}", quoted(item)));
    [format!("{key}:")].into_iter().chain(items).collect()
}

/// `model-index`: results in the form that the hub makes tables of.
fn index(card: &Card<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut result = |dataset: &str, metric: &str, name: &str, value: f64| {
        lines.extend([
            "  - task:".to_owned(),
            "      type: text-generation".to_owned(),
            "    dataset:".to_owned(),
            format!("      name: {}", quoted(dataset)),
            format!("      type: {}", quoted(&dataset.to_lowercase().replace(' ', "-"))),
            "    metrics:".to_owned(),
            format!("    - type: {metric}"),
            format!("      name: {}", quoted(name)),
            format!("      value: {value}"),
        ]);
    };
    if let Some(dev) = card.state.dev.iter().rev().find(|dev| dev.step == card.state.step) {
        result("dev text", "perplexity", "perplexity by its own tokens", dev.loss.exp());
    }
    for Score { task, measure, value } in card.scores.iter().filter(|score| !score.measure.contains('=')) {
        result(task, "accuracy", measure, *value);
    }
    if lines.is_empty() {
        return lines;
    }
    let head =
        ["model-index:".to_owned(), format!("- name: {}", quoted(&card.facts.name)), "  results:".to_owned()];
    head.into_iter().chain(lines).collect()
}

/// A text as JSON writes it, which YAML reads as the same text, whatever is in it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
