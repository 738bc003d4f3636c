//! What published pipelines gave for the golden models, and the backends that are held to it.

use std::path::Path;

use bheval_abi::Backend;
use bheval_candle::TRANSFORMER;
use bheval_data::encode::{Encoder, Query, Request};
use bheval_data::masked::{MaskedEncoder, MaskedRequest, Pll};
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::{Ask, BatchSize, Order, score_all};
use bheval_host::{Dtype, Library, Model, ModelOptions, Route};
use serde_json::Value;

use crate::{data, golden};

/// Backends by the golden model that they open. Whatever stands here is held to every pipeline that ran the model; the naive
/// models of [`crate::reference`] are held to the goldens themselves.
pub static BACKENDS: [(&str, &Backend); 5] = [
    ("llama", &TRANSFORMER),
    ("gpt2", &TRANSFORMER),
    ("opt", &TRANSFORMER),
    ("bert", &TRANSFORMER),
    ("roberta", &TRANSFORMER),
];

/// How far a sum may be from the golden one, in nats.
pub const TOLERANCE: f64 = 2e-4;

/// A golden model in a backend, with its tokenizer.
#[derive(Debug)]
pub struct Peer {
    /// Name of the backend.
    pub backend: String,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Peer {
    /// The golden model in each backend that opens it.
    ///
    /// # Panics
    /// Where there is none, or it does not open.
    #[must_use]
    pub fn all(name: &str) -> Vec<Self> {
        let own = BACKENDS.iter().filter(|(model, _)| *model == name);
        let all: Vec<_> = own.map(|(_, table)| Self::open(table, name)).collect();
        assert!(!all.is_empty(), "no backend for {name}");
        all
    }

    fn open(table: &'static Backend, name: &str) -> Self {
        let folder = golden().join(name);
        let options = ModelOptions { path: folder.clone(), threads: 2, dtype: Dtype::F32, memory: 1 << 28 };
        let library = Library::linked(table).expect("a linked table");
        let model = Model::open(&library, &options).expect("the golden model opens");
        let tokenizer = Tokenizer::load(&folder).expect("the golden tokenizer loads");
        Self { backend: library.name().to_owned(), model, tokenizer }
    }

    /// Requests of queries, for a model that is read left to right.
    ///
    /// # Panics
    /// Where a query has no tokens.
    #[must_use]
    pub fn requests(&self, protocol: Protocol, queries: &[Query]) -> Vec<Request> {
        let encoder = Encoder::new(&self.tokenizer, protocol);
        queries.iter().map(|q| encoder.request(q).expect("every query has tokens")).collect()
    }

    /// Requests of queries, for a masked model.
    ///
    /// # Panics
    /// Where a query has no tokens, or the protocol does not have the reading.
    #[must_use]
    pub fn masked_requests(&self, protocol: Protocol, pll: Pll, queries: &[Query]) -> Vec<MaskedRequest> {
        let pll = Pll::under(protocol, Some(pll)).expect("the protocol has the reading");
        let encoder = MaskedEncoder::new(&self.tokenizer, protocol, pll).expect("a mask token");
        queries.iter().map(|q| encoder.request(q).expect("every query has tokens")).collect()
    }

    /// Log-probabilities of requests.
    ///
    /// # Panics
    /// Where one has none.
    pub fn log_probs<A: Ask>(&mut self, requests: &[A]) -> Vec<f64> {
        let records = score_all(&mut self.model, requests, Order::Sorted, BatchSize::Auto, Route::Forest);
        records.expect("every request has a score").iter().map(|r| r.log_prob).collect()
    }

    /// Log-probabilities of queries, read left to right.
    pub fn causal(&mut self, protocol: Protocol, queries: &[Query]) -> Vec<f64> {
        let requests = self.requests(protocol, queries);
        self.log_probs(&requests)
    }

    /// Pseudo-log-likelihoods of queries.
    pub fn masked(&mut self, protocol: Protocol, pll: Pll, queries: &[Query]) -> Vec<f64> {
        let requests = self.masked_requests(protocol, pll, queries);
        self.log_probs(&requests)
    }
}

/// Compares items with the golden scores, one list an item, and the choices where they are not too close to call. Returns
/// the largest difference.
///
/// # Panics
/// Where something differs.
pub fn same(name: &str, ours: &[f64], golden: &[Vec<f64>]) -> f64 {
    assert_eq!(ours.len(), golden.iter().map(Vec::len).sum::<usize>(), "{name}: number of scores");
    let mut largest = 0.0_f64;
    let mut rest = ours;
    for (item, golden) in golden.iter().enumerate() {
        let (ours, others) = rest.split_at(golden.len());
        rest = others;
        for (a, b) in ours.iter().zip(golden) {
            assert!((a - b).abs() <= TOLERANCE, "{name}, item {item}: {a} where the pipeline has {b}");
            largest = largest.max((a - b).abs());
        }
        if !close(golden) {
            assert_eq!(first_maximum(ours), first_maximum(golden), "{name}, item {item}: choice");
        }
    }
    largest
}

/// Goldens are rounded to five decimals; closer scores may tie there and not here.
fn close(scores: &[f64]) -> bool {
    let best = first_maximum(scores);
    scores.iter().enumerate().any(|(i, s)| i != best && (s - scores[best]).abs() <= 1e-4)
}

fn first_maximum(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// A JSON file.
///
/// # Panics
/// Where it can't be read.
#[must_use]
pub fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The golden scores of a pipeline.
#[must_use]
pub fn protocol_golden(name: &str) -> Value {
    json(&golden().join("protocols").join(name))
}

/// The rows of a JSONL file.
///
/// # Panics
/// Where it can't be read.
#[must_use]
pub fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

/// The rows of one of the files that were made up for the goldens.
#[must_use]
pub fn made_up(path: &str) -> Vec<Value> {
    rows(&golden().join("protocols/made_up_data").join(path))
}

/// A text field.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no {field} in {row}"))
}

/// A list of numbers.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn numbers(list: &Value) -> Vec<f64> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|x| x.as_f64().unwrap_or_else(|| panic!("no number: {x}"))).collect()
}

