//! The model card: what a model is, what it was made of and how, and what it scored, as Hugging Face shows it.

mod front;
mod tables;

use bheval_corpus::record::Record;
use serde_json::{Map, Value};

use crate::checkpoint::State;
use crate::export::{Measured, StoredAs};
use crate::scores::Score;

/// What whoever exports knows, and the run does not.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The model's name.
    pub name: String,
    /// The model's licence, as Hugging Face spells it: `apache-2.0`.
    pub license: Option<String>,
    /// Languages, as ISO 639 codes.
    pub languages: Vec<String>,
    /// Data sets on the hub.
    pub datasets: Vec<String>,
    /// More tags.
    pub tags: Vec<String>,
    /// The command that exported it.
    pub command: String,
}

/// All that a card tells of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Card<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) config: &'a Map<String, Value>,
    /// The resolved plan.
    pub(crate) plan: &'a Value,
    /// The plan as TOML.
    pub(crate) recipe: &'a str,
    pub(crate) state: &'a State,
    /// Of the corpus, where it is at hand.
    pub(crate) record: Option<&'a Record>,
    pub(crate) scores: &'a [Score],
    pub(crate) parameters: u64,
    pub(crate) stored: StoredAs,
    pub(crate) weights_sha256: &'a str,
    /// The checkpoint's and the export's word on dev text.
    pub(crate) measured: Option<(Measured, Measured)>,
}

impl Card<'_> {
    fn architecture(&self) -> &str {
        self.config.get("model_type").and_then(Value::as_str).unwrap_or("unknown")
    }

    fn corpus_sha256(&self) -> &str {
        self.plan["data"]["corpus_sha256"].as_str().unwrap_or("unknown")
    }
}

/// The card as Markdown.
pub(crate) fn card(card: &Card<'_>) -> String {
    let sections = [
        format!("# {}\n\n{}", card.facts.name, summary(card)),
        format!("## Use\n\n{}", usage(card)),
        format!("## Intended use and limits\n\n{}", limits(card)),
        format!("## Data\n\n{}", data(card)),
        format!("## Recipe\n\n{}", recipe(card)),
        format!("## Scores\n\n{}", scores(card)),
        format!("## Weights\n\n{}", weights(card)),
    ];
    format!("{}\n{}\n", front::matter(card), sections.join("\n\n"))
}

fn summary(card: &Card<'_>) -> String {
    let Card { state, plan, .. } = card;
    let start = match plan["train"]["initialise"]["sha256"].as_str() {
        Some(sha256) => format!("from the weights with SHA-256 `{sha256}`"),
        None => "from scratch".to_owned(),
    };
    let taught = match plan["distill"]["teachers"].as_array() {
        Some(teachers) => format!(", with {} as teachers (see Recipe)", joined(teachers)),
        None => String::new(),
    };
    format!(
        "A causal language model of architecture `{}` with {} parameters, trained {start}{taught} for {} steps: {} words and {} \
         tokens were seen, repetitions included.",
        card.architecture(),
        grouped(card.parameters),
        grouped(state.step),
        grouped(state.words_seen),
        grouped(state.tokens_seen)
    )
}

fn joined(values: &[Value]) -> String {
    let text: Vec<String> = values.iter().map(|v| format!("`{}`", v.as_str().unwrap_or_default())).collect();
    text.join(", ")
}

fn usage(card: &Card<'_>) -> String {
    let own = "```sh\nbheval --model DIR --tasks blimp\nbheval score --model DIR sentences.txt\n```";
    let python = match card.architecture() {
        "lstm_lm" => {
            return format!(
                "{own}\n\ntransformers has no class for this architecture: its tensors are those of `torch.nn.LSTM` between \
                 `embedding` and `decoder`."
            );
        }
        "hgrn2" => "import fla  # pip install flash-linear-attention: it has the architecture\n",
        _ => "",
    };
    format!(
        "```python\n{python}from transformers import AutoModelForCausalLM, AutoTokenizer\n\ntokenizer = \
         AutoTokenizer.from_pretrained(\"DIR\")\nmodel = AutoModelForCausalLM.from_pretrained(\"DIR\")\n```\n\n{own}"
    )
}