/// A list of texts.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|x| x.as_str().unwrap_or_else(|| panic!("no text: {x}"))).collect()
}

/// The scores of a BabyLM 2025 golden's items, one list an item.
///
/// # Panics
/// Where it has none.
#[must_use]
pub fn candidates(items: &Value) -> Vec<Vec<f64>> {
    items["scores"].as_array().expect("scores").iter().map(numbers).collect()
}

/// Both sentences of each pair of a file in BLiMP's schema, good and bad in turn.
#[must_use]
pub fn pairs(rows: &[Value]) -> Vec<Query> {
    let both = |row: &Value| [text(row, "sentence_good"), text(row, "sentence_bad")].map(Query::sentence);
    rows.iter().flat_map(both).collect()
}

/// The pairs of a BLiMP paradigm.
#[must_use]
pub fn paradigm(uid: &str) -> Vec<Query> {
    pairs(&rows(&data().join("blimp/data").join(format!("{uid}.jsonl"))))
}

/// The items of a BabyLM 2025 task by UID, each with a query for every candidate, from data that was made up.
///
/// # Panics
/// Where the task is not known.
#[must_use]
pub fn babylm_items(task: &str, uid: &str) -> Vec<Query> {
    match task {
        "supplement" => pairs(&made_up(&format!("supplement/{uid}.jsonl"))),
        "ewok" => ewok(uid, Query::after),
        "ewok_full" => ewok(uid, |context, target| Query::sentence(format!("{context} {target}"))),
        "comps" => made_up(&format!("comps/comps_{uid}.jsonl")).iter().flat_map(comps).collect(),
        "entity_tracking" => made_up("entity_tracking/regular.jsonl")
            .iter()
            .filter(|row| format!("regular_{}_ops", row["numops"]) == uid)
            .flat_map(entity_tracking)
            .collect(),
        "wug_adj" => made_up("wug_adj/wug.jsonl").iter().flat_map(wug).collect(),
        other => panic!("no items of {other}"),
    }
}

/// Both targets after the first context of each row of a domain.
fn ewok(domain: &str, query: impl Fn(&str, &str) -> Query) -> Vec<Query> {
    let rows = made_up("ewok/items.jsonl");
    let own = rows.iter().filter(|row| text(row, "Domain") == domain);
    own.flat_map(|row| ["Target1", "Target2"].map(|t| query(text(row, "Context1"), text(row, t)))).collect()
}

/// The phrase alone is scored, so the blank belongs to what is given.
fn comps(row: &Value) -> [Query; 2] {
    ["prefix_acceptable", "prefix_unacceptable"].map(|prefix| Query {
        context: format!("{} ", text(row, prefix)),
        ..Query::sentence(text(row, "property_phrase"))
    })
}

fn entity_tracking(row: &Value) -> Vec<Query> {
    let query = |option| Query { context: text(row, "input_prefix").to_owned(), ..Query::sentence(option) };
    texts(&row["options"]).into_iter().map(query).collect()
}

fn wug(row: &Value) -> Vec<Query> {
    text(row, "sentences").split('\t').map(Query::sentence).collect()
}

/// A statement of BEAR: a template with its subject and an answer, its first character in upper case.
///
/// # Panics
/// Where the template has no place for them.
#[must_use]
pub fn statement(template: &str, subject: &str, answer: &str) -> Query {
    let (before, after) = template.split_once("[Y]").expect("a place for the answer");
    let fill = |part: &str| part.replace("[X]", subject);
    let start = fill(before).chars().count();
    let filled = format!("{}{answer}{}", fill(before), fill(after));
    let mut rest = filled.chars();
    let first = rest.next().expect("not empty").to_uppercase();
    Query::sentence(first.chain(rest).collect::<String>()).with_answer(start, start + answer.chars().count())
}

/// The rows of an lm-pub-quiz golden: for each the statements of all answers, and their scores.
///
/// # Panics
/// Where the golden does not fit BEAR's own files.
#[must_use]
pub fn bear_rows(golden: &Value) -> Vec<(String, Vec<Query>, Vec<f64>)> {
    let folder = data().join("bear/BEAR");
    let metadata = json(&folder.join("metadata_relations.json"));
    let mut all = Vec::new();
    for (relation, own) in golden["relations"].as_object().expect("relations") {
        let answers = texts(&metadata[relation]["answer_space_labels"]);
        assert_eq!(answers, texts(&own["answer_space"]), "{relation}");
        let templates = texts(&metadata[relation]["templates"]);
        let known = rows(&folder.join(format!("{relation}.jsonl")));
        for row in own["rows"].as_array().expect("rows") {
            let subject = text(row, "sub_label");
            assert!(known.iter().any(|k| k["sub_label"] == subject && k["answer_idx"] == row["answer_idx"]));
            let index = row["template_index"].as_u64().expect("an index") as usize;
            let statements = answers.iter().map(|answer| statement(templates[index], subject, answer));
            let name = format!("{relation}, {}, {subject}", templates[index]);
            all.push((name, statements.collect(), numbers(&row["pll_scores"])));
        }
    }
    all
}