fn limits(card: &Card<'_>) -> String {
    let languages = match card.facts.languages.as_slice() {
        [] => "the languages of its data".to_owned(),
        codes => codes.join(", "),
    };
    format!(
        "For research on small language models: comparing architectures, data and training recipes, and scoring sentences. It \
         is a base model that predicts the next token; it follows no instructions, knows little, was not made safe, and repeats \
         what is wrong or offensive in its data. What it generates should not be relied on. It reads {languages}; it was \
         trained on windows of {} tokens{}.",
        card.plan["data"]["sequence_length"],
        match card
            .config
            .get("max_position_embeddings")
            .or(card.config.get("n_positions"))
            .and_then(Value::as_u64)
        {
            Some(most) if !RECURRENT.contains(&card.architecture()) => format!(" and reads {most} at most"),
            _ => String::new(),
        }
    )
}

/// Architectures for which `max_position_embeddings` is no limit.
const RECURRENT: [&str; 5] = ["hgrn2", "lstm_lm", "mamba", "mamba2", "xlstm"];

fn data(card: &Card<'_>) -> String {
    let Some(record) = card.record else {
        return format!(
            "The corpus was not at hand when this card was written. SHA-256 of its record, which names the digests of all its \
             files: `{}`.",
            card.corpus_sha256()
        );
    };
    let mut text = format!(
        "Corpus built by {} (mixture `{}`, seed {}); SHA-256 of its record `{}`.",
        record.program,
        record.mixture.name,
        record.seed,
        card.corpus_sha256()
    );
    text += &format!(
        " Tokenizer of {} entries, SHA-256 of tokenizer.json `{}`.\n\n",
        grouped(record.tokenizer.vocab.into()),
        record.tokenizer.json_sha256
    );
    text += &tables::domains(record);
    if !record.sources.is_empty() {
        text += &format!("\n\n{}", tables::sources(record));
    }
    if !record.rules.is_empty() {
        let rules: Vec<String> = record.rules.iter().map(|rule| format!("- {rule}")).collect();
        text += &format!("\n\n{}", rules.join("\n"));
    }
    text
}

fn recipe(card: &Card<'_>) -> String {
    let corpus = card.plan["data"]["corpus"].as_str().unwrap_or("CORPUS");
    let preset = card.plan["preset"]
        .as_str()
        .map_or(String::new(), |name| format!(" It is based on the preset `{name}`."));
    format!(
        "The plan below is `training_plan.toml` beside this card.{preset} Trained by {} ({}), exported by {}:\n\n```sh\nbheval \
         train training_plan.toml --corpus {corpus} -o RUN\n{}\n```\n\n```toml\n{}```",
        card.state.program,
        card.state.arithmetic,
        crate::export::PROGRAM,
        card.facts.command,
        card.recipe
    )
}

fn scores(card: &Card<'_>) -> String {
    let mut text = match card.state.dev.iter().rev().find(|dev| dev.step == card.state.step) {
        Some(dev) => format!(
            "Dev perplexity {:.3} (loss {:.4} nats a token) at this step, by this model's own tokens: it compares with models of \
             the same tokenizer only.",
            dev.loss.exp(),
            dev.loss
        ),
        None => "No dev loss was measured at this step.".to_owned(),
    };
    if card.scores.is_empty() {
        return text + "\n\nNo tasks were run at this step.";
    }
    text += &format!("\n\nZero-shot, in percent, by bheval's own protocol{}:\n\n", limited(card));
    text + &tables::scores(card.scores)
}

fn limited(card: &Card<'_>) -> String {
    match card.plan["evaluate"]["limit"].as_u64() {
        Some(limit) => format!(" on the first {limit} items of each subset only"),
        None => String::new(),
    }
}

fn weights(card: &Card<'_>) -> String {
    let form = match card.stored {
        StoredAs::F32 => "f32, as they were trained",
        StoredAs::Bf16 => "bf16, rounded from f32 to the nearest, ties to even",
    };
    let effect = match (card.stored, card.measured) {
        (_, None) => "There was no dev text at hand to score with them.".to_owned(),
        (StoredAs::F32, Some((_, after))) => format!(
            "They read back: loss {:.6} on the first {} tokens of the dev text, as the checkpoint's.",
            after.loss,
            grouped(after.targets)
        ),
        (StoredAs::Bf16, Some((before, after))) => format!(
            "What that does to scores: on the first {} tokens of the dev text the loss is {:.6} in place of {:.6} nats a token \
             (perplexity {:.4} in place of {:.4}).",
            grouped(after.targets),
            after.loss,
            before.loss,
            after.loss.exp(),
            before.loss.exp()
        ),
    };
    format!("`model.safetensors`: {form}; SHA-256 `{}`. {effect}", card.weights_sha256)
}

/// A whole number with its digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
